"""A rollout that is being trained on, and how far; a checkpoint keeps it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.trainers.ppo.experience import Rollout

T = TypeVar("T")
TOKEN_LISTS = ("prompts", "responses")


class UnfinishedUpdate:
    """The rollout of a PPO step between its first optimizer step and its last."""

    def __init__(self) -> None:
        self.rollout: Rollout | None = None
        self.steps: list[dict[str, float]] = []  # metrics of the optimizer steps made
        self._minibatches = 0  # minibatches consumed, skipped ones included

    def start(self, rollout: Rollout) -> None:
        """Keep the rollout until `finish`; call before its first, or first remaining, minibatch."""
        self.rollout = rollout

    def select_remaining(self, minibatches: Sequence[T]) -> Sequence[T]:
        """Minibatches that are not consumed yet: all, unless a checkpoint was restored."""
        return minibatches[self._minibatches :]

    def add(self, metrics: dict[str, float] | None) -> None:
        """Count a minibatch; its optimizer step has no metrics if it was skipped."""
        self._minibatches += 1
        if metrics is not None:
            self.steps.append(metrics)

    def finish(self) -> None:
        """Forget the rollout: all of it is consumed."""
        self.rollout, self.steps, self._minibatches = None, [], 0

    def progress(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the rollout's tensors."""
        return {"steps": self.steps, "minibatches": self._minibatches}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Resume from a checkpoint's `progress`."""
        self.steps, self._minibatches = progress["steps"], progress["minibatches"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the rollout as tensors, lists of lists with their lengths; {} without one."""
        if self.rollout is None:
            return {}
        tensors = {n: value for n, value in vars(self.rollout).items() if isinstance(value, Tensor)}
        tensors["prompt_ids"] = torch.tensor(self.rollout.prompt_ids)
        for name in TOKEN_LISTS:
            rows: list[list[int]] = getattr(self.rollout, name)
            tensors[name] = torch.tensor([token for row in rows for token in row])
            tensors[f"{name}_lengths"] = torch.tensor([len(row) for row in rows])
        return {name: value.contiguous() for name, value in tensors.items()}

    def restore_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Rebuild the rollout that `tensors` was made from."""
        fields: dict[str, Any] = dict(tensors)
        fields["prompt_ids"] = tensors["prompt_ids"].tolist()
        for name in TOKEN_LISTS:
            lengths = fields.pop(f"{name}_lengths").tolist()
            fields[name] = [row.tolist() for row in torch.split(tensors[name], lengths)]
        self.rollout = Rollout(**fields)
