"""Continuous batching: which response is decoded in which slot, and when.

Rows that have finished leave their slot to a waiting prompt; when none waits, the rows that go on
move together. What is sampled does not depend on any of this: draws belong to the response.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.hybrid_engine.decoder import Decoder, Responses
from training.hybrid_engine.graphs import StepGraphs
from training.hybrid_engine.sampling import Sampling
from training.hybrid_engine.slots import SlotTable

# Slots are given to other rows once this share of them is free: a prefill of one prompt costs
# nearly what one of several does.
FREE_SHARE = 0.125
# Where steps are recorded, asking whether rows have finished would stop the queue of kernels.
RECORDED_STEPS_BETWEEN_LOOKS = 8
RECORDED_CONTEXT_STEP = 64  # contexts are rounded up to it, so that few graphs serve all


class GenerationStopped(Exception):  # noqa: N818 - not an error
    """Responses are not wanted any more."""


class Scheduler:
    """Decodes any number of responses through `slots` slots.

    With `fixed_batches`, only to measure against, a batch runs whole until its last row has ended.
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
        self._looks_every = RECORDED_STEPS_BETWEEN_LOOKS if record else 1
        self._context_step = RECORDED_CONTEXT_STEP if record else 1
        self._table = SlotTable(slots, sampling, eos_id=eos_id, pad_id=pad_id, device=device)
        self._advance = StepGraphs(self._eager_step, most=slots, record=record)
        self._index = torch.arange(slots, device=device)

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,  # [B, T]
        on_token: Callable[[int], None] | None = None,
    ) -> Responses:
        """One response to each of B prompts; `on_token` sees the first's tokens as they come."""
        longest = max(map(len, prompts)) + self._limit + self._looks_every
        self._capacity = -(-longest // self._context_step) * self._context_step
        if self._decoder.begin(self.slots, self._capacity):
            self._advance.forget()
        self._prompts, self._uniforms = prompts, uniforms
        count = len(prompts)
        self._tokens = torch.full((count, self._limit), self._pad_id, device=self._device)
        self._logprobs = torch.zeros(count, self._limit, device=self._device)
        self._entropies = torch.zeros_like(self._logprobs)
        self._lengths = torch.zeros(count, dtype=torch.long, device=self._device)
        # Prompts of like length are prefilled together, and equal ones stand side by side.
        order = sorted(range(count), key=lambda row: (len(prompts[row]), tuple(prompts[row])))
        self._waiting = deque(order)
        self._rows: list[int | None] = []  # by slot: the response that is decoded there
        self._held: list[int] = []  # by slot: tokens, at most
        self._decode(on_token)
        mask = torch.arange(self._limit, device=self._device) < self._lengths[:, None]
        width = int(self._lengths.max())
        columns = (self._tokens, mask, self._logprobs, self._entropies)
        return Responses(*(column[:, :width] for column in columns))

    def _decode(self, on_token: Callable[[int], None] | None) -> None:
        told = 0
        while True:
            while self._fill():
                told = self._tell(on_token, told)
                self._collect()
            if not self._rows:
                return
            if self._should_stop():
                raise GenerationStopped
            for _ in range(self._looks_every):
                self._held = [held + 1 for held in self._held]
                context = min(max(self._held), self._capacity)
                context = -(-context // self._context_step) * self._context_step
                self._advance(len(self._rows), context)
            told = self._tell(on_token, told)
            self._collect()

    def _eager_step(self, count: int, context: int) -> None:
        logits = self._decoder.step(self._table.last[:count], context)
        self._table.draw(self._index[:count], logits)

    def _fill(self) -> bool:
        """Give free slots to waiting prompts or, when none waits, close the gaps."""
        gaps = [slot for slot, row in enumerate(self._rows) if row is None]
        going = len(self._rows) - len(gaps)
        if going and self._has_fixed_batches:
            return False
        can_admit = self._refills or not going
        if self._waiting and can_admit and self.slots - going >= FREE_SHARE * self.slots:
            self._admit(gaps)
            gaps = [slot for slot, row in enumerate(self._rows) if row is None]
            self._close(gaps)
            return True
        if gaps and (not going or len(gaps) >= FREE_SHARE * len(self._rows)):
            self._close(gaps)
        return False

    def _admit(self, gaps: Sequence[int]) -> None:
        free = [*gaps, *range(len(self._rows), self.slots)]
        slots = free[: len(self._waiting)]
        rows = [self._waiting.popleft() for _ in slots]
        missing = max(slots) + 1 - len(self._rows)
        self._rows += [None] * missing
        self._held += [0] * missing
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot] = row
            self._held[slot] = len(self._prompts[row])
        places = torch.tensor(slots, device=self._device)
        logits = self._decoder.admit([self._prompts[row] for row in rows], places)
        self._table.admit(places, self._uniforms[rows].to(self._device), logits)

    def _close(self, gaps: Sequence[int]) -> None:
        """Move the rows of the last slots into the gaps."""
        if not gaps:
            return
        left = len(self._rows) - len(gaps)
        tail = iter(slot for slot in range(left, len(self._rows)) if self._rows[slot] is not None)
        kept = [slot if self._rows[slot] is not None else next(tail) for slot in range(left)]
        self._decoder.keep(kept)
        self._table.keep(kept)
        self._rows = [self._rows[slot] for slot in kept]
        self._held = [self._held[slot] for slot in kept]

    def _collect(self) -> None:
        """Take the finished responses out of their slots."""
        going = self._table.going[: len(self._rows)].tolist()
        ended = [slot for slot, row in enumerate(self._rows) if row is not None and not going[slot]]
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

    def _tell(self, on_token: Callable[[int], None] | None, told: int) -> int:
        """Hand on what is new of the first response; how much of it has been told."""
        if on_token is None or 0 not in self._rows:
            return told
        slot = self._rows.index(0)
        tokens = self._table.tokens[slot, : int(self._table.ages[slot])].tolist()
        for token in tokens[told:]:
            on_token(token)
        return len(tokens)
