"""A rollout column by column: joined from the ranks' shares, and checked."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import pad

from training.runtime.distributed import World
from training.trainers.guards import Fault, weight_fault
from training.trainers.ppo.experience import Rollout
from training.trainers.ppo.setup import Models

COLUMNS = [field.name for field in fields(Rollout) if field.name != "fault"]


def merge_shares(shares: Sequence[Rollout], count: int) -> Rollout:
    """Join the ranks' shares: row i of `count` is row i // ranks of rank i % ranks."""
    ranks, width = len(shares), max(share.mask.shape[1] for share in shares)
    starts = [0, *accumulate(len(share.responses) for share in shares)]
    order = [starts[row % ranks] + row // ranks for row in range(count)]
    merged: dict[str, Any] = {}
    for name in COLUMNS:
        columns = [getattr(share, name) for share in shares]
        if isinstance(columns[0], list):
            rows = [row for column in columns for row in column]
            merged[name] = [rows[index] for index in order]
            continue
        if columns[0].dim() == 2:
            columns = [pad(column, (0, width - column.shape[1])) for column in columns]
        merged[name] = torch.cat(columns)[order]
    return Rollout(**merged)


def find_fault(rollout: Rollout, models: Models, world: World) -> Fault | None:
    """Find the first number of a rollout that is not finite; all ranks call this."""
    reads = {  # in the order in which they are read
        "log-prob of the actor": (rollout.logprobs, models.actor.module),
        "value": (rollout.values, (models.critic or models.actor).module),
        "log-prob of the ref": (rollout.ref_logprobs, models.ref),
        "score": (rollout.scores, models.reward_model),
    }
    for name, (values, model) in reads.items():
        is_bad = ~torch.isfinite(values)
        if values.dim() == 2:
            is_bad = (is_bad & rollout.mask).any(dim=1)
        if is_bad.any():
            rows = is_bad.nonzero().flatten().tolist()
            fault = Fault(name, [f"prompt {rollout.prompt_ids[row]}" for row in rows])
            return weight_fault({f"model that reads the {name}": model}, world) or fault
    return None
