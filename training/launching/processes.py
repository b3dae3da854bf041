"""Find and signal processes of a launch, and find free ports. Imports only the standard library."""

import os
import random
import signal
import socket
from pathlib import Path

from training.launching.stopping import SIGNALS


def find_free_port() -> int:
    """Return a port below those of outgoing connections, as a rank binds it only seconds later."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)  # not --seed: its ports would repeat
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def count_cores() -> int:
    """Count the cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def find_ranks(group: int) -> list[int]:
    """Return process ids of the ranks in a process group, found by RANK in their environment.

    Only those that already listen to signals: the others have nothing to lose.
    """
    # Python by default handles only SIGINT of them. In /proc, signal 1 is bit 0.
    mask = sum(1 << (number - 1) for number in SIGNALS if number != signal.SIGINT)
    ranks = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) != group:
                continue
            is_rank = b"\0RANK=" in b"\0" + (folder / "environ").read_bytes()
            caught = (folder / "status").read_text().partition("SigCgt:")[2].split(maxsplit=1)[0]
            if is_rank and int(caught, 16) & mask:
                ranks.append(int(folder.name))
        except OSError:  # gone, or not ours
            continue
    return ranks


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group. Return False if no process of it is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
