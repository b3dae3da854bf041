"""Start a stage's program, under the `deepspeed` launcher if it has several ranks, and tell the
truth about its end.

python -m training.runtime.launch [launcher flags --] PROGRAM [program flags]

The launcher can exit 0 after its ranks were killed, and dies on SIGTERM without them. So it runs in
a process group of its own: a signal to this process reaches every rank, nothing is left behind,
and exit status 0 needs the completion marker of this very launch. One rank needs no launcher,
whose two processes import deepspeed each: it starts six seconds sooner without.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 20.0
LAUNCH_ID = "CLASSIC_RLHF_LAUNCH"  # environment variable: which launch a marker belongs to
LAUNCHED_BY = "CLASSIC_RLHF_LAUNCHED_BY"  # and the process that started a rank without a launcher
HOSTFILE = Path("/job/hostfile")  # where `deepspeed` looks for hosts unasked


def main() -> int:
    launcher_flags, program = _split(sys.argv[1:])
    if not program:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if {"-h", "--help"} & set(program):
        os.execv(sys.executable, [sys.executable, *program])
    wanted = os.environ.get("NUM_GPUS", "1")
    if not wanted.isdecimal() or int(wanted) < 1:
        sys.stderr.write(f"launch: error: NUM_GPUS must be a number of processes, got {wanted!r}\n")
        return 2
    launcher = shutil.which("deepspeed")
    if launcher is None:
        sys.stderr.write("launch: error: no `deepspeed` command; activate the environment\n")
        return 2
    launch_id = uuid.uuid4().hex
    environment = {**os.environ, LAUNCH_ID: launch_id}
    environment.pop(LAUNCHED_BY, None)  # an outer launch's
    has_accelerator = _has_accelerator()
    if not has_accelerator:
        environment.setdefault("DS_ACCELERATOR", "cpu")  # else each process warns that it is one
    if _is_one_rank(launcher_flags, has_accelerator):
        environment = _alone(environment, launcher_flags)
        command = [sys.executable, "-u", *program]
    else:
        command = [sys.executable, launcher, "--log_level", "critical", *launcher_flags, *program]
    group, status = _run(command, environment)
    _end_group(group)
    if status == 0 and not _has_marker(program, launch_id):
        sys.stderr.write(
            "launch: error: the launcher reported success but the run did not finish (was it "
            "killed?); run the same command again\n"
        )
        return 1
    return status


def _has_accelerator() -> bool:
    """Whether a GPU's device file is there; a container may show any one of them."""
    names = ("nvidia[0-9]*", "kfd", "dxg")
    return any(next(Path("/dev").glob(name), None) is not None for name in names)


def _is_one_rank(launcher_flags: list[str], has_accelerator: bool) -> bool:
    """Whether this is surely one process on this host; without a GPU it is one unless asked."""
    options = dict(zip(launcher_flags[::2], launcher_flags[1::2], strict=False))
    known = options.keys() <= {"--num_gpus", "--master_port"} and len(launcher_flags) % 2 == 0
    count = options.get("--num_gpus", "" if has_accelerator else "1")
    return known and count == "1" and not HOSTFILE.exists()


def _alone(environment: dict[str, str], launcher_flags: list[str]) -> dict[str, str]:
    """The environment of the one rank of this host, whatever others a shell or a job had in it."""
    for name in ("CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE", "MASTER_PORT"):
        environment.pop(name, None)
    if "--master_port" in launcher_flags:
        port = launcher_flags[launcher_flags.index("--master_port") + 1]
        environment["MASTER_PORT"] = port
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    return {**environment, **alone, LAUNCHED_BY: str(os.getpid())}


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    first_program = next((i for i, word in enumerate(arguments) if word.endswith(".py")), None)
    if first_program is None:
        return [], []
    return arguments[:first_program], arguments[first_program:]


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, int]:
    """Run the launcher in a process group of its own, handing signals on to all of the group.

    The group's id, and the launcher's status as a shell gives it.
    """
    received: list[int] = []
    groups: list[int] = []  # empty until the launcher is started

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for group in groups:
            _signal_group(group, signal.SIGKILL if len(received) > 1 else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` and `&` ask for just that
            signal.signal(number, forward)
    started = subprocess.Popen(command, env=environment, start_new_session=True)
    groups.append(started.pid)
    if received:
        _signal_group(started.pid, received[0])
    status = started.wait()
    if received:
        return started.pid, 128 + received[0]
    return started.pid, 128 - status if status < 0 else status


def _end_group(group: int) -> None:
    """End whatever the launcher left running, politely and then not."""
    deadline = time.monotonic() + GRACE_SECONDS
    _signal_group(group, signal.SIGTERM)
    while _signal_group(group, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(group, signal.SIGKILL)  # not waited for: a zombie that nobody reaps stays


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to the group; whether any process of it is alive."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _has_marker(program: list[str], launch_id: str) -> bool:
    """Whether the program's output folder says that this launch completed."""
    folder = ""
    words = [word.replace("--output-dir", "--output_dir", 1) for word in program]
    for index, word in enumerate(words):
        if word.startswith("--output_dir="):
            folder = word.split("=", 1)[1]
        elif word == "--output_dir" and index + 1 < len(words):
            folder = words[index + 1]  # given twice, the last one counts, as for the program
    try:
        marker = json.loads((Path(folder) / "complete.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker.get("launch") == launch_id)


if __name__ == "__main__":
    sys.exit(main())
