"""Plan which sequences share a row, where that is cheaper than padding.

Pure and deterministic, as batches.py: every rank computes the same plan from the same lengths. A
`Sample` is a prompt with its responses, or a plain sequence: no prompt and one response. A
`Document` is the part of a sample in one row: the prompt once, then some of the responses, each
of which attends to the prompt and itself.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Literal

from training.data.batches import plan_micro_batches, split_for_rank

Packing = Literal["auto", "always", "never"]
LEAST_SAVING = 0.15  # the accuracy of `estimate_cost`; below it `auto` does not pack
WIDENINGS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # row widths to try, in longest samples


@dataclass(frozen=True)
class Sample:
    """The lengths of a prompt and its responses."""

    prompt: int
    responses: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response."""
        return self.prompt + max(self.responses)

    @property
    def total(self) -> int:
        return self.prompt + sum(self.responses)


@dataclass(frozen=True)
class Document:
    """The prompt of the sample with index `sample`, and some of its responses."""

    sample: int
    responses: tuple[int, ...]
    tokens: int


RowPlan = Sequence[Sequence[Document]]


@dataclass(frozen=True)
class MicroBatch:
    """Whole samples and the rows that hold them; empty for a rank that has none left."""

    samples: tuple[int, ...]
    rows: RowPlan


NOTHING = MicroBatch((), ())


@dataclass(frozen=True)
class RowRules:
    """How to fill rows, and what they cost.

    `longest_row` bounds rows of several sequences. At a row width of `attention_width`, attention
    costs as much as everything else. `padding_cost` is the cost of a padding token apart from
    attention: 0 if padding is removed, else 1.
    """

    packing: Packing
    token_budget: int
    longest_row: int
    attention_width: float
    padding_cost: float

    def estimate_cost(self, rows: RowPlan) -> float:
        """Estimate the cost of computing rows together, in tokens without attention."""
        width = max(map(_count_row_tokens, rows), default=0)
        real, padded = sum(map(_count_row_tokens, rows)), width * len(rows)
        padding = self.padding_cost * (padded - real)
        return real + padding + padded * width / self.attention_width


def count_padded_tokens(rows: RowPlan) -> int:
    """Count the tokens of rows that are padded to the longest of them."""
    return max(map(_count_row_tokens, rows), default=0) * len(rows)


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack indices of `lengths` into bins of at most `capacity`; a longer one is alone.

    Best fit decreasing: longest first, each into the fullest bin that has room.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        best = bisect_left(rooms, (lengths[index], -1))
        room, chosen = rooms.pop(best) if best < len(rooms) else (capacity, len(bins))
        if chosen == len(bins):
            bins.append([])
        bins[chosen].append(index)
        if room > lengths[index]:
            insort(rooms, (room - lengths[index], chosen))
    return bins


def pack_micro_batches(
    chosen: Sequence[int], samples: Sequence[Sample], *, token_budget: int, capacity: int
) -> list[MicroBatch]:
    """Pack whole samples into rows of at most `capacity` tokens; a longer sequence is alone.

    A micro-batch has at most `token_budget` padded tokens, or one sample. Long and short samples
    alternate, so that they fill each other's rows.
    """
    order = sorted(chosen, key=lambda index: -samples[index].longest)
    half = (len(order) + 1) // 2
    ends = zip(order[:half], [*reversed(order[half:]), None], strict=False)
    order = [index for pair in ends for index in pair if index is not None]
    plan = []
    while order:
        totals = accumulate(samples[index].total for index in order)  # without padding
        most = max(sum(1 for _ in takewhile(token_budget.__ge__, totals)), 1)
        fitting = bisect_right(
            range(1, most + 1),
            token_budget,
            key=lambda count: count_padded_tokens(_pack_rows(order[:count], samples, capacity)),
        )
        batch, order = order[: max(fitting, 1)], order[max(fitting, 1) :]
        plan.append(MicroBatch(tuple(batch), _pack_rows(batch, samples, capacity)))
    return plan


def plan_rows(
    chosen: Sequence[int], samples: Sequence[Sample], rules: RowRules
) -> list[MicroBatch]:
    """Plan a row per sequence, or packed rows of the width that is cheapest by `estimate_cost`.

    `auto` packs where this saves LEAST_SAVING or more.
    """
    apart = _plan_apart(chosen, samples, rules.token_budget)
    if rules.packing == "never" or not chosen:
        return apart
    least = sum(samples[index].total for index in chosen)
    most = (1.0 - LEAST_SAVING) * sum(rules.estimate_cost(m.rows) for m in apart)
    if rules.packing == "auto" and least > most:
        return apart
    widest = max(samples[index].longest for index in chosen)
    capacities = {max(min(int(widest * w), rules.longest_row), 1) for w in WIDENINGS}
    cost, capacity = min(
        (rules.estimate_cost(_pack_rows(chosen, samples, c)), c) for c in capacities
    )
    if rules.packing == "auto" and cost > most:
        return apart
    return pack_micro_batches(chosen, samples, token_budget=rules.token_budget, capacity=capacity)


def plan_packed_step(
    batch: Sequence[int], samples: Sequence[Sample], rules: RowRules, *, rank: int, size: int
) -> list[MicroBatch]:
    """Plan this rank's micro-batches, ended with empty ones so that every rank has equally many.

    Under ZeRO-3 a forward is a collective; see `batches.plan_step`.
    """
    costs = {index: samples[index].longest * len(samples[index].responses) for index in batch}
    shares = [split_for_rank(batch, costs, rank=each, size=size) for each in range(size)]
    plans = [plan_rows(share, samples, rules) for share in shares]
    return plans[rank] + [NOTHING] * (max(map(len, plans)) - len(plans[rank]))


def _plan_apart(
    chosen: Sequence[int], samples: Sequence[Sample], token_budget: int
) -> list[MicroBatch]:
    """Plan micro-batches of rows of one sequence each, longest first."""
    lengths = {index: samples[index].longest for index in chosen}
    counts = {index: len(samples[index].responses) for index in chosen}
    plan = plan_micro_batches(chosen, lengths, token_budget=token_budget, counts=counts)
    return [
        MicroBatch(
            tuple(indices),
            tuple(
                (Document(index, (k,), samples[index].prompt + length),)
                for index in indices
                for k, length in enumerate(samples[index].responses)
            ),
        )
        for indices in plan
    ]


def _pack_rows(chosen: Sequence[int], samples: Sequence[Sample], capacity: int) -> RowPlan:
    documents = []
    for index in chosen:
        # As few documents of at most `capacity` tokens as best fit finds.
        sample = samples[index]
        for each in pack_best_fit(sample.responses, capacity - sample.prompt):
            tokens = sample.prompt + sum(sample.responses[k] for k in each)
            documents.append(Document(index, tuple(sorted(each)), tokens))
    bins = pack_best_fit([document.tokens for document in documents], capacity)
    return [[documents[index] for index in sorted(each)] for each in bins]


def _count_row_tokens(row: Sequence[Document]) -> int:
    return sum(document.tokens for document in row)
