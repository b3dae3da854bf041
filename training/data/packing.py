"""Which sequences share a row, and when that is cheaper than padding.

Pure and deterministic, as batches.py: every rank computes the same plan from the same lengths. A
`Sample` is a prompt with its responses, or a plain sequence: no prompt and one response. A
`Document` is what stands in a row of one sample: the prompt once, then some of the responses,
each of which reads the prompt and itself.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.data.batches import plan_micro_batches, split_for_rank

Packing = Literal["auto", "always", "never"]
LEAST_SAVING = 0.15  # below it, which is as near as `cost` is, `auto` keeps sequences apart
WIDENINGS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # rows tried, in longest sequences


@dataclass(frozen=True)
class Sample:
    """The lengths of a prompt and its responses."""

    prompt: int
    responses: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response."""
        return self.prompt + max(self.responses)


@dataclass(frozen=True)
class Document:
    """Some responses of the sample with index `sample`, after their prompt."""

    sample: int
    responses: tuple[int, ...]
    tokens: int


RowPlan = Sequence[Sequence[Document]]


@dataclass(frozen=True)
class MicroBatch:
    """Whole samples, and the rows that hold them; empty for a rank that has none left."""

    samples: tuple[int, ...]
    rows: RowPlan


NOTHING = MicroBatch((), ())


@dataclass(frozen=True)
class RowRules:
    """How rows are filled.

    `longest_row` bounds rows of several sequences. `attention_width` is the width of a row at
    which attention costs as much as everything else; `padding_cost` is what a token of padding
    costs apart from attention, 0 where it is taken out, else 1.
    """

    packing: Packing
    token_budget: int
    longest_row: int
    attention_width: float
    padding_cost: float

    def cost(self, rows: RowPlan) -> float:
        """What it takes to compute these rows together, in tokens without attention."""
        real, padded, width = sum(map(_tokens, rows)), count_padded_tokens(rows), _width(rows)
        padding = self.padding_cost * (padded - real)
        return real + padding + padded * width / self.attention_width


def count_padded_tokens(rows: RowPlan) -> int:
    """Tokens of these rows, padded to the longest of them."""
    return _width(rows) * len(rows)


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of places in `lengths`, each of at most `capacity`; a longer one stands alone.

    Best fit decreasing: longest first, each into the fullest bin that has room.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        best = bisect_left(rooms, (lengths[place], -1))
        room, chosen = rooms.pop(best) if best < len(rooms) else (capacity, len(bins))
        if chosen == len(bins):
            bins.append([])
        bins[chosen].append(place)
        if room > lengths[place]:
            insort(rooms, (room - lengths[place], chosen))
    return bins


def pack_micro_batches(
    chosen: Sequence[int], samples: Sequence[Sample], *, token_budget: int, capacity: int
) -> list[MicroBatch]:
    """Whole samples in rows of at most `capacity` tokens, which only a sequence alone exceeds.

    A micro-batch has at most `token_budget` padded tokens, or one sample. Long and short samples
    come in turn, so that they fill each other's rows.
    """
    order = sorted(chosen, key=lambda index: -samples[index].longest)
    half = (len(order) + 1) // 2
    ends = zip(order[:half], [*reversed(order[half:]), None], strict=False)
    order = [index for pair in ends for index in pair if index is not None]
    plan = []
    while order:
        counts = range(1, len(order) + 1)
        most = _fitting(order, samples, token_budget)
        fitting = bisect_right(
            counts[:most],
            token_budget,
            key=lambda count: count_padded_tokens(_packed(order[:count], samples, capacity)),
        )
        taken, order = order[: max(fitting, 1)], order[max(fitting, 1) :]
        plan.append(MicroBatch(tuple(taken), _packed(taken, samples, capacity)))
    return plan


def plan_rows(
    chosen: Sequence[int], samples: Sequence[Sample], rules: RowRules
) -> list[MicroBatch]:
    """A row for each sequence, or packed at the width that is cheapest by `rules.cost`.

    `auto` packs where this saves LEAST_SAVING or more.
    """
    apart = _apart(chosen, samples, rules.token_budget)
    if rules.packing == "never" or not chosen:
        return apart
    least = sum(samples[index].prompt + sum(samples[index].responses) for index in chosen)
    most = (1.0 - LEAST_SAVING) * sum(rules.cost(m.rows) for m in apart)
    if rules.packing == "auto" and least > most:
        return apart
    widest = max(samples[index].longest for index in chosen)
    capacities = {max(min(int(widest * w), rules.longest_row), 1) for w in WIDENINGS}
    cost, capacity = min((rules.cost(_packed(chosen, samples, c)), c) for c in capacities)
    if rules.packing == "auto" and cost > most:
        return apart
    return pack_micro_batches(chosen, samples, token_budget=rules.token_budget, capacity=capacity)


def plan_packed_step(
    batch: Sequence[int], samples: Sequence[Sample], rules: RowRules, *, rank: int, size: int
) -> list[MicroBatch]:
    """This rank's micro-batches, ended with empty ones so that every rank has equally many.

    Under ZeRO-3 a forward is a collective; see `batches.plan_step`.
    """
    costs = {index: samples[index].longest * len(samples[index].responses) for index in batch}
    shares = [split_for_rank(batch, costs, rank=each, size=size) for each in range(size)]
    plans = [plan_rows(share, samples, rules) for share in shares]
    most = max(len(plan) for plan in plans)
    return plans[rank] + [NOTHING] * (most - len(plans[rank]))


def _apart(chosen: Sequence[int], samples: Sequence[Sample], token_budget: int) -> list[MicroBatch]:
    """Micro-batches of rows of one sequence each, longest first."""
    lengths = {index: samples[index].longest for index in chosen}
    counts = {index: len(samples[index].responses) for index in chosen}
    plan = plan_micro_batches(chosen, lengths, token_budget=token_budget, counts=counts)
    return [
        MicroBatch(
            tuple(places),
            tuple(
                (Document(index, (k,), samples[index].prompt + length),)
                for index in places
                for k, length in enumerate(samples[index].responses)
            ),
        )
        for places in plan
    ]


def _packed(chosen: Sequence[int], samples: Sequence[Sample], capacity: int) -> RowPlan:
    documents = [doc for index in chosen for doc in _documents(index, samples[index], capacity)]
    bins = pack_best_fit([document.tokens for document in documents], capacity)
    return [[documents[place] for place in sorted(places)] for places in bins]


def _documents(index: int, sample: Sample, capacity: int) -> list[Document]:
    """The sample in as few documents of at most `capacity` tokens as best fit finds."""
    bins = pack_best_fit(sample.responses, capacity - sample.prompt)
    return [
        Document(index, tuple(places), sample.prompt + sum(sample.responses[p] for p in places))
        for places in map(sorted, bins)
    ]


def _fitting(order: Sequence[int], samples: Sequence[Sample], token_budget: int) -> int:
    """How many samples from the front have, without padding, at most so many tokens; at least 1."""
    held = 0
    for count, index in enumerate(order):
        held += samples[index].prompt + sum(samples[index].responses)
        if held > token_budget:
            return max(count, 1)
    return len(order)


def _tokens(row: Sequence[Document]) -> int:
    return sum(document.tokens for document in row)


def _width(rows: RowPlan) -> int:
    return max(map(_tokens, rows), default=0)
