"""CUDA graphs of a decoding step: one launch instead of a few hundred."""

from collections.abc import Callable

import torch

# Batches are decoded at one of these sizes, padded with idle slots.
BUCKETS = (1, 2, 4, 8, *range(16, 513, 16))


class StepGraphs:
    """Runs `step(rows, context)`, eagerly or, with `record`, as a CUDA graph.

    A graph runs at the next size of `BUCKETS`, at most `most`. The step must change tensors in
    place, at fixed addresses, and never wait for the device.
    """

    def __init__(self, step: Callable[[int, int], None], *, most: int, record: bool) -> None:
        self._step = step
        self._most = most
        self._record = record
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph | None] = {}

    def __call__(self, rows: int, context: int) -> None:
        if not self._record:
            self._step(rows, context)
            return
        bucket = next((size for size in BUCKETS if size >= rows), self._most)
        key = min(bucket, self._most), context
        if key not in self._graphs:
            # Libraries need a first run before a capture.
            self._step(*key)
            self._graphs[key] = None
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step(*key)
        graph.replay()

    def forget(self) -> None:
        """Drop all graphs, since the addresses that they use are about to be freed."""
        self._graphs.clear()
