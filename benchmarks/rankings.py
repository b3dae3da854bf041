"""Reward-model training on rankings: a prompt's responses together, beside pair by pair.

python -m benchmarks.rankings --size small --responses 4

Both sides are stage 2 and have the same comparisons in each optimizer step, so the same loss; ours
scores a response once, the peer once for each of its pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from benchmarks.arguments import TrainingBenchmarkArgs
from benchmarks.models import ragged_lengths, random_rows, vocabulary_of
from benchmarks.paired import compare
from benchmarks.reward import STEPS, stage_2
from benchmarks.setting import require_ragged
from training.arguments.parsing import arg, parse_args, require
from training.data.encode import EncodedGroup
from training.data.records import Pair


@dataclass(frozen=True, kw_only=True)
class RankingsBenchmarkArgs(TrainingBenchmarkArgs):
    """Flags of this benchmark; --peer stays none, the other side is ours too."""

    batch: int = arg(4, "Prompts of one step.")
    responses: int = arg(4, "Ranked responses of a prompt.")
    answer: int = arg(256, "Longest sequence, prompt included.")
    shortest: int = arg(80, "Shortest sequence, prompt included.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ragged(self.prompt, self.shortest, self.answer)
        require(self.responses >= 2, f"--responses must be at least 2, got {self.responses}")
        require(self.peer == "none", f"--peer {self.peer}: the other side is ours, pair by pair")


def rankings(args: RankingsBenchmarkArgs) -> list[EncodedGroup]:
    """The groups of one run: all K(K-1)/2 comparisons of K responses of random tokens."""
    count, vocabulary = args.batch * STEPS, vocabulary_of(args.size)
    prompts = random_rows([args.prompt] * count, vocabulary, seed=1)
    lengths = ragged_lengths(count * args.responses, args.shortest, args.answer, seed=2)
    rows = random_rows([n - args.prompt for n in lengths], vocabulary, seed=3)
    pairs = tuple(Pair(i, j) for i, j in combinations(range(args.responses), 2))
    starts = range(0, len(rows), args.responses)
    return [
        EncodedGroup(prompt, rows[start : start + args.responses], pairs, str(start))
        for prompt, start in zip(prompts, starts, strict=True)
    ]


def separated(groups: list[EncodedGroup]) -> list[EncodedGroup]:
    """Each comparison a group of its own."""
    return [
        EncodedGroup(
            group.prompt_ids,
            [group.response_ids[pair.chosen], group.response_ids[pair.rejected]],
            (Pair(0, 1),),
            group.source,
        )
        for group in groups
        for pair in group.pairs
    ]


def sequence_tokens(groups: list[EncodedGroup]) -> int:
    """Tokens of all sequences, a prompt counted with each of its responses."""
    return sum(len(g.prompt_ids) + len(ids) for g in groups for ids in g.response_ids)


def together(args: RankingsBenchmarkArgs) -> Callable[[], float]:
    return stage_2(args, rankings(args), batch_size=args.batch)


def pair_by_pair(args: RankingsBenchmarkArgs) -> Callable[[], float]:
    pairs = args.responses * (args.responses - 1) // 2
    return stage_2(args, separated(rankings(args)), batch_size=args.batch * pairs)


def main() -> None:
    args = parse_args(RankingsBenchmarkArgs)
    groups = rankings(args)
    tokens = {"ours": sequence_tokens(groups), "peer": sequence_tokens(separated(groups))}
    details = {"forward_tokens": {**tokens, "ratio": round(tokens["peer"] / tokens["ours"], 3)}}
    compare(args, ours=together, peer=pair_by_pair, unit="comparisons", details=details)


if __name__ == "__main__":
    main()
