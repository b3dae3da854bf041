"""What this machine can do at best: read bandwidth and matrix rate, measured where it is asked."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True)
class Machine:
    """bytes/s of a large sum, and FLOP/s of a large product in one dtype."""

    read_bandwidth: float
    matrix_rate: float

    def seconds(self, *, bytes_read: float = 0.0, flops: float = 0.0) -> float:
        """The least time for work that must read and multiply this much, overlapped perfectly."""
        return max(bytes_read / self.read_bandwidth, flops / self.matrix_rate)


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Medians of a few runs; a third of a second, and a GPU's memory for a moment."""
    is_cuda = device.type == "cuda"
    elements = 2**30 if is_cuda else 2**26  # 4 GB, or 256 MB: more than any cache holds
    data = torch.ones(elements, device=device)
    bandwidth = 4.0 * elements / _median(data.sum, device)
    side = 8192 if is_cuda else 1536
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    rate = 2.0 * side**3 / _median(partial(torch.mm, left, right), device)
    return Machine(bandwidth, rate)


def _median(run: Callable[[], object], device: torch.device, times: int = 5) -> float:
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[times // 2]
