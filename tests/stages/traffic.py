"""Runs stage programs on one rank of several and writes down what its collectives carry.

python -m tests.stages.traffic CELLS.json     with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set

A cell's `traffic.<rank>.json` is a list of its steps: whole bytes by kind of collective, what the
kernel sent for them over TCP, how often engines went backward, and micro-batches that were read.
"""

import importlib
import json
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.stages.matrix import agreed_port
from tests.stages.spies import Patches
from training.runtime.engine import TrainingEngine
from training.trainers.forwards import ResponseForwards
from training.trainers.ppo import PPOTrainer
from training.trainers.rollout import RolloutCollector

# Methods that all collectives of torch.distributed end in, by what they do; the place of the
# argument that is whole on one side. DeepSpeed's own functions end here as well.
KINDS = {
    "all_reduce": {"allreduce": 0, "allreduce_coalesced": 0},
    "all_gather": {"allgather": 0, "_allgather_base": 0, "all_gather_single": 0},
    "reduce_scatter": {"reduce_scatter": 1, "_reduce_scatter_base": 1, "reduce_scatter_single": 1},
    "other": {"broadcast": 0, "reduce": 0, "send": 0, "gather": 0, "scatter": 0, "alltoall": 0},
}


def size_of(values: Any) -> int:
    """Bytes of a tensor, or of all tensors of a list of them."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    return sum(map(size_of, values))


BYTES_SENT = 200  # where the kernel's tcp_info has them


def sent_over_tcp() -> int:
    """Bytes that the open TCP sockets of this process have sent since they were opened."""
    total = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as found:
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 208)
        except OSError:  # closed meanwhile, or of another kind
            continue
        total += struct.unpack_from("q", info, BYTES_SENT)[0] if len(info) == 208 else 0
    return total


class Traffic:
    """Counts since the last step; `steps` has those of each step that is done."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self._now: Counter[str] = Counter()
        self._sent = 0

    def watch(self, patch: Patches) -> None:
        for kind, methods in KINDS.items():
            for name, place in methods.items():
                if hasattr(dist.ProcessGroup, name):
                    patch.around(dist.ProcessGroup, name, self._carried(kind, place))
        patch.around(TrainingEngine, "backward", self._backward)
        patch.around(ResponseForwards, "_each", self._read)
        patch.around(TrainingEngine, "step", self._stepped)
        patch.around(RolloutCollector, "collect", self._collected)
        patch.around(PPOTrainer, "update", self._updated)

    def _carried(self, kind: str, place: int) -> Callable[..., Any]:
        def wrapper(original: Callable[..., Any], group: Any, *inputs: Any, **options: Any) -> Any:
            self._now[kind] += size_of(inputs[place])
            return original(group, *inputs, **options)

        return wrapper

    def _backward(self, original: Callable[..., Any], *inputs: Any, **options: Any) -> None:
        self._now["backwards"] += 1
        original(*inputs, **options)

    def _read(self, original: Callable[..., Any], forwards: Any) -> Any:
        self._now["readings"] += len(forwards._plan)
        return original(forwards)

    def _end(self, part: str) -> None:
        sent = sent_over_tcp()
        self.steps.append({"part": part, **self._now, "tcp": sent - self._sent})
        self._sent = sent
        self._now.clear()

    def _stepped(self, original: Callable[..., Any], *inputs: Any) -> None:
        original(*inputs)
        self._end("step")

    def _collected(self, original: Callable[..., Any], *inputs: Any) -> Any:
        self._end("between")
        rollout = original(*inputs)
        self._end("collect")
        return rollout

    def _updated(self, original: Callable[..., Any], *inputs: Any) -> Any:
        self._end("between")
        return original(*inputs)


def main() -> None:
    torch.set_num_threads(1)
    for program, flags, output in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = [f"{program}/main.py", "--output_dir", output, *flags]
        os.environ["MASTER_PORT"] = str(agreed_port(Path(f"{output}.port")))
        traffic = Traffic()
        with Patches() as patch:
            traffic.watch(patch)
            importlib.import_module(f"{program}.main").main()
        file = Path(output) / f"traffic.{os.environ['RANK']}.json"
        file.write_text(json.dumps(traffic.steps))


if __name__ == "__main__":
    main()
