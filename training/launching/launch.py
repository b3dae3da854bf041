"""Start a stage's program, under the `deepspeed` launcher if it has several ranks, and report its
real exit status.

python -m training.launching.launch [launcher flags --] PROGRAM [program flags]

The launcher can exit 0 after its ranks were killed, and on SIGTERM it dies without them. So it runs
in its own process group: a signal to this process reaches every rank, and no process is left. Exit
status 0 requires the completion marker of this launch; 75 (stopped by a signal, and saved) requires
a rank's marker, or that no rank had begun. A second signal ends everything at once. One rank starts
without the launcher, whose two processes import deepspeed: that saves six seconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from training.launching import hostfile
from training.launching.processes import find_free_port, find_ranks, signal_group
from training.launching.stopping import NOTHING_LOST, SIGNALS, STOPPED

GRACE_SECONDS = 60.0  # for ranks whose launcher is gone: they save first
SAVING_SECONDS = 600.0  # for ranks that were asked to stop, or whose launcher is gone
ECHO_SECONDS = 2.0  # after the first signal; others are ignored as its echo
LAUNCH_ID = "CLASSIC_RLHF_LAUNCH"  # environment variable: the launch, for markers
LAUNCHED_BY = "CLASSIC_RLHF_LAUNCHED_BY"  # environment variable: the process id of this program
SHARED_SECONDS = 60.0  # for a shared file system to show another host's file
NOT_FINISHED = (
    "launch: error: the launcher reported success but the run did not finish (was it killed?); run "
    "the same command again\n"
)
POLL_SECONDS = 0.5


def main() -> int:
    launcher_flags, program = split_words(sys.argv[1:])
    if not program:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if {"-h", "--help"} & set(program):
        os.execv(sys.executable, [sys.executable, *program])
    try:
        launcher = _find_launcher()
        is_dry_run = _is_dry_run(program)
        launcher_flags += hostfile.build_launcher_flags(os.environ, is_dry_run=is_dry_run)
    except ValueError as mistake:
        sys.stderr.write(f"launch: error: {mistake}\n")
        return 2
    options = _parse_options(launcher_flags)
    has_hidden_ranks = not hostfile.is_one_host(launcher_flags)
    launch_id = uuid.uuid4().hex
    environment = {**os.environ, LAUNCH_ID: launch_id, LAUNCHED_BY: str(os.getpid())}
    # A container may show any one of these device files.
    has_accelerator = any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg"))
    if not has_accelerator:
        environment.setdefault("DS_ACCELERATOR", "cpu")  # else each process logs a warning
    complete = parse_output_folder(program) / "complete.json"
    before = _read_bytes(complete)
    command = [sys.executable, "-u", *program]
    if is_dry_run:  # one process that estimates for all ranks
        environment |= hostfile.count_ranks(os.environ)
        environment.setdefault("NUM_GPUS", options.get("--num_gpus", ""))
    elif _is_one_rank(launcher_flags, has_accelerator):
        _set_one_rank(environment, options.get("--master_port"))
    else:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # they would mark a launcher as a rank
            environment.pop(name, None)
        if not has_hidden_ranks and "--master_port" not in launcher_flags:
            launcher_flags = ["--master_port", str(find_free_port()), *launcher_flags]
        command = [sys.executable, launcher, "--log_level", "critical", *launcher_flags, *program]
    with hostfile.write_remote_environment(environment) as environment:
        launched = _run(command, environment, has_hidden_ranks)
        _end_group(launched)
    if hostfile.is_first_host(launcher_flags) and not is_dry_run:
        return _decide_status(launched, program, launch_id)
    return launched.status if is_dry_run else _decide_status_beside(launched, complete, before)


def _find_launcher() -> str:
    wanted = os.environ.get("NUM_GPUS", "1")
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ValueError(f"NUM_GPUS must be a number of processes, got {wanted!r}")
    port = os.environ.get("MASTER_PORT") or "1"
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"MASTER_PORT must be a port, 1 to 65535, got {port!r}")
    launcher = shutil.which("deepspeed")
    if launcher is None:
        raise ValueError("no `deepspeed` command; activate the environment")
    return launcher


@dataclass
class _Launched:
    """A launcher in its own process group, and the signals to forward to its ranks."""

    has_begun: bool = False  # a rank may have something to save
    group: int = 0  # 0 before it is started
    status: int = 0  # as a shell gives it
    signals: list[int] = field(default_factory=list)
    first_at: float = 0.0

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Ask the ranks to stop; end them on the second signal. Echoes of the first are ignored."""
        now = time.monotonic()
        if self.signals and now - self.first_at <= ECHO_SECONDS:
            return
        self.first_at = self.first_at or now
        self.signals.append(number)
        if self.group:  # group 0 would be this process's
            self.forward_signal()

    def forward_signal(self) -> None:
        """Signal only the ranks: launchers would die, or end the ranks after 30 seconds."""
        if len(self.signals) > 1:
            signal_group(self.group, signal.SIGKILL)
            return
        ranks = find_ranks(self.group)
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, self.signals[0])
        if ranks:
            self.has_begun = True
        else:
            signal_group(self.group, self.signals[0])


