"""Time reward-model training on pairs of random lengths: stage 2 beside TRL's RewardTrainer.

python -m benchmarks.reward --size small --batch 16 --answer 256 --peer trl
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import models, setting
from benchmarks.arguments import RaggedBenchmarkArgs, TrainingBenchmarkArgs
from benchmarks.paired import compare_with_trl
from training.arguments.parsing import arg, parse_args
from training.estimates.roofline import Machine

if TYPE_CHECKING:
    from training.data.encode import EncodedGroup

STEPS = 2  # optimizer steps of a run

Pairs = list[tuple[list[int], list[int], list[int]]]  # prompt, chosen, rejected


@dataclass(frozen=True, kw_only=True)
class RewardBenchmarkArgs(RaggedBenchmarkArgs):
    """Flags of this benchmark."""

    prompt: int = arg(16, "Tokens of the prompt that a pair shares.")


def make_pairs(args: RewardBenchmarkArgs) -> Pairs:
    """Make the pairs of one run, of random tokens and lengths."""
    count, vocabulary = args.batch * STEPS, models.get_vocabulary_size(args.size)
    prompts = models.make_rows([args.prompt] * count, vocabulary, seed=1)
    sides = []
    for seed in (2, 3):
        lengths = models.make_lengths(count, args.shortest, args.answer, seed)
        lengths = [length - args.prompt for length in lengths]
        sides.append(models.make_rows(lengths, vocabulary, seed=10 + seed))
    return list(zip(prompts, *sides, strict=True))


def prepare_ours(args: RewardBenchmarkArgs) -> Callable[[], float]:
    """Return a run of stage 2's optimizer steps."""
    from training.data.encode import EncodedGroup
    from training.data.records import Pair

    groups = [
        EncodedGroup(prompt, [chosen, rejected], (Pair(0, 1),), str(n))
        for n, (prompt, chosen, rejected) in enumerate(make_pairs(args))
    ]
    return prepare_stage_2(args, groups, batch_size=args.batch)


def prepare_stage_2(
    args: TrainingBenchmarkArgs, groups: "list[EncodedGroup]", *, batch_size: int
) -> Callable[[], float]:
    """Return a run of an epoch over these groups; it returns the number of comparisons."""
    from training.arguments.reward import RewardArgs
    from training.models.tokenizers import load_tokenizer
    from training.trainers.reward import setup
    from training.trainers.reward.step import RewardTrainer

    side = setting.OurSide(args, args.answer)
    settings = RewardArgs(
        **side.make_common_flags(args),
        model_name_or_path=side.lm,
        batch_size=batch_size,
        max_length=args.answer,
        learning_rate=setting.LEARNING_RATE,
    )
    world = side.join(settings)
    tokenizer = load_tokenizer(side.lm, flag="")
    model = setup.make_reward_model(settings, world, tokenizer)
    engine = setup.build_engine(model, settings, world)
    trainer = RewardTrainer(settings, world, engine, groups, tokenizer.pad_token_id)
    return side.make_run(trainer, float(sum(len(group.pairs) for group in groups)))


def prepare_trl(args: RewardBenchmarkArgs) -> Callable[[], float]:
    """Return a run of TRL's trainer on the same pairs."""
    from transformers import GPT2ForSequenceClassification
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    from benchmarks.gate import Gate, gate_trainer, make_dataset, make_epoch_settings

    with TemporaryDirectory() as folder:
        _, path = models.write_models(args.size, args.answer, Path(folder))
        dtype = setting.choose_peer_dtype(args)
        model = GPT2ForSequenceClassification.from_pretrained(path, dtype=dtype)
    rows: dict[str, Any] = {"chosen_ids": [], "rejected_ids": []}
    for prompt, chosen, rejected in make_pairs(args):
        rows["chosen_ids"].append(prompt + chosen)
        rows["rejected_ids"].append(prompt + rejected)
    settings = {**setting.make_trl_settings(), **make_epoch_settings(args)}

    def make(gate: Gate) -> Any:
        return RewardTrainer(
            model=model,
            args=RewardConfig(**settings, center_rewards_coefficient=None),
            processing_class=models.build_tokenizer(args.size),
            train_dataset=make_dataset(rows),
            callbacks=[gate],
        )

    return gate_trainer(make, float(args.batch * STEPS), steps=STEPS)


def estimate_least_seconds(args: RewardBenchmarkArgs, machine: Machine) -> float:
    """Estimate the roofline of a run: forward and backward over real tokens, Adam per step."""
    lengths = []
    for _, chosen, rejected in make_pairs(args):
        lengths += [args.prompt + len(chosen), len(rejected)]  # a shared prompt is computed once
    return setting.estimate_training_seconds(args.size, machine, lengths, targets=0, steps=STEPS)


def main() -> None:
    args = parse_args(RewardBenchmarkArgs)
    compare_with_trl(args, prepare_ours, prepare_trl, "pairs", estimate_least_seconds)


if __name__ == "__main__":
    main()
