"""What this machine can do: read bandwidth and matrix rate, measured beside each benchmark."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch


@dataclass(frozen=True)
class Machine:
    """bytes/s of a large sum, and FLOP/s of a large product in each dtype."""

    read_bandwidth: float
    matrix_rate_fp32: float
    matrix_rate_bf16: float

    def seconds(self, *, bytes_read: float, flops: float, dtype: torch.dtype) -> float:
        """The least time for work that must read and multiply this much, overlapped perfectly."""
        low = dtype == torch.bfloat16
        rate = self.matrix_rate_bf16 if low else self.matrix_rate_fp32
        return max(bytes_read / self.read_bandwidth, flops / rate)

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def measure(device: torch.device) -> Machine:
    """Medians of a second or so of each."""
    elements = (4 if device.type == "cuda" else 1) * 2**28  # 1 GB, 4 GB on a GPU
    data = torch.ones(elements, device=device)
    bandwidth = 4.0 * elements / _median(data.sum, device)
    side = 8192 if device.type == "cuda" else 2048
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rates.append(2.0 * side**3 / _median(partial(torch.mm, left, right), device))
    return Machine(bandwidth, rates[0], rates[1])


def _median(run: Callable[[], object], device: torch.device, times: int = 7) -> float:
    seconds = []
    for _ in range(times + 2):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[2:])[times // 2]
