"""Runs the repository's programs one after another, each to its end."""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import IO

from training.paths import REPOSITORY

HANDED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # a terminal's Ctrl-C reaches all


def run(command: Sequence[str], *, stdout: int | IO[str] | None = None) -> int:
    """The program's status, as a shell gives it. What is to end this process ends the program."""
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []  # empty until the program is started

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    wanted = [number for number in HANDED_ON if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in wanted}
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
        return 128 + received[0]  # it had ended before; what comes next must not begin
    return 128 - status if status < 0 else status
