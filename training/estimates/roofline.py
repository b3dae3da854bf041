"""The best speed of this machine: read bandwidth and matrix rate, measured on the spot."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

TRAINING = 3.0  # forward passes that a forward with its backward costs
ADAM_BYTES = 28  # per parameter: gradient, weight and two moments read, the last three written
# fp32 elements that are summed, more than any cache holds: 256 MB, or 4 GB.
READ_ELEMENTS = {"cpu": 2**26, "cuda": 2**30}


@dataclass(frozen=True)
class Machine:
    """Bytes/s of a large sum, and FLOP/s of a large matrix product in one dtype."""

    read_bandwidth: float
    matrix_rate: float

    def seconds(self, *, bytes_read: float = 0.0, flops: float = 0.0) -> float:
        """Return the least time to read and multiply this much, perfectly overlapped."""
        return max(bytes_read / self.read_bandwidth, flops / self.matrix_rate)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure this machine in a third of a second."""
    data = torch.ones(READ_ELEMENTS[device.type], device=device)
    bandwidth = 4.0 * len(data) / _time_run(data.sum, device)
    side = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    rate = 2.0 * side**3 / _time_run(partial(torch.mm, left, right), device)
    return Machine(bandwidth, rate)


def _time_run(run: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of five runs, after one to warm up."""
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[2]
