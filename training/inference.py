"""Forward passes without gradients over many responses, in micro-batches, on every rank alike."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from training.data.batches import plan_micro_batches
from training.data.collate import TokenBatch, collate_responses
from training.models.scalar import ScalarModel
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.tensors import predicting_positions, response_mask_from_lengths, scatter_to_mask

Model = nn.Module | TrainingEngine


class ResponseForwards:
    """B responses of this rank, to be read by any model; results come back in their order.

    All ranks run equally many micro-batches, as ZeRO-3 demands of every model it shards.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        token_budget: int,
        pad_id: int,
        world: World,
    ) -> None:
        self._prompts, self._responses = prompts, responses
        self._pad_id = pad_id
        self._world = world
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        own = plan_micro_batches(range(len(lengths)), lengths, token_budget=token_budget)
        most = int(world.max_over_ranks(torch.tensor(float(len(own)), device=world.device)))
        self._plan = own + [[] for _ in range(most - len(own))]
        widths = torch.tensor([len(response) for response in responses], device=world.device)
        self.mask = response_mask_from_lengths(widths, int(widths.max()))  # [B, T]

    def logprobs(self, policy: Model, *, temperature: float) -> Tensor:
        """Log-probs [B, T] of the response tokens; 0 at padding."""
        return self.tokens(
            lambda batch: policy(
                batch.input_ids, batch.attention_mask, batch.target_mask, temperature
            )[:1]
        )[0]

    @torch.no_grad()
    def tokens(self, read: Callable[[TokenBatch], Sequence[Tensor]]) -> list[Tensor]:
        """What `read` makes of each target token, packed [N] each, as [B, T]; 0 at padding."""
        packed = [torch.stack(list(read(batch)), dim=1) for batch in self._each()]
        columns = self._in_order(packed).unbind(dim=1)
        return [scatter_to_mask(column, self.mask) for column in columns]

    @torch.no_grad()
    def scores(self, reward_model: Model) -> Tensor:
        """One score for each response, [B]."""
        parts = [
            ScalarModel.scores(
                reward_model(batch.input_ids, batch.attention_mask), batch.attention_mask
            )
            for batch in self._each()
        ]
        scores = torch.zeros(len(self._prompts), device=self._world.device)
        for rows, part in zip(self._plan, parts, strict=True):
            scores[rows] = part[: len(rows)]
        return scores

    def _each(self) -> Iterator[TokenBatch]:
        return self._world.iterate_stoppable(self._batches)

    @cached_property
    def _batches(self) -> list[TokenBatch]:
        """The micro-batches, made once for all the models that read them."""
        return [
            collate_responses(
                [self._prompts[row] for row in rows],
                [self._responses[row] for row in rows],
                pad_id=self._pad_id,
                device=self._world.device,
            )
            for rows in self._plan
        ]

    def _in_order(self, packed: Sequence[Tensor]) -> Tensor:
        """Packed token results of the micro-batches, joined in the order of the responses."""
        by_row: dict[int, Tensor] = {}
        for rows, part in zip(self._plan, packed, strict=True):
            pieces = torch.split(part, [len(self._responses[row]) for row in rows])
            by_row.update(zip(rows, pieces, strict=True))
        return torch.cat([by_row[row] for row in range(len(self._prompts))])


def scalar_values(critic: Model, batch: TokenBatch) -> Tensor:  # [N]
    """A scalar model's reading before each target token."""
    readings: Tensor = critic(batch.input_ids, batch.attention_mask)
    return readings[predicting_positions(batch.target_mask)]
