"""End a rank when its launcher is gone.

Killing `deepspeed` leaves its children running with nobody to wait for them.
"""

import logging
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

from training.launching import stopping
from training.launching.launch import LAUNCH_ID, LAUNCHED_BY, SAVING_SECONDS

logger = logging.getLogger(__name__)

STOP_SECONDS = 20.0  # for a rank without a launcher to reach a point where it can save


def watch_ancestors() -> None:
    """End this rank when its launcher is gone; the per-node launcher then ends the others."""
    if "CROSS_RANK" in os.environ:  # deepspeed: a per-node launcher is between
        generations = 3 if LAUNCH_ID in os.environ else 2  # and run.sh's above
    elif os.environ["WORLD_SIZE"] != "1" or LAUNCH_ID in os.environ:  # torchrun, or run.sh
        generations = 1
    else:
        return  # plain python: its parent is a shell, which may end first
    started_by = _list_ancestors(generations)
    if _is_orphan(started_by):
        raise SystemExit("the launcher ended while this rank was starting; this rank stops")

    def watch() -> None:
        while _list_ancestors(generations) == started_by:
            time.sleep(1.0)
        logger.error("the launcher is gone; this rank stops")
        if not stopping.is_asked():
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        deadline = time.monotonic() + SAVING_SECONDS  # as long as run.sh waits for it
        while stopping.is_closing() and time.monotonic() < deadline:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def _list_ancestors(generations: int) -> list[int]:
    """Return process ids of the parent, the grandparent, and so on."""
    chain = [os.getppid()]
    for _ in range(generations - 1):
        try:
            fields = Path(f"/proc/{chain[-1]}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        chain.append(int(fields[1]))
    return chain


def _is_orphan(started_by: list[int]) -> bool:
    """True if the launcher ended before this rank recorded its ancestors."""
    launch = os.environ.get(LAUNCHED_BY)
    if launch and os.environ.get("CROSS_SIZE", os.environ["WORLD_SIZE"]) == "1":  # on this host
        return str(started_by[-1]) != launch
    if "CROSS_RANK" not in os.environ:  # torchrun's ranks have sessions of their own
        return False
    chain = [os.getpid(), *started_by[:2]]
    if any(word.startswith("--node_rank") for word in _read_command(chain[1])):
        chain = chain[:2]  # deepspeed on several hosts: above its per-node launcher is ssh
    return any(_is_taken_over(*link) for link in pairwise(chain))


def _is_taken_over(child: int, parent: int) -> bool:
    """True if `parent` adopted `child` after deepspeed's launcher, its first parent, ended.

    Process 1 or the session's manager adopts; in a container process 1 may be the launcher itself.
    """
    try:
        is_other = parent == 1 or os.getsid(parent) != os.getsid(child)
    except ProcessLookupError:
        return True
    names = {Path(word).name.partition(".")[0] for word in _read_command(parent)}
    return is_other and not names & {"deepspeed", "ds"}


def _read_command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
