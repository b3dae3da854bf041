"""Processes of a launch and their signals, and free ports. Only the standard library: no torch."""

import os
import random
import signal
import socket
from contextlib import suppress
from pathlib import Path

from training.launching.stopping import SIGNALS


def find_free_port() -> int:
    """Below those that the system gives to outgoing connections: a rank binds it seconds later."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)  # --seed would draw the same again
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def find_ranks(group: int) -> list[int]:
    """The ranks among a group's processes, by what their launcher tells each of them.

    Only those that listen to signals by now: one that does not has nothing to lose.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) != group:
                continue
            is_rank = b"\0RANK=" in b"\0" + (folder / "environ").read_bytes()
            if is_rank and _listens((folder / "status").read_text()):
                found.append(int(folder.name))
        except OSError:  # gone, or not ours
            continue
    return found


def _listens(status: str) -> bool:
    """Whether a process, by its /proc status, takes a signal that Python leaves alone."""
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    others = [number for number in SIGNALS if number != signal.SIGINT]
    return any(int(caught, 16) >> (number - 1) & 1 for number in others)


def signal_process(pid: int, number: int) -> None:
    """Send a signal, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to the group; whether any process of it is alive."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
