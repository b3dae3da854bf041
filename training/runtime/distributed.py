"""Join the other ranks, run collectives, and leave in order.

Only this module depends on the launcher of the ranks (deepspeed, torchrun, srun, plain python).
"""

import datetime
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.arguments.common import EngineArgs
from training.launching import stopping
from training.launching.ancestors import watch_ancestors
from training.launching.processes import find_free_port
from training.launching.rendezvous import meet_ranks
from training.launching.slurm_rank import set_rank_variables
from training.launching.stopping import StopRequested
from training.runtime.out_of_memory import explain_out_of_memory
from training.runtime.process import exit_on_user_error, pick_device, set_logging

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This rank, the number of ranks, and this rank's device."""

    rank: int
    size: int
    device: torch.device
    host_group: Any = None  # process group on the host, if the default one is not

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over ranks, on every rank; the input stays unchanged."""
        total = values.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def max_over_ranks(self, values: Tensor) -> Tensor:
        """Return the element-wise maximum over ranks, on every rank."""
        largest = values.clone()
        if self.size > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's picklable `value`, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def check_stop(self) -> None:
        """During training, raise `StopRequested` on all ranks if any was asked to stop."""
        if not stopping.is_training():
            return
        asked = torch.tensor(float(stopping.is_asked()))
        if self.size > 1:  # on the host, so as not to wait for GPU queues
            dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self.host_group)
        if asked:
            raise StopRequested

    def iterate_stoppable(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, equally many on all ranks, with a `check_stop` before each."""
        for item in items:
            self.check_stop()
            yield item


@contextmanager
def join_ranks(args: EngineArgs) -> Iterator[World]:
    """Join the other ranks, run a stage, and leave.

    A `UserError` becomes one line and exit status 2; a run that was stopped and saved exits with
    status 75. The process group is always destroyed: otherwise a finished run can abort at exit.
    """
    try:
        with exit_on_user_error(), explain_out_of_memory("run", args):
            device = _prepare_process(args)
            with meet_ranks(args):
                world = _make_world(args, device)
                yield world
                world.barrier()
    except StopRequested as stop:
        raise SystemExit(stopping.STOPPED if stop.is_saved else 128 + signal.SIGTERM) from None
    finally:
        if dist.is_initialized():
            import deepspeed.comm

            stopping.join(None)
            # deepspeed's function: it has groups of its own, and could not join again here.
            deepspeed.comm.destroy_process_group()


def _prepare_process(args: EngineArgs) -> torch.device:
    """Set this rank's environment, device, logging and seed, before it joins the others."""
    set_rank_variables()
    rank = int(os.environ.setdefault("RANK", "0"))
    size = int(os.environ.setdefault("WORLD_SIZE", "1"))
    local_rank = int(os.environ.setdefault("LOCAL_RANK", str(max(args.local_rank, 0))))
    if size == 1:
        # Without these, as under plain python, deepspeed looks for MPI.
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(find_free_port()))
    device = pick_device(local_rank)
    # Before logging is set: importing deepspeed tries a compiler and logs it to the root logger.
    _import_deepspeed()
    set_logging(logging.INFO if rank == 0 else logging.WARNING, sys.stdout)
    watch_ancestors()
    torch.manual_seed(args.seed)
    return device


def _make_world(args: EngineArgs, device: torch.device) -> World:
    import deepspeed

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = datetime.timedelta(minutes=args.timeout_minutes)
    deepspeed.init_distributed(verbose=False, auto_mpi_discovery=False, timeout=timeout)
    host_group = None
    if size > 1:
        if dist.get_backend() != "gloo":
            host_group = dist.new_group(backend="gloo", timeout=timeout)
        stopping.join(dist.distributed_c10d._get_default_store())
    return World(rank, size, device, host_group)


def _import_deepspeed() -> None:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # On a CPU the first process group compiles for a minute or two a shared-memory kernel that only
    # tensor-parallel inference uses. The table is private, hence the check.
    compatible = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(compatible, dict):
        compatible["deepspeed_shm_comm"] = False
