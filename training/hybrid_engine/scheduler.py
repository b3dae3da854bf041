"""Continuous batching: decides which response is decoded in which slot, and when.

Finished rows leave their slot to a waiting prompt; if none waits, the active rows move together.
Samples do not depend on any of this: random draws belong to the response.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.hybrid_engine.decoder import Decoder, Responses
from training.hybrid_engine.graphs import StepGraphs
from training.hybrid_engine.sampling import Sampling
from training.hybrid_engine.slots import SlotTable

# Slots are refilled once this share of them is free: a prefill of one prompt costs nearly as much
# as one of several.
FREE_SHARE = 0.125
# With CUDA graphs, checking for finished rows would stall the queue of kernels.
RECORDED_STEPS_BETWEEN_CHECKS = 8
RECORDED_CONTEXT_STEP = 64  # contexts are rounded up to a multiple, so that few graphs suffice


class GenerationStopped(Exception):  # noqa: N818 - not an error
    """Generation was stopped; there are no responses."""


class Scheduler:
    """Decodes any number of responses through `slots` slots.

    With `fixed_batches`, which benchmarks compare with, a batch runs until its last row has ended.
    """

    def __init__(
        self,
        decoder: Decoder,
        sampling: Sampling,
        *,
        slots: int,
        eos_id: int,
        pad_id: int,
        device: torch.device,
        fixed_batches: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        record = decoder.is_static and device.type == "cuda"
        self._decoder = decoder
        self.slots = slots
        self._limit = sampling.max_new_tokens
        self._pad_id = pad_id
        self._device = device
        self._refills = decoder.is_static
        self._has_fixed_batches = fixed_batches
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
        if active and self._has_fixed_batches:
            return False
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
