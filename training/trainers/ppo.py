"""One step of stage 3: epochs x minibatches x micro-batches of updates over one rollout."""

import random
import time

from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.objectives.kl import next_kl_coef
from training.objectives.ppo import compute_gae
from training.runtime.distributed import World
from training.trainers.experience import Experience, Rollout, make_experience, token_rewards
from training.trainers.guards import Guard, step_together
from training.trainers.learners import SeparateLearner, learner_of
from training.trainers.minibatch import MicroBatch
from training.trainers.ppo_metrics import (
    UpdateSums,
    rollout_metrics,
    sample_metrics,
    update_metrics,
)
from training.trainers.ppo_setup import Models
from training.trainers.rollout import rollout_fault
from training.trainers.schedule import Schedule

GRADIENT_NORMS = {"actor": "policy/grad_norm", "critic": "value/grad_norm"}


class PPOTrainer:
    """Updates the actor and the critic, and steers the KL coefficient.

    A rollout is whole on every rank; a rank takes its share of each minibatch, so that the update
    does not depend on how many ranks there are.
    """

    def __init__(
        self, args: PPOArgs, world: World, models: Models, schedule: Schedule, pad_id: int
    ) -> None:
        self._args = args
        self._world = world
        self._learner = learner_of(args, world, models, pad_id)
        self._models = models
        self.guard = Guard(args, schedule)
        self.kl_coef = args.kl_coef

    def update(self, step: int, rollout: Rollout) -> dict[str, float]:
        """All optimizer steps of one PPO step; its metrics.

        A rollout that holds a number that is not finite is not learned from.
        """
        started = time.monotonic()
        if fault := rollout_fault(rollout, self._models, self._world):
            self.guard.skip(f"step {step}", fault)
            metrics = {**sample_metrics(rollout), **self.guard.metrics, "kl/coef": self.kl_coef}
            return {**metrics, "time/update_s": time.monotonic() - started}
        self._learner.start()
        rewards = token_rewards(rollout, self._args, kl_coef=self.kl_coef)
        if self._args.is_single_update and isinstance(self._learner, SeparateLearner):
            experience, steps = self._single_update(step, self._learner, rollout, rewards)
        else:
            experience = make_experience(rollout, self._args, rewards, rollout.values)
            steps = self._epochs(step, experience)
        metrics = {**rollout_metrics(experience), **update_metrics(steps)}
        metrics |= {"kl/coef": self.kl_coef, **self.guard.metrics}
        if self._args.score_clip:
            is_clipped = rollout.scores.abs() >= self._args.score_clip
            metrics["score/clip_fraction"] = is_clipped.double().mean().item()
        if self._args.kl_controller == "adaptive":
            self.kl_coef = next_kl_coef(
                self.kl_coef,
                kl=metrics["kl/ref"],
                kl_target=self._args.kl_target,
                episodes=len(rollout.responses),
                kl_horizon=self._args.kl_horizon,
            )
        metrics["time/update_s"] = time.monotonic() - started
        return metrics

    def _epochs(self, step: int, experience: Experience) -> list[dict[str, float]]:
        steps = []
        for epoch in range(self._args.ppo_epochs):
            order = list(range(len(experience.rollout.responses)))
            random.Random(f"{self._args.seed}:{step}:{epoch}").shuffle(order)
            for start in range(0, len(order), self._args.minibatch_size):
                rows = order[start : start + self._args.minibatch_size]
                sums = UpdateSums(self._world, int(experience.rollout.mask[rows].sum()))
                self._learner.learn(rows, experience, sums)
                steps += self._optimizer_step(step, sums)
        return steps

    def _single_update(
        self, step: int, learner: SeparateLearner, rollout: Rollout, rewards: Tensor
    ) -> tuple[Experience, list[dict[str, float]]]:
        """One optimizer step on the whole rollout: its forwards are the old values and log-probs.

        A response's returns need no values but its own, so the critic's forward serves both.
        """

        def targets(batch: MicroBatch, values: Tensor) -> tuple[Tensor, Tensor]:
            args = self._args
            _, returns = compute_gae(
                batch.pick(rewards),
                values,
                batch.mask,
                gamma=args.gamma,
                gae_lambda=args.gae_lambda,
            )
            return values, returns

        rows = range(len(rollout.responses))
        sums = UpdateSums(self._world, int(rollout.mask.sum()))
        values = learner.train_critic(rows, rollout, targets, sums)
        values = self._world.all_sum(values.to(self._world.device)).cpu()
        experience = make_experience(rollout, self._args, rewards, values)
        learner.train_actor(rows, experience, sums)
        return experience, self._optimizer_step(step, sums)

    def _optimizer_step(self, step: int, sums: UpdateSums) -> list[dict[str, float]]:
        """The step's metrics; nothing of a step that the guard leaves out."""

        def work(lr_scale: float) -> dict[str, float]:
            metrics = sums.metrics()
            norms = step_together(
                self._learner.engines,
                lr_scale,
                losses={f"{name} loss": metrics[f"{name}/loss"] for name in ("policy", "value")},
                readings=sums.readings,
                world=self._world,
            )
            named = {GRADIENT_NORMS[name]: norm for name, norm in norms.items()}
            return {**metrics, **named, "optim/lr_scale": lr_scale}

        made = self.guard.step(f"step {step}", work)
        return [] if made is None else [made]


def ppo_schedule(args: PPOArgs, world: World) -> Schedule:
    """Over all optimizer steps of all PPO steps."""
    minibatches = args.sequences_per_step // args.minibatch_size
    return Schedule(args, world, total_steps=args.max_steps * args.ppo_epochs * minibatches)
