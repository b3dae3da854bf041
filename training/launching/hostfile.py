"""Flags of the `deepspeed` launcher for several hosts without a scheduler.

HOSTFILE names a file with a line `HOST slots=PROCESSES` per host. With HOSTFILE only, `deepspeed`
starts all hosts by pdsh and ssh. With NODE_RANK (the number of a line, from 0) as well, it starts
the ranks of that host, and the user runs the command on every host. MASTER_ADDR is the address of
the first host, by default its name in the file. Only the standard library is imported here.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

UNASKED = Path("/job/hostfile")  # `deepspeed` reads it by default
ENVIRONMENT_FILE = ".deepspeed_env"  # deepspeed reads it in the home folder and in this one
# Variables for remote ranks. Without a GPU here, deepspeed itself forwards only PYTHON...
FORWARDED = ("OMP_NUM_THREADS", "CLASSIC_RLHF_CACHE", "CLASSIC_RLHF_LAUNCH")
FORWARDED_PREFIXES = ("GLOO_", "NCCL_", "HF_", "TORCH_")
SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD")  # the launcher puts values into command lines
NO_SECRETS = ("HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN")


def read_slots(environment: Mapping[str, str]) -> dict[str, int]:
    """Return the processes per host of HOSTFILE, in its order; {} without a HOSTFILE.

    NUM_GPUS overrides the number on every host. Raises `ValueError` for a file that `deepspeed`
    would ignore, or fail on with a traceback.
    """
    name = environment.get("HOSTFILE", "")
    if not name:
        return {}
    path = Path(name)
    if not path.is_file():  # deepspeed would use this host only
        raise ValueError(f"HOSTFILE={name}: no such file; give one with a line `HOST slots=N` each")
    slots: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        count = words[1].removeprefix("slots=") if len(words) == 2 else ""
        if not count.isdecimal() or int(count) < 1 or not words[1].startswith("slots="):
            raise ValueError(f"{name}:{number}: a line is `HOST slots=N`, got {line.strip()!r}")
        if words[0] in slots:
            raise ValueError(f"{name}:{number}: host {words[0]} is in a line above already")
        slots[words[0]] = int(count)
    if not slots:
        raise ValueError(f"HOSTFILE={name}: no host in it; a line is `HOST slots=N`")
    wanted = int(environment.get("NUM_GPUS") or 0)
    for host in slots:
        if wanted > slots[host]:
            raise ValueError(f"NUM_GPUS={wanted}: {name} gives host {host} slots={slots[host]}")
    return {host: wanted or number for host, number in slots.items()}


def build_launcher_flags(environment: Mapping[str, str], *, is_dry_run: bool = False) -> list[str]:
    """Build flags of `deepspeed` for the hosts of HOSTFILE; `ValueError` if a host cannot be used.

    A dry run starts nothing on other hosts, so none is tried.
    """
    hosts = list(read_slots(environment))
    rank = environment.get("NODE_RANK", "")
    if not hosts:
        if rank not in ("", "0"):  # it would train alone, and overwrite the first host's output
            raise ValueError(
                f"NODE_RANK={rank} but no HOSTFILE: name the file of hosts, or unset NODE_RANK for "
                "this host alone"
            )
        return []
    address = environment.get("MASTER_ADDR") or hosts[0]
    flags = ["--hostfile", environment["HOSTFILE"], "--master_addr", address]
    if not rank:
        if is_dry_run or len(hosts) == 1:
            return flags
        if shutil.which("pdsh") is None:
            raise ValueError(
                "HOSTFILE needs the `pdsh` command to reach the hosts: install it, or run the same "
                f"command on each host with NODE_RANK=0 to {len(hosts) - 1}"
            )
        _check_ssh(hosts)
        return [*flags, "--no_ssh_check"]
    if not rank.isdecimal() or int(rank) >= len(hosts):
        raise ValueError(
            f"NODE_RANK must be 0 to {len(hosts) - 1}, the position of this host in "
            f"{environment['HOSTFILE']}, got {rank!r}"
        )
    return [*flags, "--node_rank", rank, "--no_ssh"]


def _check_ssh(hosts: list[str]) -> None:
    """Try all hosts: `deepspeed` itself tries only the first, and fails with a traceback."""
    # No prompt, no shared connection.
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ControlPath=none"]
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda host: _find_failure([*command, host, "hostname"]), hosts)
    for host, error in zip(hosts, answers, strict=True):
        if error is not None:
            raise ValueError(
                f"host {host} cannot be reached by ssh without a password ({error}): set that up, "
                f"or run the same command on each host with NODE_RANK=0 to {len(hosts) - 1}"
            )


def _find_failure(command: list[str]) -> str | None:
    """Run a command. Return None, or one line that says why it failed."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return lines[-1] if done.returncode else None


def count_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """Return WORLD_SIZE and LOCAL_WORLD_SIZE of the ranks of HOSTFILE; {} without one."""
    counts = read_slots(environment).values()
    if not counts:
        return {}
    return {"WORLD_SIZE": str(sum(counts)), "LOCAL_WORLD_SIZE": str(max(counts))}


def is_one_host(flags: list[str]) -> bool:
    """True if all ranks will be descendants of the launcher, none of another host's ssh."""
    asked = any(flag.startswith(("-H", "--host", "--force")) for flag in flags)
    return not asked and not UNASKED.exists()


def is_first_host(flags: list[str]) -> bool:
    """True if rank 0, which writes the output folder, is on this host or is started from it."""
    return int(parse_flag(flags, "--node_rank") or 0) <= 0


def parse_flag(words: list[str], name: str) -> str | None:
    """Return the value of a flag in a command line, the last one if repeated; None without it.

    `--name VALUE`, `--name=VALUE` and a bare `--name` (empty), with "-" or "_" between its words.
    """
    value = None
    for word, following in pairwise([*words, ""]):
        flag, has_value, text = word.partition("=")
        if flag.replace("-", "_") == name.replace("-", "_"):
            value = text if has_value else "" if following.startswith("--") else following
    return value


@contextmanager
def write_remote_environment(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield an environment in which `deepspeed` forwards our variables to remote ranks.

    Over ssh it forwards few variables, but all lines of a file. The user's lines in it are kept.
    """
    if not environment.get("HOSTFILE"):
        yield dict(environment)
        return
    name = environment.get("DS_ENV_FILE", ENVIRONMENT_FILE)
    files = [folder / name for folder in (Path.home(), Path()) if (folder / name).is_file()]
    kept = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    ours = [f"{name}={value}" for name, value in environment.items() if _is_forwarded(name)]
    lines = [line for line in [*ours, *kept] if "=" in line]
    with tempfile.NamedTemporaryFile("w", suffix=".env", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        yield {**environment, "DS_ENV_FILE": file.name}


def _is_forwarded(name: str) -> bool:
    if name not in NO_SECRETS and any(secret in name for secret in SECRETS):
        return False
    return name in FORWARDED or name.startswith(FORWARDED_PREFIXES)
