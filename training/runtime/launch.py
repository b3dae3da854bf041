"""Start a stage's program under the `deepspeed` launcher and tell the truth about its end.

python -m training.runtime.launch [launcher flags --] PROGRAM [program flags]

The launcher can exit 0 after its ranks were killed, and dies on SIGTERM without them. So it runs in
a process group of its own: a signal to this process reaches every rank, nothing is left behind,
and exit status 0 needs the completion marker of this very launch.
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


def main() -> int:
    launcher_flags, program = _split(sys.argv[1:])
    if not program:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if {"-h", "--help"} & set(program):
        os.execv(sys.executable, [sys.executable, *program])
    launcher = shutil.which("deepspeed")
    if launcher is None:
        sys.stderr.write("launch: error: no `deepspeed` command; activate the environment\n")
        return 2
    launch_id = uuid.uuid4().hex
    command = [sys.executable, launcher, "--log_level", "critical", *launcher_flags, *program]
    environment = {**os.environ, LAUNCH_ID: launch_id}
    if not any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")):
        environment.setdefault("DS_ACCELERATOR", "cpu")  # else each process warns that it is one
    started = subprocess.Popen(command, env=environment, start_new_session=True)
    status = _wait(started)
    _end_group(started.pid)
    if status == 0 and not _has_marker(program, launch_id):
        sys.stderr.write(
            "launch: error: the launcher reported success but the run did not finish (was it "
            "killed?); run the same command again\n"
        )
        return 1
    return status


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    first_program = next((i for i, word in enumerate(arguments) if word.endswith(".py")), None)
    if first_program is None:
        return [], []
    return arguments[:first_program], arguments[first_program:]


def _wait(started: "subprocess.Popen[bytes]") -> int:
    """Wait for the launcher, handing signals on to its whole group; its status as a shell's."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _signal_group(started.pid, signal.SIGKILL if len(received) > 1 else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, forward)
    status = started.wait()
    if received:
        return 128 + received[0]
    return 128 - status if status < 0 else status


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
    for index, word in enumerate(program):
        if word.startswith("--output_dir="):
            folder = word.split("=", 1)[1]
        elif word == "--output_dir" and index + 1 < len(program):
            folder = program[index + 1]  # given twice, the last one counts, as for the program
    try:
        marker = json.loads((Path(folder) / "complete.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker.get("launch") == launch_id)


if __name__ == "__main__":
    sys.exit(main())
