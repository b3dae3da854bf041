"""Flags of stage 3, PPO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.common import EXAMPLE, CommonArgs
from training.arguments.parsing import arg, require
from training.arguments.sampling import PromptArgs


@dataclass(frozen=True, kw_only=True)
class PPOArgs(CommonArgs, PromptArgs):
    """Stage 3: train the actor to score well and to stay near the frozen stage-1 model."""

    actor_model_name_or_path: str = arg(
        "output/step1_sft", "Stage 1's model: actor, and frozen ref.", group="models and output"
    )
    reward_model_name_or_path: str = arg(
        "output/step2_reward", "Stage 2's model: the reward model, and the critic's start."
    )
    output_dir: str = arg("output/step3_ppo", "Folder for the actor, args.json and metrics.")
    critic: Literal["separate", "shared"] = arg(
        "separate", "A model that starts as the reward model, or a head on the actor's trunk."
    )
    data_path: list[str] = arg([EXAMPLE], "Files, folders, Hub data or example:NAME.", group="data")
    max_steps: int = arg(40, "PPO steps, each a rollout and its updates.", group="training")
    rollout_batch_size: int = arg(192, "Prompts per PPO step, over all ranks.")
    samples_per_prompt: int = arg(1, "Responses per prompt.")
    minibatch_size: int = arg(96, "Sequences per optimizer step, over all ranks.")
    ppo_epochs: int = arg(2, "Passes over one rollout.")
    actor_lr: float = arg(1e-5, "Peak learning rate of the actor.")
    critic_lr: float = arg(1e-5, "Peak learning rate of the critic.")
    eval_every: int = arg(0, "Steps between two evaluations; 0: before and after training.")
    judge: list[str] = arg(
        [], "Python file (executed): its score(texts) judges held-out responses."
    )
    max_new_tokens: int = arg(40, "Longest response in tokens, EOS included.", group="sampling")
    kl_coef: float = arg(0.05, "Weight of the per-token KL penalty against ref.", group="reward")
    kl_controller: Literal["fixed", "adaptive"] = arg("fixed", "adaptive: adjust --kl_coef.")
    kl_target: float = arg(6.0, "Target in nats per response; the KL alarm is at 3 times it.")
    kl_horizon: float = arg(10000.0, "Episodes over which the adaptive controller acts.")
    kl_estimator: Literal["k1", "k2", "k3"] = arg("k1", "Per-token KL estimate in the reward.")
    score_clip: float = arg(5.0, "Clip scores to +- this; 0: no clipping.")
    missing_eos: Literal["replace", "subtract", "none"] = arg(
        "replace", "Score of a response without EOS: -penalty, score - penalty, or unchanged."
    )
    missing_eos_penalty: float = arg(1.0, "The penalty of --missing_eos.")
    whiten_rewards: bool = arg(False, "Scale rewards to variance 1, keeping their mean.")
    clip_range: float = arg(0.2, "PPO's epsilon for the policy ratio.", group="PPO")
    value_clip_range: float = arg(0.2, "Epsilon for the value loss; 0: no clipping.")
    vf_coef: float = arg(0.1, "Weight of the value loss with --critic shared.")
    gamma: float = arg(1.0, "Discount per token.")
    gae_lambda: float = arg(0.95, "GAE's lambda.")
    advantage_whitening: Literal["batch", "minibatch", "none"] = arg(
        "batch", "Tokens, over all ranks, whose advantages get mean 0 and variance 1."
    )
    old_logprobs: Literal["generation", "recompute"] = arg(
        "generation", "Old log-probs: from sampling, or from another forward of the actor."
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = arg(
        "linear", "Learning rate after the warm-up.", group="optimizer"
    )
    best_metric: str = arg(
        "+eval/score/mean", "For --keep_best; lower is better, +NAME: higher.", group="checkpoints"
    )
    self_check: bool = arg(
        False, "Check what PPO relies on, and stop if it fails.", group="checks and logging"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_prompts()
        self.check_positive("max_steps rollout_batch_size samples_per_prompt minibatch_size")
        self.check_positive("ppo_epochs actor_lr critic_lr vf_coef kl_target kl_horizon clip_range")
        self.check_not_negative("kl_coef eval_every score_clip missing_eos_penalty")
        self.check_not_negative("value_clip_range")
        self.check_share("gamma gae_lambda")
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
        """True if a rollout makes one optimizer step, so its forwards are of the old policy."""
        return self.ppo_epochs == 1 and self.minibatch_size == self.sequences_per_step

    @property
    def reads_values_in_update(self) -> bool:
        """True if the training forward of the critic gives the old values too."""
        return self.is_single_update and self.critic == "separate"
