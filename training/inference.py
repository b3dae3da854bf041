"""Forward passes without gradients over many responses, in micro-batches."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from training.data.batches import plan_micro_batches
from training.data.collate import TokenBatch, collate_responses
from training.models.scalar import ScalarModel
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.tensors import make_length_mask, scatter_to_mask, shift_target_mask

Model = nn.Module | TrainingEngine


class ResponseForwards:
    """B responses of this rank, for any model to read; results come in their order.

    All ranks run equally many micro-batches, because forwards are collective under ZeRO-3.
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
        plan = plan_micro_batches(range(len(lengths)), lengths, token_budget=token_budget)
        most = int(world.max_over_ranks(torch.tensor(float(len(plan)), device=world.device)))
        self._plan = plan + [[] for _ in range(most - len(plan))]
        widths = [len(response) for response in responses]
        counts = torch.tensor(widths, dtype=torch.long, device=world.device)
        self.mask = make_length_mask(counts, max(widths, default=0))  # [B, T]

    def compute_logprobs(self, policy: Model, *, temperature: float) -> Tensor:
        """Log-probs [B, T] of the response tokens; 0 at padding."""
        return self.read_tokens(lambda batch: policy(*batch.inputs, temperature)[:1])[0]

    @torch.no_grad()
    def read_tokens(self, read: Callable[[TokenBatch], Sequence[Tensor]]) -> list[Tensor]:
        """Tensors [B, T], 0 at padding, from those that `read` gives for N target tokens [N]."""
        packed = [torch.stack(list(read(batch)), dim=1) for batch in self._iterate_batches()]
        columns = self._restore_order(packed).unbind(dim=1)
        return [scatter_to_mask(column, self.mask) for column in columns]

    @torch.no_grad()
    def compute_scores(self, reward_model: Model) -> Tensor:
        """One score for each response, [B]."""
        scores = torch.zeros(len(self._prompts), device=self._world.device)
        for rows, batch in zip(self._plan, self._iterate_batches(), strict=True):
            readings = reward_model(batch.input_ids, batch.attention_mask)
            scores[rows] = ScalarModel.scores(readings, batch.attention_mask)[: len(rows)]
        return scores

    def _iterate_batches(self) -> Iterator[TokenBatch]:
        return self._world.iterate_stoppable(self._batches)

    @cached_property
    def _batches(self) -> list[TokenBatch]:
        """Micro-batches, collated once for all the models that read them."""
        return [
            collate_responses(
                [self._prompts[row] for row in rows],
                [self._responses[row] for row in rows],
                pad_id=self._pad_id,
                device=self._world.device,
            )
            for rows in self._plan
        ]

    def _restore_order(self, packed: Sequence[Tensor]) -> Tensor:
        """Join packed token results of the micro-batches in the order of the responses."""
        by_row: dict[int, Tensor] = {}
        for rows, tokens in zip(self._plan, packed, strict=True):
            pieces = torch.split(tokens, [len(self._responses[row]) for row in rows])
            by_row.update(zip(rows, pieces, strict=True))
        return torch.cat([by_row[row] for row in range(len(self._prompts))])


def read_token_values(critic: Model, batch: TokenBatch) -> Tensor:  # [N]
    """Read a scalar model's value before each target token."""
    readings: Tensor = critic(batch.input_ids, batch.attention_mask)
    return readings[shift_target_mask(batch.target_mask)]
