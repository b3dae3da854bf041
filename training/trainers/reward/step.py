"""One step of stage 2: the pairwise loss over the comparisons of a batch of prompts."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from training.arguments.reward import RewardArgs
from training.data.batches import Batches, plan_epoch
from training.data.collate import collate_groups
from training.data.encode import EncodedGroup
from training.data.groups import split_groups
from training.data.packing import MicroBatch, Sample, plan_packed_step
from training.objectives.reward import comparison_loss, pair_accuracy
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, compute_dtype
from training.trainers.guards import Readings, step_together
from training.trainers.row_rules import row_rules
from training.trainers.speed import Speed


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
        self.engine = engine
        self._groups = groups
        self._pad_id = pad_id
        backbone = engine.module.backbone
        self._rules = row_rules(args, backbone, longest_row=args.micro_batch_tokens)
        self.scores: list[list[float]] = []  # by group, of the latest evaluation

    def batches(self, epoch: int) -> Batches[EncodedGroup]:
        """The epoch's batches of groups, large groups split again; equal on every rank."""
        args = self._args
        parts = split_groups(
            self._groups, size=args.responses_per_group, seed=args.seed, epoch=epoch
        )
        plan = plan_epoch(parts.lengths, args.batch_size, seed=args.seed, epoch=epoch)
        return Batches(parts, plan)

    def step(self, groups: Sequence[EncodedGroup], lr_scale: float) -> dict[str, float]:
        """One optimizer step on these groups (the same list on every rank)."""
        started = time.monotonic()
        self.engine.module.train()
        weight_sum = sum(self._pair_weights(group).sum().item() for group in groups)
        plan = self._plan([_sample(group) for group in groups])
        by_place = dict(enumerate(groups))
        readings = Readings()
        totals = torch.zeros(3, dtype=torch.float64, device=self._world.device)
        for index, micro_batch in enumerate(self._world.iterate_stoppable(plan)):
            chosen = [groups[place] for place in micro_batch.samples]
            scores = self._compute_scores(micro_batch, by_place)
            if chosen:
                readings.add("score", scores, partial(_list_sources, chosen))
            loss, counts = self._compute_loss(chosen, scores, weight_sum)
            totals += torch.stack([loss.detach().double(), *counts])
            self.engine.backward(loss, last=index == len(plan) - 1)
        loss_sum, correct, counted = self._world.sum_over_ranks(totals).tolist()
        norms = step_together(
            {"reward model": self.engine},
            lr_scale,
            losses={"loss": loss_sum},
            readings=readings,
            world=self._world,
        )
        seconds = time.monotonic() - started
        lengths = [len(g.prompt_ids) + len(ids) for g in groups for ids in g.response_ids]
        return {
            "loss/train": loss_sum,
            "accuracy/train": correct / max(counted, 1.0),
            "optim/grad_norm": norms["reward model"],
            "optim/lr_scale": lr_scale,
            "time/step_s": seconds,
            **self._speed.training(lengths, 0, seconds),
            "speed/pairs_per_s": sum(len(group.pairs) for group in groups) / seconds,
        }

    @cached_property
    def _speed(self) -> Speed:
        dtype = compute_dtype(self._args.dtype, self._world.device)
        return Speed(self.engine.module.backbone, dtype, self._world)

    @torch.no_grad()
    def evaluate(self, groups: Sequence[EncodedGroup]) -> dict[str, float]:
        """Loss and accuracy over all comparisons of these groups, each response scored once."""
        weight_sum = sum(self._pair_weights(group).sum().item() for group in groups)
        totals = torch.zeros(3, dtype=torch.float64)
        self.scores = self.score(groups)
        for group, scores in zip(groups, self.scores, strict=True):
            loss, counts = self._compute_loss([group], torch.tensor(scores), weight_sum)
            totals += torch.stack([loss.double(), *counts])
        loss_sum, right, counted = totals.tolist()
        return {"loss/eval": loss_sum, "accuracy/eval": right / max(counted, 1.0)}

    @torch.no_grad()
    def score(self, groups: Sequence[EncodedGroup]) -> list[list[float]]:
        """Scores of each group's responses, on every rank; all ranks call this."""
        self.engine.module.eval()
        places, samples = _split_groups(groups, self._args.responses_per_group)
        own: dict[tuple[int, int], float] = {}
        for micro_batch in self._world.iterate_stoppable(self._plan(samples)):
            parts = {part: _take_part(groups, places[part]) for part in micro_batch.samples}
            scores = iter(self._compute_scores(micro_batch, parts).tolist())
            for part in micro_batch.samples:
                own.update((place, next(scores)) for place in places[part])
        merged = {place: score for part in self._world.gather(own) for place, score in part.items()}
        return [[merged[n, k] for k in range(len(g.response_ids))] for n, g in enumerate(groups)]

    def _plan(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        rank, size = self._world.rank, self._world.size
        return plan_packed_step(range(len(samples)), samples, self._rules, rank=rank, size=size)

    def _compute_scores(
        self, micro_batch: MicroBatch, groups: Mapping[int, EncodedGroup]
    ) -> Tensor:
        """Scores [N] of the responses of the micro-batch's groups; [1] where it has none."""
        batch, ends = collate_groups(
            micro_batch.rows,
            {sample: group.prompt_ids for sample, group in groups.items()},
            {sample: group.response_ids for sample, group in groups.items()},
            pad_id=self._pad_id,
            device=self._world.device,
        )
        readings = self.engine(batch.input_ids, batch.attention_mask)
        order = [(n, k) for n in micro_batch.samples for k in range(len(groups[n].response_ids))]
        width = batch.input_ids.shape[1]
        found = [row * width + i for row, i in map(ends.__getitem__, order)] or [0]
        scores: Tensor = readings.flatten()[torch.tensor(found, device=readings.device)]
        return scores

    def _compute_loss(
        self, groups: Sequence[EncodedGroup], scores: Tensor, weight_sum: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """This micro-batch's share of the loss, and how many pairs are right, of how many."""
        device = scores.device
        if not groups:
            nothing = torch.zeros((), dtype=torch.float64, device=device)
            return scores.sum() * 0.0, (nothing, nothing)
        pairs = [pair for group in groups for pair in group.pairs]
        starts = itertools.accumulate((len(g.response_ids) for g in groups), initial=0)
        placed = zip(groups, starts, strict=False)  # the last start is past the last group
        compared = [(o + p.chosen, o + p.rejected) for group, o in placed for p in group.pairs]
        chosen, rejected = torch.tensor(compared, device=device).unbind(dim=1)
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


def _list_sources(groups: Sequence[EncodedGroup]) -> list[str]:
    """Where each response of these groups comes from, in their order."""
    return [
        f"{group.source} (response {k})" for group in groups for k in range(len(group.response_ids))
    ]


def _sample(group: EncodedGroup) -> Sample:
    return Sample(len(group.prompt_ids), tuple(map(len, group.response_ids)))


def _split_groups(
    groups: Sequence[EncodedGroup], size: int
) -> tuple[list[list[tuple[int, int]]], list[Sample]]:
    """The groups in parts of at most `size` responses: which (group, response) each part holds."""
    places, samples = [], []
    for number, group in enumerate(groups):
        whole = _sample(group)
        for start in range(0, len(whole.responses), size):
            held = whole.responses[start : start + size]
            places.append([(number, start + k) for k in range(len(held))])
            samples.append(replace(whole, responses=held))
    return places, samples


def _take_part(groups: Sequence[EncodedGroup], places: Sequence[tuple[int, int]]) -> EncodedGroup:
    group = groups[places[0][0]]
    return replace(group, response_ids=[group.response_ids[k] for _, k in places], pairs=())
