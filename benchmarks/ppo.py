"""Time one PPO step, from rollout to update: stage 3 beside TRL's PPOTrainer.

python -m benchmarks.ppo --size small --batch 16 --prompt 64 --answer 64 --peer trl
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from benchmarks import models, rollout, setting
from benchmarks.arguments import TrainingBenchmarkArgs
from benchmarks.paired import compare_with_trl
from training.arguments.parsing import arg, parse_args, require
from training.estimates.roofline import Machine

KL_COEF = 0.05


@dataclass(frozen=True, kw_only=True)
class PPOBenchmarkArgs(TrainingBenchmarkArgs):
    """Flags of this benchmark."""

    epochs: int = arg(1, "Passes over a rollout; each is one optimizer step on both sides.")
    critic: Literal["separate", "shared"] = arg("separate", "--critic of stage 3.")
    peer_micro_batch: int = arg(0, "Sequences of the peer's micro-batches; default: --batch.")

    def __post_init__(self) -> None:
        super().__post_init__()
        micro_batch = self.peer_micro_batch or self.batch
        require(
            0 < micro_batch <= self.batch and self.batch % micro_batch == 0,
            f"--peer_micro_batch must divide --batch ({self.batch}), got {self.peer_micro_batch}",
        )


def prepare_ours(args: PPOBenchmarkArgs) -> Callable[[], float]:
    """Return a run of one step of stage 3: collect and update."""
    from training.trainers.ppo import setup
    from training.trainers.ppo.update import PPOTrainer

    side = setting.OurSide(args, args.prompt + args.answer)
    settings = make_settings(args, side)
    world = side.join(settings)
    tokenizer, scalar = setup.check_stages(settings, world)
    our_models = setup.load_models(settings, world, tokenizer, scalar)
    trainer = PPOTrainer(settings, world, tokenizer, our_models)
    prompts = make_prompts(args)
    steps = iter(range(1, settings.max_steps + 1))

    def run() -> float:
        rollout, _ = trainer.train_step(next(steps), prompts)
        assert side.folder.exists()
        return float(len(rollout.responses))

    return run


def make_settings(args: PPOBenchmarkArgs, side: setting.OurSide) -> Any:
    """Make stage 3's flags for the work that TRL does."""
    from training.arguments.ppo import PPOArgs

    return PPOArgs(
        **side.make_common_flags(args),
        actor_model_name_or_path=side.lm,
        reward_model_name_or_path=side.reward_model,
        critic=args.critic,
        max_steps=10**6,
        rollout_batch_size=args.batch,
        generation_batch_size=args.batch,
        minibatch_size=args.batch,
        ppo_epochs=args.epochs,
        max_prompt_length=args.prompt,
        max_new_tokens=args.answer,
        actor_lr=setting.LEARNING_RATE,
        critic_lr=setting.LEARNING_RATE,
        kl_coef=KL_COEF,
        missing_eos="none",
    )


def make_prompt_rows(args: PPOBenchmarkArgs) -> list[list[int]]:
    vocabulary = models.get_vocabulary_size(args.size)
    return models.make_rows([args.prompt] * args.batch, vocabulary, seed=1)


def make_prompts(args: PPOBenchmarkArgs) -> list[Any]:
    """Make prompts of random tokens for stage 3."""
    from training.data.encode import EncodedPrompt

    rows = make_prompt_rows(args)
    return [EncodedPrompt(n, row, "", {}) for n, row in enumerate(rows)]


def prepare_trl(args: PPOBenchmarkArgs) -> Callable[[], float]:
    """Return a run of TRL's PPOTrainer with four models, one optimizer step per epoch."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from benchmarks.gate import STEPS, Gate, gate_trainer, make_dataset

    peer_models = load_four_models(args)
    tokenizer = models.build_tokenizer(args.size)
    tokenizer.padding_side = "left"
    rows = make_prompt_rows(args)
    micro_batch = args.peer_micro_batch or args.batch
    config = PPOConfig(
        **setting.make_trl_settings(),
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
        whiten_rewards=False,
        gamma=1.0,
        lam=0.95,
        vf_coef=1.0,
    )

    def make(gate: Gate) -> Any:
        return PPOTrainer(
            args=config,
            processing_class=tokenizer,
            train_dataset=make_dataset({"input_ids": rows}),
            callbacks=[gate],
            **peer_models,
        )

    return gate_trainer(make, float(args.batch))


def load_four_models(args: PPOBenchmarkArgs) -> dict[str, Any]:
    """Load the models, by the names of TRL's parameters."""
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    with TemporaryDirectory() as folder:
        lm, scalar = models.write_models(args.size, args.prompt + args.answer, Path(folder))
        load: dict[str, Any] = {"dtype": setting.choose_peer_dtype(args)}
        return {
            "model": GPT2LMHeadModel.from_pretrained(lm, **load),
            "ref_model": GPT2LMHeadModel.from_pretrained(lm, **load),
            "reward_model": GPT2ForSequenceClassification.from_pretrained(scalar, **load),
            "value_model": GPT2ForSequenceClassification.from_pretrained(scalar, **load),
        }


def estimate_least_seconds(args: PPOBenchmarkArgs, machine: Machine) -> float:
    """Estimate the roofline of a step: decoding, forward and backward passes, and Adam."""
    generation = rollout.RolloutBenchmarkArgs(
        size=args.size, dtype=args.dtype, batch=args.batch, prompt=args.prompt, answer=args.answer
    )
    lengths, answers = [args.prompt + args.answer] * args.batch, args.batch * args.answer
    shape = models.make_shape(args.size)
    head, trunk = shape.count_forward_flops(lengths, answers), shape.count_forward_flops(lengths, 0)
    is_shared = args.critic == "shared"
    scoring = head + trunk * (2 if is_shared else 1)  # a shared trunk reads values beforehand
    training = partial(setting.estimate_training_seconds, args.size, machine, lengths * args.epochs)
    seconds = rollout.estimate_least_seconds(generation, machine) + machine.seconds(flops=scoring)
    seconds += training(targets=answers * args.epochs, steps=args.epochs)
    return seconds if is_shared else seconds + training(targets=0, steps=args.epochs)


def main() -> None:
    args = parse_args(PPOBenchmarkArgs)
    compare_with_trl(args, prepare_ours, prepare_trl, "samples", estimate_least_seconds)


if __name__ == "__main__":
    main()
