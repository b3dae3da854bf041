"""One step of stage 2: the pairwise loss over the comparisons of a batch of prompts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.arguments.reward import RewardArgs
from training.data.batches import epoch_batches, plan_step
from training.data.encode import EncodedGroup
from training.data.groups import longest, regroup
from training.models.scalar import ScalarModel
from training.objectives.reward import comparison_loss, pair_accuracy
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.trainers.collate import TokenBatch, collate_responses


@dataclass(frozen=True)
class PairOutcomes:
    """Held-out comparisons, over all ranks: one entry for each decided pair."""

    differences: list[float]  # score of chosen minus score of rejected
    correct: list[bool]
    gaps: list[float]  # the rows' `gaps`, 0 where a row has none
    sources: list[str]  # which row a pair came from: pairs of one row are not independent

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / max(len(self.correct), 1)


class RewardTrainer:
    """Trains and evaluates an engine whose module is a `ScalarModel`."""

    def __init__(
        self,
        args: RewardArgs,
        world: World,
        engine: TrainingEngine,
        groups: Sequence[EncodedGroup],
        pad_id: int,
    ) -> None:
        self._args = args
        self._world = world
        self._engine = engine
        self._groups = groups
        self._pad_id = pad_id
        self.outcomes = PairOutcomes([], [], [], [])  # of the latest evaluation

    def batches(self, epoch: int) -> list[list[EncodedGroup]]:
        """The epoch's batches of groups, large groups dealt anew; the same on every rank."""
        args = self._args
        parts = regroup(self._groups, size=args.responses_per_group, seed=args.seed, epoch=epoch)
        lengths = [longest(group) for group in parts]
        batches = epoch_batches(lengths, args.batch_size, seed=args.seed, epoch=epoch)
        return [[parts[index] for index in batch] for batch in batches]

    def step(self, groups: Sequence[EncodedGroup], lr_scale: float) -> dict[str, float]:
        """One optimizer step on these groups (the same list on every rank)."""
        started = time.monotonic()
        self._engine.module.train()
        weight_sum = sum(self._pair_weights(group).sum().item() for group in groups)
        plan = self._plan(groups)
        totals = torch.zeros(3, dtype=torch.float64, device=self._world.device)
        for index, rows in enumerate(plan):
            chosen = [groups[i] for i in rows]
            loss, counts = self._loss(chosen, self._scores(self._engine, chosen), weight_sum)
            totals += torch.stack([loss.detach().double(), *counts])
            self._engine.backward(loss, last=index == len(plan) - 1)
        grad_norm = self._engine.step(lr_scale)
        seconds = time.monotonic() - started
        loss_sum, correct, counted = self._world.all_sum(totals).tolist()
        return {
            "loss/train": loss_sum,
            "accuracy/train": correct / max(counted, 1.0),
            "optim/grad_norm": grad_norm,
            "optim/lr_scale": lr_scale,
            "time/step_s": seconds,
            "speed/pairs_per_s": sum(len(group.pairs) for group in groups) / seconds,
        }

    @torch.no_grad()
    def evaluate(self, groups: Sequence[EncodedGroup]) -> dict[str, float]:
        """Loss and accuracy over all comparisons of these groups, each response scored once."""
        self._engine.module.eval()
        weight_sum = sum(self._pair_weights(group).sum().item() for group in groups)
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        outcomes = []
        for rows in self._plan(groups):
            chosen = [groups[i] for i in rows]
            scores = self._scores(self._engine, chosen)
            loss, _ = self._loss(chosen, scores, weight_sum)
            total += loss
            for i, part in zip(rows, _split(scores, chosen), strict=True):
                outcomes.extend(_outcomes(groups[i], part.tolist()))
        merged = [entry for part in self._world.gather(outcomes) for entry in part]
        self.outcomes = PairOutcomes(
            differences=[difference for difference, _, _, _ in merged],
            correct=[is_right for _, is_right, _, _ in merged],
            gaps=[gap for _, _, gap, _ in merged],
            sources=[source for _, _, _, source in merged],
        )
        return {
            "loss/eval": self._world.all_sum(total).item(),
            "accuracy/eval": self.outcomes.accuracy,
        }

    @torch.no_grad()
    def score(self, groups: Sequence[EncodedGroup]) -> list[list[float]]:
        """Scores of each group's responses, on every rank; all ranks call this."""
        self._engine.module.eval()
        own: dict[int, list[float]] = {}
        for rows in self._plan(groups):
            chosen = [groups[i] for i in rows]
            scores = self._scores(self._engine, chosen)
            for i, part in zip(rows, _split(scores, chosen), strict=True):
                own[i] = part.tolist()
        merged = {i: part for parts in self._world.gather(own) for i, part in parts.items()}
        return [merged[i] for i in range(len(groups))]

    def _plan(self, groups: Sequence[EncodedGroup]) -> list[list[int]]:
        sizes = [longest(group) * len(group.response_ids) for group in groups]
        return plan_step(
            range(len(groups)),
            sizes,
            token_budget=self._args.micro_batch_tokens,
            rank=self._world.rank,
            size=self._world.size,
        )

    def _scores(self, model: nn.Module | TrainingEngine, groups: Sequence[EncodedGroup]) -> Tensor:
        """Scores [K] of all responses of the groups, in order; [1] without groups."""
        batch = response_batch(groups, self._pad_id, self._world.device)
        return ScalarModel.scores(
            model(batch.input_ids, batch.attention_mask), batch.attention_mask
        )

    def _loss(
        self, groups: Sequence[EncodedGroup], scores: Tensor, weight_sum: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """This micro-batch's share of the loss, and how many pairs are right, of how many."""
        device = scores.device
        if not groups:
            nothing = torch.zeros((), dtype=torch.float64, device=device)
            return scores.sum() * 0.0, (nothing, nothing)
        pairs = [pair for group in groups for pair in group.pairs]
        offsets = _offsets(groups)
        chosen = torch.tensor(
            [o + p.chosen for o, g in zip(offsets, groups, strict=True) for p in g.pairs],
            device=device,
        )
        rejected = torch.tensor(
            [o + p.rejected for o, g in zip(offsets, groups, strict=True) for p in g.pairs],
            device=device,
        )
        labels = torch.tensor([pair.label for pair in pairs], device=device)
        margins = torch.tensor([pair.margin for pair in pairs], device=device)
        loss = comparison_loss(
            scores,
            chosen,
            rejected,
            labels,
            torch.cat([self._pair_weights(group) for group in groups]).to(device),
            margins * self._args.margin_coef,
            label_smoothing=self._args.label_smoothing,
            center_coef=self._args.center_coef,
            weight_sum=weight_sum,
        )
        correct, counted = pair_accuracy(scores[chosen], scores[rejected], labels)
        counts = torch.tensor([correct, counted], dtype=torch.float64, device=device)
        return loss, (counts[0], counts[1])

    def _pair_weights(self, group: EncodedGroup) -> Tensor:  # [P]
        """The rows' weights; with prompt_mean those of a prompt's pairs add up to 1."""
        weights = torch.tensor([pair.weight for pair in group.pairs])
        if self._args.group_average == "prompt_mean":
            return weights / weights.sum().clamp(min=1e-12)
        return weights


def response_batch(groups: Sequence[EncodedGroup], pad_id: int, device: torch.device) -> TokenBatch:
    """Every response of the groups after its prompt, one row each."""
    prompts = [group.prompt_ids for group in groups for _ in group.response_ids]
    responses = [response for group in groups for response in group.response_ids]
    return collate_responses(prompts, responses, pad_id=pad_id, device=device)


def _offsets(groups: Sequence[EncodedGroup]) -> list[int]:
    starts, total = [], 0
    for group in groups:
        starts.append(total)
        total += len(group.response_ids)
    return starts


def _split(scores: Tensor, groups: Sequence[EncodedGroup]) -> list[Tensor]:
    """Each group's own scores; none for the empty micro-batch's placeholder."""
    sizes = [len(group.response_ids) for group in groups]
    return list(torch.split(scores[: sum(sizes)], sizes)) if groups else []


def _outcomes(group: EncodedGroup, scores: Sequence[float]) -> list[tuple[float, bool, float, str]]:
    rows = []
    for pair in group.pairs:
        if pair.label == 0.5:
            continue  # a tie has no right order
        difference = scores[pair.chosen] - scores[pair.rejected]
        is_right = difference > 0 if pair.label > 0.5 else difference < 0
        rows.append((difference, is_right, pair.gap or 0.0, group.source))
    return rows
