"""Supervised fine-tuning on ragged rows: stage 1's trainer beside TRL's SFTTrainer.

python -m benchmarks.sft --size small --batch 16 --answer 256 --peer trl --peer_packing
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

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
from training.arguments.parsing import arg, parse_args, require
from training.estimates.roofline import Machine

STEPS = 2  # optimizer steps of a run


@dataclass(frozen=True, kw_only=True)
class SFTBenchmarkArgs(TrainingBenchmarkArgs):
    """Flags of this benchmark."""

    prompt: int = arg(1, "Tokens of a row that are not learnt; TRL learns all but the first.")
    answer: int = arg(256, "Tokens of the longest row.")
    shortest: int = arg(16, "Tokens of the shortest row.")
    peer_packing: bool = arg(False, "The peer packs rows into blocks of the longest row's length.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ragged(self.prompt, self.shortest, self.answer)
        require(self.prompt == 1 or self.peer == "none", "--prompt above 1 needs --peer none")


def rows_of(args: SFTBenchmarkArgs) -> list[list[int]]:
    """The rows of one run, of random tokens and lengths."""
    lengths = ragged_lengths(args.batch * STEPS, args.shortest, args.answer, seed=2)
    return random_rows(lengths, vocabulary_of(args.size), seed=3)


def ours(args: SFTBenchmarkArgs) -> Callable[[], float]:
    """Optimizer steps of stage 1."""
    from training.arguments.sft import SFTArgs
    from training.data.encode import EncodedText
    from training.models.loading import load_causal_lm
    from training.models.tokenizers import load_tokenizer
    from training.trainers.sft.setup import build_engine
    from training.trainers.sft.step import SFTTrainer

    side = OurSide(args, args.answer)
    settings = SFTArgs(
        **side.common(args),
        model_name_or_path=side.lm,
        batch_size=args.batch,
        max_length=args.answer,
        learning_rate=LEARNING_RATE,
    )
    world = side.join(settings)
    tokenizer = load_tokenizer(side.lm, flag="")
    model = load_causal_lm(side.lm, tokenizer, device=world.device, dropout=None)
    engine = build_engine(model, settings, world, tokenizer)
    learnt = [[place >= args.prompt for place in range(len(row))] for row in rows_of(args)]
    examples = [EncodedText(row, mask) for row, mask in zip(rows_of(args), learnt, strict=True)]
    trainer = SFTTrainer(settings, world, engine, examples)

    def run() -> float:
        for batch in trainer.batches(0):
            trainer.step(batch, 1.0)
        assert side.folder.exists()
        return float(sum(trainer.lengths))

    return run


def trl(args: SFTBenchmarkArgs) -> Callable[[], float]:
    """The same rows through TRL, padded or packed."""
    from transformers import GPT2LMHeadModel
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from benchmarks.gate import EPOCHS, Gate, dataset_of

    with TemporaryDirectory() as folder:
        path, _ = write_models(args.size, args.answer, Path(folder))
        model = GPT2LMHeadModel.from_pretrained(path, dtype=peer_dtype(args))
    rows = rows_of(args)
    gate = Gate()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **trl_common(),
            per_device_train_batch_size=args.batch,
            num_train_epochs=EPOCHS,
            max_length=args.answer,
            packing=args.peer_packing,
            logging_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=build_tokenizer(args.size),
        train_dataset=dataset_of({"input_ids": rows}),
        callbacks=[gate],
    )
    gate.steps = len(trainer.get_train_dataloader())  # packed rows are fewer
    gate.start(trainer.train)

    def run() -> float:
        gate.run()
        return float(sum(map(len, rows)))

    return run


def least_seconds(args: SFTBenchmarkArgs, machine: Machine) -> float:
    """Roofline of a run: forwards and backwards over real tokens, one pass of Adam a step."""
    lengths = list(map(len, rows_of(args)))
    targets = sum(lengths) - args.prompt * len(lengths)
    return training_seconds(args.size, machine, lengths, targets=targets, steps=STEPS)


def main() -> None:
    args = parse_args(SFTBenchmarkArgs)
    compare(
        args,
        ours=ours,
        peer=trl if args.peer == "trl" else None,
        unit="real tokens",
        least_seconds=lambda machine: least_seconds(args, machine),
    )


if __name__ == "__main__":
    main()
