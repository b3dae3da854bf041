"""Plan which rows are in a batch, on a rank and in a micro-batch.

Pure and deterministic: every rank computes the same plan from the same lengths. `lengths[i]` is
the cost of row i; `rows` and batches are lists of row indices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from training.data.lazy import Lazy
from training.draws import make_random

T = TypeVar("T")

WINDOW_BATCHES = 16  # rows are sorted by length within this many batches


def plan_epoch(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Plan an epoch: every row once, rows of similar length together, batches in random order."""
    _check_positive("batch_size", batch_size)
    draw = make_random("epoch", seed, epoch)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    window = WINDOW_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lengths.__getitem__, reverse=True)
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    draw.shuffle(batches)
    return batches


def split_for_rank(
    batch: Sequence[int], lengths: Sequence[int] | Mapping[int, int], *, rank: int, size: int
) -> list[int]:
    """Return this rank's rows of a batch, in the batch's order.

    Rows are dealt longest first, there and back (0 1 2 2 1 0 0 1 ...): ranks differ by at most one
    row, and in total length by at most the longest row.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank must be 0 to {size - 1}, got {rank}")
    longest_first = sorted(range(len(batch)), key=lambda index: -lengths[batch[index]])
    mine = []
    for turn, index in enumerate(longest_first):
        lap, seat = divmod(turn, size)
        if rank == (seat if lap % 2 == 0 else size - 1 - seat):
            mine.append(index)
    return [batch[index] for index in sorted(mine)]


def plan_micro_batches(
    rows: Sequence[int],
    lengths: Sequence[int] | Mapping[int, int],
    *,
    token_budget: int,
    counts: Sequence[int] | Mapping[int, int] | None = None,
) -> list[list[int]]:
    """Plan micro-batches of at most `token_budget` padded tokens, longest first.

    A longer row is alone. Row i holds `counts[i]` sequences, by default 1, of at most `lengths[i]`
    tokens.
    """
    _check_positive("token_budget", token_budget)
    plan: list[list[int]] = []
    longest = sequences = 0
    for row in sorted(rows, key=lambda row: -lengths[row]):
        count = counts[row] if counts else 1
        if plan and longest * (sequences + count) <= token_budget:
            plan[-1].append(row)
            sequences += count
        else:
            plan.append([row])
            longest, sequences = lengths[row], count
    return plan


def plan_step(
    batch: Sequence[int], lengths: Sequence[int], *, token_budget: int, rank: int, size: int
) -> list[list[int]]:
    """Plan this rank's micro-batches, ended with [] so that every rank has equally many.

    Under ZeRO-3 a forward is a collective: a rank with fewer of them would leave the others
    waiting, so it must run an empty one.
    """
    shares = [split_for_rank(batch, lengths, rank=each, size=size) for each in range(size)]
    plans = [plan_micro_batches(share, lengths, token_budget=token_budget) for share in shares]
    return plans[rank] + [[] for _ in range(max(map(len, plans)) - len(plans[rank]))]


@dataclass(frozen=True)
class Batches(Lazy[list[T]]):
    """Batches of rows, each fetched when it is asked for."""

    rows: Sequence[T]
    plan: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.plan)

    def make_item(self, index: int) -> list[T]:
        return [self.rows[row] for row in self.plan[index]]


@dataclass(frozen=True)
class PromptStream:
    """Endless batches of `batch_size` out of `count` rows, for any step directly.

    Shuffled epochs follow each other; a batch may end in the next epoch.
    """

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check_positive("count", self.count)
        _check_positive("batch_size", self.batch_size)

    def select_rows(self, step: int) -> list[int]:
        """Return the rows of one step, counted from 1."""
        _check_positive("step", step)
        first = (step - 1) * self.batch_size
        drawn = (divmod(n, self.count) for n in range(first, first + self.batch_size))
        return [_shuffle_epoch(self.count, self.seed, epoch)[index] for epoch, index in drawn]


@lru_cache(maxsize=4)
def _shuffle_epoch(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    make_random("prompts", seed, epoch).shuffle(order)
    return tuple(order)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
