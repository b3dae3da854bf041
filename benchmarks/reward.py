"""Reward-model training on ragged pairs: stage 2's trainer beside TRL's RewardTrainer.

python -m benchmarks.reward --size small --batch 16 --answer 256 --peer trl
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.arguments import TrainingBenchmarkArgs
from benchmarks.models import (
    build_tokenizer,
    ragged_lengths,
    random_rows,
    vocabulary_of,
    write_models,
)
from benchmarks.paired import compare
from benchmarks.setting import (
    LEARNING_RATE,
    OurSide,
    peer_dtype,
    require_ragged,
    training_seconds,
    trl_common,
)
from training.arguments.parsing import arg, parse_args
from training.estimates.roofline import Machine

if TYPE_CHECKING:
    from training.data.encode import EncodedGroup

STEPS = 2  # optimizer steps of a run


@dataclass(frozen=True, kw_only=True)
class RewardBenchmarkArgs(TrainingBenchmarkArgs):
    """Flags of this benchmark."""

    prompt: int = arg(16, "Tokens of the prompt that a pair shares.")
    answer: int = arg(256, "Longest sequence, prompt included.")
    shortest: int = arg(32, "Shortest sequence, prompt included.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ragged(self.prompt, self.shortest, self.answer)


Pairs = list[tuple[list[int], list[int], list[int]]]  # prompt, chosen, rejected


def pairs_of(args: RewardBenchmarkArgs) -> Pairs:
    """The pairs of one run, of random tokens and lengths."""
    count, vocabulary = args.batch * STEPS, vocabulary_of(args.size)
    prompts = random_rows([args.prompt] * count, vocabulary, seed=1)
    sides = []
    for seed in (2, 3):
        lengths = ragged_lengths(count, args.shortest, args.answer, seed)
        sides.append(random_rows([n - args.prompt for n in lengths], vocabulary, seed=10 + seed))
    return list(zip(prompts, *sides, strict=True))


def ours(args: RewardBenchmarkArgs) -> Callable[[], float]:
    """Optimizer steps of stage 2."""
    from training.data.encode import EncodedGroup
    from training.data.records import Pair

    groups = [
        EncodedGroup(prompt, [chosen, rejected], (Pair(0, 1),), str(n))
        for n, (prompt, chosen, rejected) in enumerate(pairs_of(args))
    ]
    return stage_2(args, groups, batch_size=args.batch)


def stage_2(
    args: TrainingBenchmarkArgs, groups: "list[EncodedGroup]", *, batch_size: int
) -> Callable[[], float]:
    """An epoch of stage 2 over these groups; a run returns how many comparisons it had."""
    from training.arguments.reward import RewardArgs
    from training.models.tokenizers import load_tokenizer
    from training.trainers.reward import setup
    from training.trainers.reward.step import RewardTrainer

    side = OurSide(args, args.answer)
    settings = RewardArgs(
        **side.common(args),
        model_name_or_path=side.lm,
        batch_size=batch_size,
        max_length=args.answer,
        learning_rate=LEARNING_RATE,
    )
    world = side.join(settings)
    tokenizer = load_tokenizer(side.lm, flag="")
    model = setup.make_reward_model(settings, world, tokenizer)
    engine = setup.build_engine(model, settings, world)
    trainer = RewardTrainer(settings, world, engine, groups, tokenizer.pad_token_id)

    def run() -> float:
        for batch in trainer.batches(0):
            trainer.step(batch, 1.0)
        assert side.folder.exists()
        return float(sum(len(group.pairs) for group in groups))

    return run


def trl(args: RewardBenchmarkArgs) -> Callable[[], float]:
    """The same pairs through TRL."""
    from transformers import GPT2ForSequenceClassification
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    from benchmarks.gate import EPOCHS, Gate, dataset_of

    with TemporaryDirectory() as folder:
        _, path = write_models(args.size, args.answer, Path(folder))
        model = GPT2ForSequenceClassification.from_pretrained(path, dtype=peer_dtype(args))
    pairs = pairs_of(args)
    rows = {
        "chosen_ids": [prompt + chosen for prompt, chosen, _ in pairs],
        "rejected_ids": [prompt + rejected for prompt, _, rejected in pairs],
    }
    gate = Gate(STEPS)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            **trl_common(),
            per_device_train_batch_size=args.batch,
            num_train_epochs=EPOCHS,
            max_length=args.answer,
            center_rewards_coefficient=None,
            logging_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=build_tokenizer(args.size),
        train_dataset=dataset_of(rows),
        callbacks=[gate],
    )
    gate.start(trainer.train)

    def run() -> float:
        gate.run()
        return float(args.batch * STEPS)

    return run


def least_seconds(args: RewardBenchmarkArgs, machine: Machine) -> float:
    """Roofline of a run: forwards and backwards over real tokens, one pass of Adam a step."""
    lengths = []
    for _, chosen, rejected in pairs_of(args):
        lengths += [args.prompt + len(chosen), len(rejected)]  # a shared prompt is computed once
    return training_seconds(args.size, machine, lengths, targets=0, steps=STEPS)


def main() -> None:
    args = parse_args(RewardBenchmarkArgs)
    compare(
        args,
        ours=ours,
        peer=trl if args.peer == "trl" else None,
        unit="pairs",
        least_seconds=lambda machine: least_seconds(args, machine),
    )


if __name__ == "__main__":
    main()
