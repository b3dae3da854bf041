"""One PPO step, rollout to update: stage 3's own parts beside TRL's PPOTrainer.

python -m benchmarks.ppo --size small --batch 16 --prompt 64 --answer 64 --peer trl
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import BenchmarkArgs
from benchmarks.models import (
    build_tokenizer,
    flops_per_token,
    random_rows,
    shape_of,
    write_models,
)
from benchmarks.paired import compare
from benchmarks.roofline import Machine
from training.arguments.parsing import arg, parse_args

LEARNING_RATE = 1e-6
KL_COEF = 0.05


@dataclass(frozen=True, kw_only=True)
class PPOBenchmarkArgs(BenchmarkArgs):
    """Flags of this benchmark."""

    epochs: int = arg(1, "Passes over a rollout; each is one optimizer step on both sides.")
    micro_batch: int = arg(0, "Sequences of the peer's micro-batches; default: all of --batch.")
    micro_batch_tokens: int = arg(4096, "--micro_batch_tokens of stage 3.")


def ours(args: PPOBenchmarkArgs) -> Callable[[], float]:
    """A step of stage 3: collect, learn."""
    from training.arguments.ppo import PPOArgs
    from training.data.encode import EncodedPrompt
    from training.runtime import distributed
    from training.trainers import ppo_setup
    from training.trainers.ppo import PPOTrainer, ppo_schedule
    from training.trainers.rollout import RolloutCollector

    stack = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lm, reward_model = write_models(args.size, args.prompt + args.answer, folder)
    settings = PPOArgs(
        output_dir=str(folder / "out"),
        actor_model_name_or_path=lm,
        reward_model_name_or_path=reward_model,
        zero_stage=0,
        dtype=args.dtype,
        max_steps=10**6,
        rollout_batch_size=args.batch,
        generation_batch_size=args.batch,
        minibatch_size=args.batch,
        ppo_epochs=args.epochs,
        max_prompt_length=args.prompt,
        max_new_tokens=args.answer,
        micro_batch_tokens=args.micro_batch_tokens,
        actor_lr=LEARNING_RATE,
        critic_lr=LEARNING_RATE,
        weight_decay=0.0,
        kl_coef=KL_COEF,
        missing_eos="none",
    )
    world = stack.enter_context(distributed.session(settings))
    tokenizer, scalar = ppo_setup.check_stages(settings, world)
    models = ppo_setup.load_models(settings, world, tokenizer, scalar)
    collector = RolloutCollector(settings, world, tokenizer, models)
    trainer = PPOTrainer(
        settings,
        world,
        models.actor,
        models.critic,
        ppo_schedule(settings, world),
        tokenizer.pad_token_id,
    )
    rows = random_rows([args.prompt] * args.batch, shape_of(args.size)[3], seed=1)
    prompts = [EncodedPrompt(n, row, "", {}) for n, row in enumerate(rows)]
    taken = 0

    def run() -> float:
        nonlocal taken
        assert stack is not None  # keeps the folder and the process group
        taken += 1
        rollout = collector.collect(taken, prompts, 1)
        metrics = trainer.update(taken, rollout)
        if os.environ.get("BENCHMARK_PHASES"):
            times = {**collector.seconds, "update_s": metrics["time/update_s"]}
            print({name: round(value, 3) for name, value in times.items()}, flush=True)
        return float(len(rollout.responses))

    return run


def trl(args: PPOBenchmarkArgs) -> Callable[[], float]:
    """TRL's PPOTrainer with the same four models, one optimizer step an epoch."""
    import torch
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from benchmarks.gate import STEPS, Gate, dataset_of

    with tempfile.TemporaryDirectory() as folder:
        lm, reward_model = write_models(args.size, args.prompt + args.answer, Path(folder))
        dtype = torch.bfloat16 if args.peer_dtype == "bf16" else torch.float32
        policies = [GPT2LMHeadModel.from_pretrained(lm, dtype=dtype) for _ in range(2)]
        scalars = [
            GPT2ForSequenceClassification.from_pretrained(reward_model, dtype=dtype)
            for _ in range(2)
        ]
    tokenizer = build_tokenizer(args.size)
    tokenizer.padding_side = "left"
    rows = random_rows([args.prompt] * args.batch, shape_of(args.size)[3], seed=1)
    micro_batch = args.micro_batch or args.batch
    is_cuda = torch.cuda.is_available()
    gate = Gate()
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=not is_cuda,
            bf16=is_cuda,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            eval_strategy="no",
            num_sample_generations=0,
            num_mini_batches=1,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=args.batch // micro_batch,
            num_ppo_epochs=args.epochs,
            total_episodes=args.batch * STEPS,
            local_rollout_forward_batch_size=args.batch,
            response_length=args.answer,
            temperature=1.0,
            stop_token="eos",
            missing_eos_penalty=None,
            kl_coef=KL_COEF,
            learning_rate=LEARNING_RATE,
            whiten_rewards=False,
            gamma=1.0,
            lam=0.95,
            vf_coef=1.0,
        ),
        processing_class=tokenizer,
        model=policies[0],
        ref_model=policies[1],
        reward_model=scalars[0],
        value_model=scalars[1],
        train_dataset=dataset_of({"input_ids": rows}),
        callbacks=[gate],
    )
    gate.start(trainer.train)

    def run() -> float:
        gate.run()
        return float(args.batch)

    return run


def least_seconds(args: PPOBenchmarkArgs, machine: Machine) -> float:
    """Roofline of a step: decoding's reads, the forwards and backwards, one pass of each Adam."""
    import torch

    from benchmarks import rollout
    from training.runtime.engine import compute_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(args.dtype, device)
    generation = rollout.RolloutBenchmarkArgs(
        size=args.size, dtype=args.dtype, batch=args.batch, prompt=args.prompt, answer=args.answer
    )
    layers, width, _, vocabulary = shape_of(args.size)
    body, head = flops_per_token(args.size)
    every = args.batch * (args.prompt + args.answer)
    answers = args.batch * args.answer
    context = (args.prompt + args.answer) / 2
    forward = every * (body + 4 * layers * width * context)
    # ref and reward model once; actor and critic forward and backward, thrice a forward.
    flops = forward * (2 + 6 * args.epochs) + answers * head * (1 + 3 * args.epochs)
    parameters = 12 * layers * width**2 + vocabulary * width
    optimizer = 2 * args.epochs * 28 * parameters  # bytes: gradient, weight, both moments
    return (
        rollout.least_seconds(generation, machine)
        + machine.seconds(bytes_read=0, flops=flops, dtype=dtype)
        + machine.seconds(bytes_read=optimizer, flops=0, dtype=dtype)
    )


def main() -> None:
    args = parse_args(PPOBenchmarkArgs)
    compare(
        args,
        ours=ours,
        peer=trl if args.peer == "trl" else None,
        unit="samples",
        least_seconds=lambda machine: least_seconds(args, machine),
    )


if __name__ == "__main__":
    main()
