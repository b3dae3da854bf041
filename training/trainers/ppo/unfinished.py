"""How far the update on a rollout is, so that a stopped run resumes in the middle of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.trainers.ppo.columns import COLUMNS
from training.trainers.ppo.experience import Rollout

TOKEN_LISTS = ("prompts", "responses")


class UnfinishedUpdate:
    """The rollout of a PPO step between its first optimizer step and its last."""

    def __init__(self) -> None:
        self.rollout: Rollout | None = None
        self.steps: list[dict[str, float]] = []  # metrics of the optimizer steps made
        self._minibatches = 0  # consumed, skipped ones included

    def start(self, rollout: Rollout) -> None:
        """Keep the rollout until `finish`."""
        self.rollout = rollout

    def select_remaining(self, minibatches: Sequence[list[int]]) -> Sequence[list[int]]:
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

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the rollout's tensors."""
        return {"steps": self.steps, "minibatches": self._minibatches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint's `state_dict`."""
        self.steps, self._minibatches = state["steps"], state["minibatches"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the rollout as tensors, token ids end to end; none if there is no rollout."""
        if self.rollout is None:
            return {}
        columns = {name: getattr(self.rollout, name) for name in COLUMNS}
        for name in TOKEN_LISTS:
            rows = columns[name]
            columns[name] = torch.tensor([token for row in rows for token in row])
            columns[f"{name}_lengths"] = torch.tensor([len(row) for row in rows])
        columns["prompt_ids"] = torch.tensor(columns["prompt_ids"])
        return {name: column.contiguous() for name, column in columns.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume with the rollout of a checkpoint."""
        columns: dict[str, Any] = dict(tensors)
        columns["prompt_ids"] = tensors["prompt_ids"].tolist()
        for name in TOKEN_LISTS:
            lengths = columns.pop(f"{name}_lengths").tolist()
            columns[name] = [row.tolist() for row in torch.split(tensors[name], lengths)]
        self.rollout = Rollout(**columns)
