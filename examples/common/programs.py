"""Run the repository's programs one after another."""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import IO

from training.paths import REPOSITORY

# Not Ctrl-C: a terminal sends that to every process.
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def run(command: Sequence[str], *, stdout: int | IO[str] | None = None) -> int:
    """Run a program and return its exit status as a shell would; signals are forwarded to it."""
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []  # empty until the program is started

    def forward_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    wanted = [number for number in FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward_signal) for number in wanted}
    try:
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=stdout) as child:
            children.append(child)
            if received:
                child.send_signal(received[0])
            status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and not status:
        return 128 + received[0]  # the program had already ended; the next one must not start
    return 128 - status if status < 0 else status
