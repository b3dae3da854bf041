"""Time supervised fine-tuning on rows of random lengths: stage 1's trainer beside TRL's SFTTrainer.

python -m benchmarks.sft --size small --batch 16 --answer 256 --peer trl --peer_packing
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import models, setting
from benchmarks.arguments import RaggedBenchmarkArgs
from benchmarks.paired import compare_with_trl
from training.arguments.parsing import arg, parse_args, require
from training.estimates.roofline import Machine

STEPS = 2  # optimizer steps of a run


@dataclass(frozen=True, kw_only=True)
class SFTBenchmarkArgs(RaggedBenchmarkArgs):
    """Flags of this benchmark."""

    prompt: int = arg(1, "Tokens of a row without a loss; TRL trains on all but the first.")
    answer: int = arg(256, "Tokens of the longest row.")
    shortest: int = arg(16, "Tokens of the shortest row.")
    peer_packing: bool = arg(False, "The peer packs rows into blocks of the longest row's length.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.prompt == 1 or self.peer == "none", "--prompt above 1 needs --peer none")


def make_training_rows(args: SFTBenchmarkArgs) -> list[list[int]]:
    """Make the rows of one run, of random tokens and lengths."""
    lengths = models.make_lengths(args.batch * STEPS, args.shortest, args.answer, seed=2)
    return models.make_rows(lengths, models.get_vocabulary_size(args.size), seed=3)


def prepare_ours(args: SFTBenchmarkArgs) -> Callable[[], float]:
    """Return a run of stage 1's optimizer steps."""
    from training.arguments.sft import SFTArgs
    from training.data.encode import EncodedText
    from training.models.loading import load_causal_lm
    from training.models.tokenizers import load_tokenizer
    from training.trainers.sft.setup import build_engine
    from training.trainers.sft.step import SFTTrainer

    side = setting.OurSide(args, args.answer)
    settings = SFTArgs(
        **side.make_common_flags(args),
        model_name_or_path=side.lm,
        batch_size=args.batch,
        max_length=args.answer,
        learning_rate=setting.LEARNING_RATE,
    )
    world = side.join(settings)
    tokenizer = load_tokenizer(side.lm, flag="")
    model = load_causal_lm(side.lm, tokenizer, device=world.device, dropout=None)
    engine = build_engine(model, settings, world, tokenizer)
    examples = [
        EncodedText(row, [index >= args.prompt for index in range(len(row))])
        for row in make_training_rows(args)
    ]
    trainer = SFTTrainer(settings, world, engine, examples)
    return side.make_run(trainer, float(sum(trainer.lengths)))


def prepare_trl(args: SFTBenchmarkArgs) -> Callable[[], float]:
    """Return a run of TRL's trainer on the same rows, padded or packed."""
    from transformers import GPT2LMHeadModel
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from benchmarks.gate import Gate, gate_trainer, make_dataset, make_epoch_settings

    with TemporaryDirectory() as folder:
        path, _ = models.write_models(args.size, args.answer, Path(folder))
        model = GPT2LMHeadModel.from_pretrained(path, dtype=setting.choose_peer_dtype(args))
    rows = make_training_rows(args)
    settings = {**setting.make_trl_settings(), **make_epoch_settings(args)}

    def make(gate: Gate) -> Any:
        return SFTTrainer(
            model=model,
            args=SFTConfig(**settings, packing=args.peer_packing),
            processing_class=models.build_tokenizer(args.size),
            train_dataset=make_dataset({"input_ids": rows}),
            callbacks=[gate],
        )

    # Packed rows are fewer, so the number of steps is known only from the trainer.
    return gate_trainer(make, float(sum(map(len, rows))), steps=None)


def estimate_least_seconds(args: SFTBenchmarkArgs, machine: Machine) -> float:
    """Estimate the roofline of a run: forward and backward over real tokens, Adam per step."""
    lengths = list(map(len, make_training_rows(args)))
    targets = sum(lengths) - args.prompt * len(lengths)
    return setting.estimate_training_seconds(
        args.size, machine, lengths, targets=targets, steps=STEPS
    )


def main() -> None:
    args = parse_args(SFTBenchmarkArgs)
    compare_with_trl(args, prepare_ours, prepare_trl, "real tokens", estimate_least_seconds)


if __name__ == "__main__":
    main()
