"""Continuous batching: decides which response is decoded in which slot, and when.

Finished rows leave their slot to a waiting prompt; if none waits, the active rows move together.
Samples do not depend on any of this: random draws belong to the response.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.hybrid_engine.decoder import Decoder, Responses
from training.hybrid_engine.sampling import Sampling, sample_tokens
from training.tensors import move_rows

# Slots are refilled once this share of them is free: a prefill of one prompt costs nearly as much
# as one of several.
FREE_SHARE = 0.125
# With CUDA graphs, checking for finished rows would stall the queue of kernels.
RECORDED_STEPS_BETWEEN_CHECKS = 8
RECORDED_CONTEXT_STEP = 64  # contexts are rounded up to a multiple, so that few graphs suffice
# Recorded batches have one of these sizes, padded with idle slots.
RECORDED_SIZES = (1, 2, 4, 8, *range(16, 513, 16))


class GenerationStopped(Exception):  # noqa: N818 - not an error
    """Generation was stopped; there are no responses."""


class SlotTable:
    """The state of the rows being decoded in S slots of up to T tokens.

    A step changes it in place and never waits for the device, so that a CUDA graph can replay it.
    """

    def __init__(
        self, slots: int, sampling: Sampling, *, eos_id: int, pad_id: int, device: torch.device
    ) -> None:
        limit = sampling.max_new_tokens
        self._sampling = sampling
        self._eos_id, self._pad_id = eos_id, pad_id
        self.uniforms = torch.zeros(slots, limit, device=device)
        self.tokens = torch.full((slots, limit), pad_id, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(slots, limit, device=device)
        self.entropies = torch.zeros(slots, limit, device=device)
        self.ages = torch.zeros(slots, dtype=torch.long, device=device)  # tokens so far
        self.active = torch.zeros(slots, dtype=torch.bool, device=device)
        self.last = torch.zeros(slots, dtype=torch.long, device=device)  # the token to append

    def admit(self, slots: Tensor, uniforms: Tensor, logits: Tensor) -> None:
        """Start a response in each of these slots [m] with its first token, from logits [m, V]."""
        self.uniforms[slots] = uniforms
        self.tokens[slots] = self._pad_id
        self.logprobs[slots] = 0.0
        self.entropies[slots] = 0.0
        self.ages[slots] = 0
        self.active[slots] = True
        self.draw(slots, logits)

    def draw(self, slots: Tensor, logits: Tensor) -> None:
        """Sample the next token of each of these slots [m], from logits [m, V]."""
        limit = self._sampling.max_new_tokens
        ages, active = self.ages[slots], self.active[slots]
        column = ages.clamp(max=limit - 1)  # finished rows are sampled too, until they are dropped
        samples = sample_tokens(
            logits, self.uniforms[slots, column], self._sampling, banned_token=self._pad_id
        )
        targets = (self.tokens, self.logprobs, self.entropies)
        for target, values in zip(targets, samples, strict=True):
            target[slots, column] = torch.where(active, values, target[slots, column])
        drawn = samples[0]
        self.last[slots] = drawn
        self.ages[slots] = ages + active
        self.active[slots] = active & (drawn != self._eos_id) & (ages < limit - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Move the rows of these slots to the first slots, in this order."""
        state = (self.uniforms, self.tokens, self.logprobs, self.entropies,
                 self.ages, self.active, self.last)  # fmt: skip
        move_rows(state, rows)


