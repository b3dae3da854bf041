"""Supervised fine-tuning on ragged rows: stage 1's trainer beside TRL's SFTTrainer.

python -m benchmarks.sft --size small --batch 16 --answer 256 --peer trl --peer_packing
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import BenchmarkArgs
from benchmarks.models import build_tokenizer, ragged_lengths, random_rows, shape_of, write_models
from benchmarks.paired import compare
from training.arguments.parsing import arg, parse_args

LEARNING_RATE = 1e-6
STEPS = 2  # optimizer steps of a run


@dataclass(frozen=True, kw_only=True)
class SFTBenchmarkArgs(BenchmarkArgs):
    """Flags of this benchmark."""

    answer: int = arg(256, "Tokens of the longest row.")
    shortest: int = arg(16, "Tokens of the shortest row.")
    peer_packing: bool = arg(False, "The peer packs rows into blocks of the longest row's length.")
    micro_batch_tokens: int = arg(4096, "--micro_batch_tokens of stage 1.")


def rows_of(args: SFTBenchmarkArgs) -> list[list[int]]:
    """The rows of one run, of random tokens and lengths."""
    lengths = ragged_lengths(args.batch * STEPS, args.shortest, args.answer, seed=2)
    return random_rows(lengths, shape_of(args.size)[3], seed=3)


def ours(args: SFTBenchmarkArgs) -> Callable[[], float]:
    """Optimizer steps of stage 1."""
    from training.arguments.sft import SFTArgs
    from training.data.encode import EncodedText
    from training.models.loading import load_causal_lm
    from training.models.tokenizers import load_tokenizer
    from training.runtime import distributed
    from training.trainers.sft import SFTTrainer, sft_engine

    stack = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lm, _ = write_models(args.size, args.answer, folder)
    settings = SFTArgs(
        output_dir=str(folder / "out"),
        model_name_or_path=lm,
        zero_stage=0,
        dtype=args.dtype,
        batch_size=args.batch,
        max_length=args.answer,
        micro_batch_tokens=args.micro_batch_tokens,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
    )
    world = stack.enter_context(distributed.session(settings))
    tokenizer = load_tokenizer(lm, flag="")
    model = load_causal_lm(lm, tokenizer, device=world.device, dropout=None)
    engine = sft_engine(model, settings, world, tokenizer)
    examples = [EncodedText(row, [False] + [True] * (len(row) - 1)) for row in rows_of(args)]
    trainer = SFTTrainer(settings, world, engine, examples)

    def run() -> float:
        assert stack is not None  # keeps the folder and the process group
        for batch in trainer.batches(0):
            trainer.step(batch, 1.0)
        return float(sum(trainer.lengths))

    return run


def trl(args: SFTBenchmarkArgs) -> Callable[[], float]:
    """The same rows through TRL, padded or packed."""
    import torch
    from transformers import GPT2LMHeadModel
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from benchmarks.gate import EPOCHS, Gate, dataset_of

    with tempfile.TemporaryDirectory() as folder:
        path, _ = write_models(args.size, args.answer, Path(folder))
        dtype = torch.bfloat16 if args.peer_dtype == "bf16" else torch.float32
        model = GPT2LMHeadModel.from_pretrained(path, dtype=dtype)
    is_cuda = torch.cuda.is_available()
    rows = rows_of(args)
    gate = Gate()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=not is_cuda,
            bf16=is_cuda,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            per_device_train_batch_size=args.batch,
            num_train_epochs=EPOCHS,
            learning_rate=LEARNING_RATE,
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


def main() -> None:
    args = parse_args(SFTBenchmarkArgs)
    compare(args, ours=ours, peer=trl if args.peer == "trl" else None, unit="real tokens")


if __name__ == "__main__":
    main()
