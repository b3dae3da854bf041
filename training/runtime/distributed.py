"""One rank's place among the others: set-up, collectives, and an orderly end.

Which program started the ranks (deepspeed, torchrun, plain python) is decided here and matters
nowhere else.
"""

import datetime
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.arguments.common import EngineArgs
from training.runtime import stopping
from training.runtime.exhaustion import memory_phase
from training.runtime.launch import LAUNCH_ID, LAUNCHED_BY, SAVING_SECONDS
from training.runtime.process import pick_device, set_logging, user_errors
from training.runtime.processes import free_port
from training.runtime.stopping import StopRequested

logger = logging.getLogger(__name__)

T = TypeVar("T")
STOP_KEY = "stop"  # in the ranks' common store
STOP_SECONDS = 20.0  # in which a rank whose launcher is gone comes to a place where it can save
CLOSING_SECONDS = SAVING_SECONDS  # and for that itself: as long as run.sh waits for it


@dataclass(frozen=True)
class World:
    """Which rank this is, of how many, and what it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks, on every rank; the input is not written to."""
        total = values.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def all_max(self, values: Tensor) -> Tensor:
        """Element-wise maximum over ranks, on every rank."""
        largest = values.clone()
        if self.size > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def check_stop(self) -> None:
        """While training: raise `StopRequested` on all ranks if any was asked to stop."""
        if not stopping.is_training():
            return
        asked = torch.tensor(float(stopping.is_asked()))
        if self.size > 1:
            dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=_control.group)
        if asked:
            raise StopRequested

    def stoppable(self, parts: Iterable[T]) -> Iterator[T]:
        """The parts, equally many on all ranks, with a `check_stop` before each."""
        for part in parts:
            self.check_stop()
            yield part


class _Control:
    """Where ranks agree to stop: on the host, so that a GPU's queue is not waited for."""

    group: Any = None  # the ranks' own where that is on the host already


_control = _Control()


class _OtherRanks:
    """What `stopping` knows of them: a word in the ranks' common store."""

    def __init__(self) -> None:
        self._store = dist.distributed_c10d._get_default_store()

    def tell(self, number: int) -> None:
        with suppress(RuntimeError):  # rank 0 has left, and the store with it
            self._store.set(STOP_KEY, str(number))

    def heard(self) -> int:
        return int(self._store.get(STOP_KEY)) if self._store.check([STOP_KEY]) else 0


@contextmanager
def session(args: EngineArgs) -> Iterator[World]:
    """The life of a stage on this rank: join the others, run, leave.

    A `UserError` becomes one line and exit status 2. The process group is destroyed on every way
    out: without that a finished run can abort at exit. A run that was stopped and saved ends with
    status 75.
    """
    try:
        with user_errors(), memory_phase("run", args):
            world = _join(args)
            yield world
            world.barrier()
    except StopRequested as stop:
        raise SystemExit(stopping.STOPPED if stop.is_saved else 128 + signal.SIGTERM) from None
    finally:
        if dist.is_initialized():
            _leave()


def _join(args: EngineArgs) -> World:
    rank = int(os.environ.setdefault("RANK", "0"))
    size = int(os.environ.setdefault("WORLD_SIZE", "1"))
    local_rank = int(os.environ.setdefault("LOCAL_RANK", str(max(args.local_rank, 0))))
    if size == 1:
        # deepspeed looks for MPI when these are missing, as they are under plain python.
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    device = pick_device(local_rank)
    # Importing deepspeed tries a compiler, and says so through the root logger: before it is set.
    _import_deepspeed()
    set_logging(logging.INFO if rank == 0 else logging.WARNING, sys.stdout)
    _watch_ancestors()
    torch.manual_seed(args.seed)
    import deepspeed

    timeout = datetime.timedelta(minutes=args.timeout_minutes)
    deepspeed.init_distributed(verbose=False, auto_mpi_discovery=False, timeout=timeout)
    if size > 1:
        is_on_host = dist.get_backend() == "gloo"
        _control.group = None if is_on_host else dist.new_group(backend="gloo", timeout=timeout)
        stopping.join(_OtherRanks())
    return World(rank=rank, size=size, device=device)


def _leave() -> None:
    import deepspeed.comm

    stopping.join(None)
    _control.group = None
    # Through deepspeed, which keeps groups of its own: else a second session in this process fails.
    deepspeed.comm.destroy_process_group()


def _import_deepspeed() -> None:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # On a CPU the first process group compiles a shared-memory kernel for a minute or two that
    # only tensor-parallel inference uses. The table is private, hence the guard.
    compatible = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(compatible, dict):
        compatible["deepspeed_shm_comm"] = False


def _ancestors(generations: int) -> list[int]:
    """Process ids of the parent, the grandparent, and so on."""
    chain = [os.getppid()]
    for _ in range(generations - 1):
        try:
            fields = Path(f"/proc/{chain[-1]}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        chain.append(int(fields[1]))
    return chain


def _is_orphan(started_by: list[int]) -> bool:
    """Whether the launcher ended before this rank had looked who started it."""
    launch = os.environ.get(LAUNCHED_BY)
    if launch and os.environ.get("CROSS_SIZE", os.environ["WORLD_SIZE"]) == "1":  # on this host
        return str(started_by[-1]) != launch
    if "CROSS_RANK" not in os.environ:  # torchrun's ranks have sessions of their own
        return False
    chain = [os.getpid(), *started_by[:2]]
    if any(word.startswith("--node_rank") for word in _command(chain[1])):
        chain = chain[:2]  # deepspeed on several hosts: above its per-node launcher is ssh
    return any(_is_taken_over(*link) for link in pairwise(chain))


def _is_taken_over(child: int, parent: int) -> bool:
    """Whether this parent took over an orphan, where deepspeed's launcher was its parent before.

    That is process 1 or the session's manager; in a container process 1 may be the launcher itself.
    """
    try:
        is_other = parent == 1 or os.getsid(parent) != os.getsid(child)
    except ProcessLookupError:
        return True
    names = {Path(word).name.partition(".")[0] for word in _command(parent)}
    return is_other and not names & {"deepspeed", "ds"}


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _watch_ancestors() -> None:
    """End this rank when its launcher is gone.

    Killing `deepspeed` leaves its children running with nobody to wait for them. A rank that
    notices ends itself, and the per-node launcher, seeing that, ends the rest.
    """
    if "CROSS_RANK" in os.environ:  # deepspeed: a per-node launcher below the one that was called
        generations = 3 if LAUNCH_ID in os.environ else 2  # and run.sh's above it
    elif os.environ["WORLD_SIZE"] != "1" or LAUNCH_ID in os.environ:  # torchrun, or run.sh
        generations = 1
    else:
        return  # plain python: a shell that may well end before us
    started_by = _ancestors(generations)
    if _is_orphan(started_by):
        raise SystemExit("the launcher ended while this rank was starting; this rank stops")

    def watch() -> None:
        while _ancestors(generations) == started_by:
            time.sleep(1.0)
        logger.error("the launcher is gone; this rank stops")
        if not stopping.is_asked():
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        deadline = time.monotonic() + CLOSING_SECONDS
        while stopping.is_closing() and time.monotonic() < deadline:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()
