"""Minibatches of a rollout, and their micro-batches on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.data.batches import plan_step
from training.data.collate import TokenBatch, collate_responses
from training.draws import make_random
from training.runtime.distributed import World
from training.trainers.ppo.experience import Rollout


@dataclass(frozen=True)
class ResponseBatch:
    """A micro-batch: b rows of a rollout with at most t response tokens.

    Without `rows` it is one empty row, for a rank that has fewer micro-batches than others.
    """

    rows: list[int]
    prompt_ids: list[int]
    tokens: TokenBatch
    mask: Tensor  # [b, t] response tokens
    is_last: bool

    def pick(self, values: Tensor) -> Tensor:
        """Select these rows [b, t] of a tensor [B, T] of the rollout."""
        if not self.rows:
            return torch.zeros(self.mask.shape, dtype=values.dtype, device=self.mask.device)
        return values[self.rows, : self.mask.shape[1]].to(self.mask.device)

    def name_prompts(self) -> list[str]:
        """Name the prompt of each response token, in their order."""
        return [f"prompt {self.prompt_ids[row]}" for row in self.mask.nonzero()[:, 0].tolist()]


def draw_minibatches(count: int, args: PPOArgs, step: int) -> list[list[int]]:
    """Rows of each minibatch of a PPO step: --ppo_epochs passes over `count` rows, shuffled.

    Rows stay in order if the critic was already trained on all of them, for its values.
    """
    minibatches = []
    for epoch in range(args.ppo_epochs):
        order = list(range(count))
        if not args.reads_values_in_update:
            make_random(args.seed, step, epoch, separator=":").shuffle(order)
        size = args.minibatch_size
        minibatches += [order[start : start + size] for start in range(0, count, size)]
    return minibatches


def iterate_micro_batches(
    rollout: Rollout, rows: Sequence[int], args: PPOArgs, world: World, pad_id: int
) -> Iterator[ResponseBatch]:
    """This rank's micro-batches of these rows, equally many on every rank."""
    plan = plan_step(
        rows,
        rollout.lengths,
        token_budget=args.micro_batch_tokens,
        rank=world.rank,
        size=world.size,
    )
    for index, chosen in enumerate(world.iterate_stoppable(plan)):
        responses = [rollout.responses[row] for row in chosen]
        tokens = collate_responses(
            [rollout.prompts[row] for row in chosen], responses, pad_id=pad_id, device=world.device
        )
        width = max(map(len, responses), default=1)
        mask = rollout.mask[chosen, :width] if chosen else torch.zeros(1, width, dtype=torch.bool)
        prompt_ids = [rollout.prompt_ids[row] for row in chosen]
        is_last = index == len(plan) - 1
        yield ResponseBatch(chosen, prompt_ids, tokens, mask.to(world.device), is_last)
