"""One step of stage 3: epochs x minibatches x micro-batches of updates over one rollout."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.draws import make_random
from training.objectives.kl import next_kl_coef
from training.objectives.ppo import compute_gae
from training.runtime.distributed import World
from training.trainers.guards import Guard, step_together
from training.trainers.ppo.experience import (
    Experience,
    Rollout,
    make_experience,
    rollout_of,
    token_rewards,
)
from training.trainers.ppo.learners import SeparateLearner, learner_of
from training.trainers.ppo.metrics import (
    UpdateSums,
    rollout_metrics,
    sample_metrics,
    update_metrics,
)
from training.trainers.ppo.minibatch import MicroBatch
from training.trainers.ppo.rollout import rollout_fault
from training.trainers.ppo.setup import Models
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
        self.unfinished: Rollout | None = None  # while it is being learnt from
        self._steps: list[dict[str, float]] = []  # metrics of its optimizer steps so far
        self._minibatches = 0  # that it has been learned from, those left out included

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the engines and the unfinished rollout."""
        return {
            "kl_coef": self.kl_coef,
            "steps": self._steps,
            "minibatches": self._minibatches,
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.kl_coef, self._steps = state["kl_coef"], state["steps"]
        self._minibatches = state["minibatches"]
        self.guard.load_state_dict(state["guard"])

    def unfinished_tensors(self) -> dict[str, Tensor]:
        return {} if self.unfinished is None else self.unfinished.tensors()

    def restore_unfinished(self, tensors: Mapping[str, Tensor]) -> None:
        self.unfinished = rollout_of(tensors)

    def update(self, step: int, rollout: Rollout) -> dict[str, float]:
        """All optimizer steps of one PPO step, or those that are left of it; its metrics.

        A rollout that holds a number that is not finite is not learned from.
        """
        started = time.monotonic()
        # A rollout that was begun to be learned from has been looked at.
        fault = None if self.unfinished else rollout_fault(rollout, self._models, self._world)
        if fault:
            self.guard.skip(f"step {step}", fault)
            metrics = {**sample_metrics(rollout), **self.guard.metrics, "kl/coef": self.kl_coef}
            return {**metrics, "time/update_s": time.monotonic() - started}
        self.unfinished = rollout
        self._learner.start()
        rewards = token_rewards(rollout, self._args, kl_coef=self.kl_coef)
        if self._args.is_single_update and isinstance(self._learner, SeparateLearner):
            experience = self._single_update(step, self._learner, rollout, rewards)
        else:
            experience = make_experience(rollout, self._args, rewards, rollout.values)
            self._epochs(step, experience)
        metrics = {**rollout_metrics(experience), **update_metrics(self._steps)}
        metrics |= {"kl/coef": self.kl_coef, **self.guard.metrics}
        self.unfinished, self._steps, self._minibatches = None, [], 0
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

    def _epochs(self, step: int, experience: Experience) -> None:
        """Learn from the minibatches that have not been yet."""
        minibatches = []
        for epoch in range(self._args.ppo_epochs):
            order = list(range(len(experience.rollout.responses)))
            make_random(self._args.seed, step, epoch, separator=":").shuffle(order)
            size = self._args.minibatch_size
            minibatches += [order[start : start + size] for start in range(0, len(order), size)]
        for rows in minibatches[self._minibatches :]:
            sums = UpdateSums(self._world, int(experience.rollout.mask[rows].sum()))
            self._learner.learn(rows, experience, sums)
            self._optimizer_step(step, sums)
            self._minibatches += 1

    def _single_update(
        self, step: int, learner: SeparateLearner, rollout: Rollout, rewards: Tensor
    ) -> Experience:
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
        values = self._world.sum_over_ranks(values.to(self._world.device)).cpu()
        experience = make_experience(rollout, self._args, rewards, values)
        learner.train_actor(rows, experience, sums)
        self._optimizer_step(step, sums)
        return experience

    def _optimizer_step(self, step: int, sums: UpdateSums) -> None:
        """Keeps the step's metrics; nothing of a step that the guard leaves out."""

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
        self._steps += [] if made is None else [made]


def ppo_schedule(args: PPOArgs, world: World) -> Schedule:
    """Over all optimizer steps of all PPO steps."""
    minibatches = args.sequences_per_step // args.minibatch_size
    return Schedule(args, world, total_steps=args.max_steps * args.ppo_epochs * minibatches)