def _decide_status(launched: _Launched, program: list[str], launch_id: str) -> int:
    """Return the run's exit status, by its markers before its launcher's status."""
    if has_marker(program, "complete.json", launch_id):
        if launched.status:
            sys.stderr.write(
                f"launch: warning: the run is complete, though its last process ended with status "
                f"{launched.status}\n"
            )
        return 0
    if len(launched.signals) > 1:
        return 128 + launched.signals[-1]
    if launched.status == STOPPED or has_marker(program, "stopped.json", launch_id):
        return STOPPED
    if launched.signals and not launched.has_begun:
        name = signal.Signals(launched.signals[0]).name
        sys.stdout.write(NOTHING_LOST.format(name=name))
        return STOPPED
    if launched.signals:
        return 128 + launched.signals[0]
    if launched.status == 0:
        sys.stderr.write(NOT_FINISHED)
        return 1
    return launched.status


def _decide_status_beside(launched: _Launched, complete: Path, before: bytes) -> int:
    """Return the exit status on a host without rank 0: success requires a new marker.

    It is the marker of the launch on rank 0's host, so its content must differ from `before`.
    """
    if launched.status or not complete.parent.is_dir():  # the hosts may not share the folder
        return launched.status
    deadline = time.monotonic() + SHARED_SECONDS
    while _read_bytes(complete) in (b"", before):  # rank 0 removes an older run's
        if time.monotonic() > deadline:
            sys.stderr.write(NOT_FINISHED)
            return 1
        time.sleep(POLL_SECONDS)
    return 0


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _is_one_rank(launcher_flags: list[str], has_accelerator: bool) -> bool:
    """True if this is certainly one process on this host; without a GPU that is the default."""
    options = _parse_options(launcher_flags)
    known = options.keys() <= {"--num_gpus", "--master_port"} and len(launcher_flags) % 2 == 0
    count = options.get("--num_gpus", "" if has_accelerator else "1")
    return known and count == "1" and hostfile.is_one_host(launcher_flags)


def _set_one_rank(environment: dict[str, str], port: str | None) -> None:
    """Set the variables of an only rank, without those of a surrounding job."""
    for name in ("CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE", "MASTER_PORT"):
        environment.pop(name, None)
    environment.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    if port:
        environment["MASTER_PORT"] = port


def _parse_options(launcher_flags: list[str]) -> dict[str, str]:
    return dict(zip(launcher_flags[::2], launcher_flags[1::2], strict=False))


def _is_dry_run(program: list[str]) -> bool:
    value = hostfile.parse_flag(program, "--dry_run")
    return value is not None and value.lower() in ("", "true", "t", "1", "yes", "y")


def split_words(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split into the launcher's flags, and the program with its flags."""
    first_program = next((i for i, word in enumerate(arguments) if word.endswith(".py")), None)
    if first_program is None:
        return [], []
    return arguments[:first_program], arguments[first_program:]


def _run(command: list[str], environment: dict[str, str], has_hidden_ranks: bool) -> _Launched:
    """Run the launcher to its end, forwarding signals. Hidden ranks may begin unseen."""
    launched = _Launched(has_begun=has_hidden_ranks)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under `nohup` and `&`
            signal.signal(number, launched.receive)
    started = subprocess.Popen(command, env=environment, start_new_session=True)
    launched.group = started.pid
    if launched.signals:
        launched.forward_signal()
    while not launched.has_begun and started.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            started.wait(POLL_SECONDS)
        if find_ranks(launched.group):
            launched.has_begun = True
    status = started.wait()
    launched.status = 128 - status if status < 0 else status
    return launched


def _end_group(launched: _Launched) -> None:
    """End what the launcher left running: wait for ranks that save, then kill."""
    if launched.signals:
        _wait_while(lambda: signal_group(launched.group, 0), SAVING_SECONDS, 0.05)
    signal_group(launched.group, signal.SIGTERM)
    _wait_while(lambda: signal_group(launched.group, 0), GRACE_SECONDS, 0.05)
    if not launched.signals:
        _wait_while(lambda: bool(find_ranks(launched.group)), SAVING_SECONDS, POLL_SECONDS)
    signal_group(launched.group, signal.SIGKILL)  # no wait: a zombie that nobody reaps stays


def _wait_while(is_running: Callable[[], bool], limit: float, interval: float) -> None:
    deadline = time.monotonic() + limit
    while is_running() and time.monotonic() < deadline:
        time.sleep(interval)


def has_marker(program: list[str], name: str, launch_id: str) -> bool:
    """True if the program's output folder has this marker of this launch."""
    try:
        marker = json.loads((parse_output_folder(program) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker.get("launch") == launch_id)


def parse_output_folder(program: list[str]) -> Path:
    return Path(hostfile.parse_flag(program, "--output_dir") or "")


if __name__ == "__main__":
    sys.exit(main())
