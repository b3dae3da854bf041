"""Flags of stage 3, PPO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.common import (
    CommonArgs,
    check_not_negative,
    check_positive,
    check_share,
)
from training.arguments.parsing import arg, require
from training.arguments.sampling import PromptArgs


@dataclass(frozen=True, kw_only=True)
class PPOArgs(CommonArgs, PromptArgs):
    """Stage 3: the actor learns to score well and to stay near the frozen stage-1 model."""

    output_dir: str = arg("output/step3_ppo", "Where the actor, args.json and metrics go.")
    actor_model_name_or_path: str = arg("output/step1_sft", "Actor and frozen ref: stage 1's.")
    reward_model_name_or_path: str = arg("output/step2_reward", "Reward model, critic: stage 2's.")
    max_steps: int = arg(40, "PPO steps: one rollout and its updates each.")
    self_check: bool = arg(False, "Before step 1, check what PPO relies on, and stop if it fails.")
    eval_every: int = arg(0, "Steps between two evaluations; 0 evaluates before and after.")
    judge: list[str] = arg(
        [], "Python file with score(texts) that judges held-out responses alone; it is executed."
    )
    rollout_batch_size: int = arg(192, "Prompts per PPO step, over all ranks.")
    samples_per_prompt: int = arg(1, "Responses drawn for each prompt.")
    minibatch_size: int = arg(96, "Sequences per optimizer step, over all ranks.")
    ppo_epochs: int = arg(2, "Passes over one rollout.")
    actor_lr: float = arg(1e-5, "Peak learning rate of the actor.")
    critic_lr: float = arg(1e-5, "Peak learning rate of the critic.")
    lr_scheduler: Literal["cosine", "linear", "constant"] = arg("linear", "Decay after warm-up.")
    best_metric: str = arg("+eval/score/mean", "As of --keep_best; +NAME: higher is better.")
    kl_coef: float = arg(0.05, "Weight of the per-token KL penalty against ref.")
    kl_controller: Literal["fixed", "adaptive"] = arg("fixed", "adaptive steers --kl_coef.")
    kl_target: float = arg(
        6.0,
        "Nats per response that adaptive steers to; the KL alarm is at 3 times it, with fixed too.",
    )
    kl_horizon: float = arg(10000.0, "Episodes over which the adaptive controller acts.")
    kl_estimator: Literal["k1", "k2", "k3"] = arg("k1", "Per-token KL estimate in the reward.")
    score_clip: float = arg(5.0, "Scores are clipped to +- this; 0 does not clip.")
    missing_eos: Literal["replace", "subtract", "none"] = arg(
        "replace", "Score of a response that never ends: -penalty, score - penalty, or as it is."
    )
    missing_eos_penalty: float = arg(1.0, "The penalty of --missing_eos.")
    critic: Literal["separate", "shared"] = arg(
        "separate", "A model of its own from the reward model, or a head on the actor's trunk."
    )
    vf_coef: float = arg(0.1, "Weight of the value loss in the one loss of --critic shared.")
    old_logprobs: Literal["generation", "recompute"] = arg(
        "generation", "Old log-probs: those of sampling, or of a further forward of the actor."
    )
    gamma: float = arg(1.0, "Discount per token.")
    gae_lambda: float = arg(0.95, "GAE's lambda.")
    whiten_rewards: bool = arg(False, "Scale rewards to variance 1, keeping their mean.")
    advantage_whitening: Literal["batch", "minibatch", "none"] = arg(
        "batch", "Over which tokens advantages get mean 0 and variance 1, over all ranks."
    )
    clip_range: float = arg(0.2, "PPO's epsilon for the policy ratio.")
    value_clip_range: float = arg(0.2, "Epsilon for the value loss; 0 does not clip.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_prompts()
        positive = (
            "max_steps rollout_batch_size samples_per_prompt minibatch_size "
            "ppo_epochs actor_lr critic_lr vf_coef kl_target kl_horizon clip_range"
        )
        for name in positive.split():
            check_positive(self, name)
        for name in (
            "kl_coef",
            "eval_every",
            "score_clip",
            "missing_eos_penalty",
            "value_clip_range",
        ):
            check_not_negative(self, name)
        for name in ("gamma", "gae_lambda"):
            check_share(self, name)
        require(
            self.sequences_per_step % self.minibatch_size == 0,
            f"--rollout_batch_size ({self.rollout_batch_size}) x --samples_per_prompt "
            f"({self.samples_per_prompt}) must be a multiple of --minibatch_size "
            f"({self.minibatch_size})",
        )
        require(
            self.kl_controller == "fixed" or self.kl_coef > 0,
            "--kl_controller adaptive cannot leave --kl_coef 0; start from a positive one",
        )
        require(
            not self.judge or Path(self.judge[0]).expanduser().is_file(),
            f"--judge {' '.join(self.judge[:1])}: no such file",
        )

    @property
    def sequences_per_step(self) -> int:
        return self.rollout_batch_size * self.samples_per_prompt

    @property
    def is_single_update(self) -> bool:
        """Whether a rollout makes one optimizer step, whose own forwards are the old policy's."""
        return self.ppo_epochs == 1 and self.minibatch_size == self.sequences_per_step

    @property
    def reads_values_in_update(self) -> bool:
        """Whether the critic's training forward gives the old values too."""
        return self.is_single_update and self.critic == "separate"
