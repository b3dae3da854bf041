"""A minibatch of a rollout, micro-batch by micro-batch, on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.data.batches import plan_step
from training.data.collate import TokenBatch, collate_responses
from training.runtime.distributed import World
from training.trainers.ppo.experience import Rollout


@dataclass(frozen=True)
class MicroBatch:
    """b rows of a rollout with at most t response tokens.

    Without `rows` it is one row of nothing, of a rank that has fewer micro-batches than others.
    """

    rows: list[int]
    tokens: TokenBatch
    mask: Tensor  # [b, t] response tokens
    is_last: bool

    def pick(self, values: Tensor) -> Tensor:
        """These rows [b, t] of a tensor [B, T] of the rollout."""
        if not self.rows:
            return torch.zeros(self.mask.shape, dtype=values.dtype, device=self.mask.device)
        return values[self.rows, : self.mask.shape[1]].to(self.mask.device)


def minibatch(
    rollout: Rollout, rows: Sequence[int], args: PPOArgs, world: World, pad_id: int
) -> Iterator[MicroBatch]:
    """This rank's micro-batches of these rows, equally many on every rank."""
    plan = plan_step(
        rows,
        rollout.lengths,
        token_budget=args.micro_batch_tokens,
        rank=world.rank,
        size=world.size,
    )
    for index, part in enumerate(world.iterate_stoppable(plan)):
        tokens = collate_responses(
            [rollout.prompts[row] for row in part],
            [rollout.responses[row] for row in part],
            pad_id=pad_id,
            device=world.device,
        )
        width = max((len(rollout.responses[row]) for row in part), default=1)
        mask = rollout.mask[part, :width] if part else torch.zeros(1, width, dtype=torch.bool)
        yield MicroBatch(part, tokens, mask.to(world.device), is_last=index == len(plan) - 1)
