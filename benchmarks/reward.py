"""Reward-model training on ragged pairs: stage 2's trainer beside TRL's RewardTrainer.

python -m benchmarks.reward --size small --batch 16 --answer 256 --peer trl
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
class RewardBenchmarkArgs(BenchmarkArgs):
    """Flags of this benchmark."""

    prompt: int = arg(16, "Tokens of the prompt that a pair shares.")
    answer: int = arg(256, "Longest sequence, prompt included.")
    shortest: int = arg(32, "Shortest sequence, prompt included.")
    micro_batch_tokens: int = arg(4096, "--micro_batch_tokens of stage 2.")


Pairs = list[tuple[list[int], list[int], list[int]]]  # prompt, chosen, rejected


def pairs_of(args: RewardBenchmarkArgs) -> Pairs:
    """The pairs of one run, of random tokens and lengths."""
    count, vocabulary = args.batch * STEPS, shape_of(args.size)[3]
    prompts = random_rows([args.prompt] * count, vocabulary, seed=1)
    sides = []
    for seed in (2, 3):
        lengths = ragged_lengths(count, args.shortest, args.answer, seed)
        sides.append(random_rows([n - args.prompt for n in lengths], vocabulary, seed=10 + seed))
    return list(zip(prompts, *sides, strict=True))


def ours(args: RewardBenchmarkArgs) -> Callable[[], float]:
    """Optimizer steps of stage 2."""
    from training.arguments.reward import RewardArgs
    from training.data.encode import EncodedGroup
    from training.data.records import Pair
    from training.models.tokenizers import load_tokenizer
    from training.runtime import distributed
    from training.trainers import reward_setup
    from training.trainers.reward import RewardTrainer

    stack = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lm, _ = write_models(args.size, args.answer, folder)
    settings = RewardArgs(
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
    engine = reward_setup.reward_engine(
        reward_setup.new_reward_model(settings, world, tokenizer), settings, world
    )
    groups = [
        EncodedGroup(prompt, [chosen, rejected], (Pair(0, 1),), str(n))
        for n, (prompt, chosen, rejected) in enumerate(pairs_of(args))
    ]
    trainer = RewardTrainer(settings, world, engine, groups, tokenizer.pad_token_id)

    def run() -> float:
        assert stack is not None  # keeps the folder and the process group
        for batch in trainer.batches(0):
            trainer.step(batch, 1.0)
        return float(len(groups))

    return run


def trl(args: RewardBenchmarkArgs) -> Callable[[], float]:
    """The same pairs through TRL."""
    import torch
    from transformers import GPT2ForSequenceClassification
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    from benchmarks.gate import EPOCHS, Gate, dataset_of

    with tempfile.TemporaryDirectory() as folder:
        _, path = write_models(args.size, args.answer, Path(folder))
        dtype = torch.bfloat16 if args.peer_dtype == "bf16" else torch.float32
        model = GPT2ForSequenceClassification.from_pretrained(path, dtype=dtype)
    is_cuda = torch.cuda.is_available()
    pairs = pairs_of(args)
    rows = {
        "chosen_ids": [prompt + chosen for prompt, chosen, _ in pairs],
        "rejected_ids": [prompt + rejected for prompt, _, rejected in pairs],
    }
    gate = Gate(STEPS)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
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


def main() -> None:
    args = parse_args(RewardBenchmarkArgs)
    compare(args, ours=ours, peer=trl if args.peer == "trl" else None, unit="pairs")


if __name__ == "__main__":
    main()