class StepGraphs:
    """Runs `step(rows, context)`, eagerly or, with `record`, as a CUDA graph.

    A graph runs at the next of `RECORDED_SIZES`, at most `most`. The step must change tensors in
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
        bucket = next((size for size in RECORDED_SIZES if size >= rows), self._most)
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


class Scheduler:
    """Decodes any number of responses through `slots` slots."""

    def __init__(
        self,
        decoder: Decoder,
        sampling: Sampling,
        *,
        slots: int,
        eos_id: int,
        pad_id: int,
        device: torch.device,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        record = decoder.is_static and device.type == "cuda"
        self._decoder = decoder
        self.slots = slots
        self._limit = sampling.max_new_tokens
        self._pad_id = pad_id
        self._device = device
        self._refills = decoder.is_static
        self._should_stop = should_stop
        self._check_every = RECORDED_STEPS_BETWEEN_CHECKS if record else 1
        self._context_step = RECORDED_CONTEXT_STEP if record else 1
        self._table = SlotTable(slots, sampling, eos_id=eos_id, pad_id=pad_id, device=device)
        self._advance = StepGraphs(self._run_step, most=slots, record=record)
        self._index = torch.arange(slots, device=device)

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,  # [B, T]
        on_token: Callable[[int], None] | None = None,
    ) -> Responses:
        """Decode one response to each of B prompts; `on_token` gets each new token of the first.

        Raises `GenerationStopped` once `should_stop` returns True.
        """
        longest = max(map(len, prompts)) + self._limit + self._check_every
        self._capacity = -(-longest // self._context_step) * self._context_step
        if self._decoder.begin(self.slots, self._capacity):
            self._advance.forget()
        self._prompts, self._uniforms = prompts, uniforms
        count = len(prompts)
        self._tokens = torch.full((count, self._limit), self._pad_id, device=self._device)
        self._logprobs = torch.zeros(count, self._limit, device=self._device)
        self._entropies = torch.zeros_like(self._logprobs)
        self._lengths = torch.zeros(count, dtype=torch.long, device=self._device)
        # Prompts of similar length are prefilled together, and equal ones are adjacent.
        order = sorted(range(count), key=lambda row: (len(prompts[row]), tuple(prompts[row])))
        self._waiting = deque(order)
        self._rows: list[int | None] = []  # by slot: index of its response
        self._counts: list[int] = []  # by slot: most tokens that it can hold by now
        self._decode(on_token)
        mask = torch.arange(self._limit, device=self._device) < self._lengths[:, None]
        width = int(self._lengths.max())
        columns = (self._tokens, mask, self._logprobs, self._entropies)
        return Responses(*(column[:, :width] for column in columns))

    def _decode(self, on_token: Callable[[int], None] | None) -> None:
        sent = 0
        while True:
            while self._refill():
                sent = self._report_tokens(on_token, sent)
                self._collect()
            if not self._rows:
                return
            if self._should_stop():
                raise GenerationStopped
            for _ in range(self._check_every):
                self._counts = [count + 1 for count in self._counts]
                context = min(max(self._counts), self._capacity)
                context = -(-context // self._context_step) * self._context_step
                self._advance(len(self._rows), context)
            sent = self._report_tokens(on_token, sent)
            self._collect()

    def _run_step(self, count: int, context: int) -> None:
        logits = self._decoder.step(self._table.last[:count], context)
        self._table.draw(self._index[:count], logits)

    def _refill(self) -> bool:
        """Give free slots to waiting prompts, or close the gaps if none waits. True if admitted."""
        gaps = [slot for slot, row in enumerate(self._rows) if row is None]
        active = len(self._rows) - len(gaps)
        can_admit = self._refills or not active
        if self._waiting and can_admit and self.slots - active >= FREE_SHARE * self.slots:
            self._admit(gaps)
            gaps = [slot for slot, row in enumerate(self._rows) if row is None]
            self._close_gaps(gaps)
            return True
        if gaps and (not active or len(gaps) >= FREE_SHARE * len(self._rows)):
            self._close_gaps(gaps)
        return False

    def _admit(self, gaps: Sequence[int]) -> None:
        free = [*gaps, *range(len(self._rows), self.slots)]
        slots = free[: len(self._waiting)]
        rows = [self._waiting.popleft() for _ in slots]
        missing = max(slots) + 1 - len(self._rows)
        self._rows += [None] * missing
        self._counts += [0] * missing
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot] = row
            self._counts[slot] = len(self._prompts[row])
        places = torch.tensor(slots, device=self._device)
        logits = self._decoder.admit([self._prompts[row] for row in rows], places)
        self._table.admit(places, self._uniforms[rows].to(self._device), logits)

    def _close_gaps(self, gaps: Sequence[int]) -> None:
        """Move rows of the last slots into the gaps."""
        if not gaps:
            return
        count = len(self._rows) - len(gaps)
        tail = iter(slot for slot in range(count, len(self._rows)) if self._rows[slot] is not None)
        kept = [slot if self._rows[slot] is not None else next(tail) for slot in range(count)]
        self._decoder.keep(kept)
        self._table.keep(kept)
        self._rows = [self._rows[slot] for slot in kept]
        self._counts = [self._counts[slot] for slot in kept]

    def _collect(self) -> None:
        """Move finished responses out of their slots."""
        active = self._table.active[: len(self._rows)].tolist()
        ended = [
            slot for slot, row in enumerate(self._rows) if row is not None and not active[slot]
        ]
        if not ended:
            return
        slots = torch.tensor(ended, device=self._device)
        rows = torch.tensor([self._rows[slot] for slot in ended], device=self._device)
        self._tokens[rows] = self._table.tokens[slots]
        self._logprobs[rows] = self._table.logprobs[slots]
        self._entropies[rows] = self._table.entropies[slots]
        self._lengths[rows] = self._table.ages[slots]
        for slot in ended:
            self._rows[slot] = None

    def _report_tokens(self, on_token: Callable[[int], None] | None, sent: int) -> int:
        """Pass new tokens of the first response to `on_token`; returns how many it has had."""
        if on_token is None or 0 not in self._rows:
            return sent
        slot = self._rows.index(0)
        tokens = self._table.tokens[slot, : int(self._table.ages[slot])].tolist()
        for token in tokens[sent:]:
            on_token(token)
        return len(tokens)
