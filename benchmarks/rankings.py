"""Time reward-model training on rankings: all responses of a prompt together, or pair by pair.

python -m benchmarks.rankings --size small --responses 4

Both sides are stage 2, with the same comparisons in each optimizer step and so the same loss. Ours
scores each response once, the peer once for each of its pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from benchmarks.arguments import RaggedBenchmarkArgs
from benchmarks.models import get_vocabulary_size, make_lengths, make_rows
from benchmarks.paired import compare
from benchmarks.reward import STEPS, prepare_stage_2
from training.arguments.parsing import arg, parse_args, require
from training.data.encode import EncodedGroup
from training.data.records import Pair


@dataclass(frozen=True, kw_only=True)
class RankingsBenchmarkArgs(RaggedBenchmarkArgs):
    """Flags of this benchmark; --peer stays none, since the other side is ours too."""

    batch: int = arg(4, "Prompts per step.")
    responses: int = arg(4, "Ranked responses of a prompt.")
    shortest: int = arg(80, "Tokens of the shortest sequence, prompt included.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.responses >= 2, f"--responses must be at least 2, got {self.responses}")
        require(self.peer == "none", f"--peer {self.peer}: the other side is ours, pair by pair")


def make_rankings(args: RankingsBenchmarkArgs) -> list[EncodedGroup]:
    """Make the groups of one run: all K(K-1)/2 comparisons of K responses of random tokens."""
    count, vocabulary = args.batch * STEPS, get_vocabulary_size(args.size)
    prompts = make_rows([args.prompt] * count, vocabulary, seed=1)
    lengths = make_lengths(count * args.responses, args.shortest, args.answer, seed=2)
    rows = make_rows([n - args.prompt for n in lengths], vocabulary, seed=3)
    pairs = tuple(Pair(i, j) for i, j in combinations(range(args.responses), 2))
    starts = range(0, len(rows), args.responses)
    return [
        EncodedGroup(prompt, rows[start : start + args.responses], pairs, str(start))
        for prompt, start in zip(prompts, starts, strict=True)
    ]


def split_pairs(groups: list[EncodedGroup]) -> list[EncodedGroup]:
    """Make each comparison a group."""
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


def count_tokens(groups: list[EncodedGroup]) -> int:
    """Count the tokens of all sequences; a prompt counts with each of its responses."""
    return sum(len(g.prompt_ids) + len(ids) for g in groups for ids in g.response_ids)


def prepare_together(args: RankingsBenchmarkArgs) -> Callable[[], float]:
    return prepare_stage_2(args, make_rankings(args), batch_size=args.batch)


def prepare_pairs(args: RankingsBenchmarkArgs) -> Callable[[], float]:
    pairs = args.responses * (args.responses - 1) // 2
    return prepare_stage_2(args, split_pairs(make_rankings(args)), batch_size=args.batch * pairs)


def main() -> None:
    args = parse_args(RankingsBenchmarkArgs)
    groups = make_rankings(args)
    tokens = {"ours": count_tokens(groups), "peer": count_tokens(split_pairs(groups))}
    details = {"sequence_tokens": {**tokens, "ratio": round(tokens["peer"] / tokens["ours"], 3)}}
    compare(args, ours=prepare_together, peer=prepare_pairs, unit="comparisons", details=details)


if __name__ == "__main__":
    main()
