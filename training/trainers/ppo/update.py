"""PPO in one place: one step of stage 3, from prompts to an updated actor and critic.

Proximal Policy Optimization (arXiv:1707.06347) of a language model (arXiv:1909.08593).
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from training.arguments.ppo import PPOArgs
from training.data.encode import EncodedPrompt
from training.models.tokenizers import Tokenizer
from training.objectives.kl import adapt_kl_coef
from training.runtime.distributed import World
from training.trainers.guards import Guard
from training.trainers.ppo.experience import (
    Rollout,
    compute_token_rewards,
    make_experience,
    whiten_minibatch,
)
from training.trainers.ppo.learners import make_learner
from training.trainers.ppo.metrics import (
    measure_clipping,
    measure_experience,
    measure_rollout,
    summarize_steps,
)
from training.trainers.ppo.minibatch import draw_minibatches
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.ppo.setup import Models
from training.trainers.ppo.unfinished import UnfinishedUpdate
from training.trainers.schedule import Schedule


class PPOTrainer:
    """Makes PPO steps.

    A rollout is whole on every rank; a rank takes its share of each minibatch, so that the update
    does not depend on how many ranks there are.
    """

    def __init__(self, args: PPOArgs, world: World, tokenizer: Tokenizer, models: Models) -> None:
        self._args = args
        self.collector = RolloutCollector(args, world, tokenizer, models)
        self._learner = make_learner(args, world, models, tokenizer.pad_token_id)
        optimizer_steps = args.ppo_epochs * (args.sequences_per_step // args.minibatch_size)
        self.schedule = Schedule(args, world, total_steps=args.max_steps * optimizer_steps)
        self._guard = Guard(args, self.schedule)
        self.kl_coef = args.kl_coef
        self.unfinished = UnfinishedUpdate()

    def train_step(
        self, step: int, prompts: Sequence[EncodedPrompt]
    ) -> tuple[Rollout, dict[str, float]]:
        """Make a PPO step on these prompts; returns its rollout and its metrics.

        A run that was stopped within a step resumes with the rollout of that step.
        """
        # 1. Collect: sample responses; get scores, ref log-probs, old log-probs and values.
        rollout = self.unfinished.rollout or self.collector.collect(
            step, prompts, self._args.samples_per_prompt
        )
        metrics = self.update(step, rollout)
        return rollout, {**metrics, **self.collector.seconds}

    def update(self, step: int, rollout: Rollout) -> dict[str, float]:
        """Make the optimizer steps on a rollout, or those a stopped run left; returns metrics."""
        args, learner, started = self._args, self._learner, time.monotonic()
        if rollout.fault:
            self._guard.skip(f"step {step}", rollout.fault)
            metrics = {**measure_rollout(rollout), **self._guard.metrics, "kl/coef": self.kl_coef}
            return {**metrics, "time/update_s": time.monotonic() - started}
        self.unfinished.start(rollout)
        learner.start()

        # 2. Rewards: KL penalty at each token, and at the last the score, or the penalty of no EOS.
        rewards = compute_token_rewards(rollout, args, kl_coef=self.kl_coef)

        # 3. Advantages and returns: GAE over the rewards and the critic's values.
        experience = make_experience(rollout, args, rewards, learner.find_values(rollout, rewards))

        # 4. Minibatches: --ppo_epochs passes over the rollout, in random order.
        minibatches = draw_minibatches(len(rollout.responses), args, step)
        for rows in self.unfinished.select_remaining(minibatches):
            # 5. Losses and gradients: clipped policy and value losses, as means over its tokens.
            token_count = int(rollout.mask[rows].sum())
            learner.backward(rows, whiten_minibatch(experience, rows, args), token_count)

            # 6. Optimizer step of actor and critic, at the guard's learning rate if all is finite.
            optimizer_step = partial(learner.step, token_count=token_count)
            self.unfinished.add(self._guard.step(f"step {step}", optimizer_step))

        metrics = {**measure_experience(experience), **summarize_steps(self.unfinished.steps)}
        metrics |= {"kl/coef": self.kl_coef, **self._guard.metrics}
        metrics |= measure_clipping(rollout, args)
        self.unfinished.finish()

        # 7. KL coefficient of the next step: steers the mean k1 of a response to --kl_target.
        if args.kl_controller == "adaptive":
            self.kl_coef = adapt_kl_coef(
                self.kl_coef,
                kl=metrics["kl/ref"],
                kl_target=args.kl_target,
                episodes=len(rollout.responses),
                kl_horizon=args.kl_horizon,
            )
        return {**metrics, "time/update_s": time.monotonic() - started}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the engines and the unfinished rollout."""
        guard = self._guard.state_dict()
        return {"kl_coef": self.kl_coef, **self.unfinished.state_dict(), "guard": guard}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint's `state_dict`."""
        self.kl_coef = state["kl_coef"]
        self.unfinished.load_state_dict(state)
        self._guard.load_state_dict(state["guard"])
