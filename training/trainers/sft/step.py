"""One step of stage 1: cross-entropy on the target tokens of a batch."""

import time
from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from training.arguments.sft import SFTArgs
from training.data.batches import plan_epoch
from training.data.collate import collate_texts
from training.data.encode import EncodedText
from training.data.packing import RowPlan, Sample, plan_packed_step
from training.data.tables import measure_texts
from training.objectives.sft import cross_entropy, perplexity
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, compute_dtype
from training.trainers.guards import Readings, step_together
from training.trainers.row_rules import row_rules
from training.trainers.speed import Speed


class SFTTrainer:
    """Trains and evaluates an engine whose module is a `Policy`."""

    def __init__(
        self, args: SFTArgs, world: World, engine: TrainingEngine, examples: Sequence[EncodedText]
    ) -> None:
        self._args = args
        self._world = world
        self.engine = engine
        self._examples = examples
        self.lengths = measure_texts(examples)
        self._rules = row_rules(args, engine.module.lm, longest_row=args.max_length)

    def batches(self, epoch: int) -> list[list[int]]:
        """The epoch's batches of example indices, the same on every rank."""
        size, seed = self._args.batch_size, self._args.seed
        return plan_epoch(self.lengths, size, seed=seed, epoch=epoch)

    def step(self, batch: Sequence[int], lr_scale: float) -> dict[str, float]:
        """One optimizer step on these examples (the same list on every rank)."""
        started = time.monotonic()
        self.engine.module.train()
        examples = [self._examples[index] for index in batch]
        token_count = sum(sum(example.loss_mask) for example in examples)
        plan = self._plan(examples)
        readings = Readings()
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        for index, rows in enumerate(self._world.iterate_stoppable(plan)):
            summed, logprobs = self._sum_loss(rows, examples)
            readings.add("log-prob", logprobs, partial(_list_sources, rows, examples))
            loss = summed / token_count
            total += loss.detach()
            self.engine.backward(loss, last=index == len(plan) - 1)
        loss_sum = self._world.sum_over_ranks(total).item()
        norms = step_together(
            {"model": self.engine},
            lr_scale,
            losses={"loss": loss_sum},
            readings=readings,
            world=self._world,
        )
        seconds = time.monotonic() - started
        return {
            "loss/train": loss_sum,
            "optim/grad_norm": norms["model"],
            "optim/lr_scale": lr_scale,
            "time/step_s": seconds,
            **self._speed.training([self.lengths[i] for i in batch], token_count, seconds),
        }

    @cached_property
    def _speed(self) -> Speed:
        dtype = compute_dtype(self._args.dtype, self._world.device)
        return Speed(self.engine.module.lm, dtype, self._world)

    @torch.no_grad()
    def evaluate(self, examples: Sequence[EncodedText]) -> dict[str, float]:
        """Cross-entropy per target token and its exponential, over all ranks."""
        self.engine.module.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        for rows in self._world.iterate_stoppable(self._plan(examples)):
            total += self._sum_loss(rows, examples)[0]
        count = sum(sum(example.loss_mask) for example in examples)
        loss = self._world.sum_over_ranks(total).item() / count
        return {"loss/eval": loss, "perplexity/eval": perplexity(loss)}

    def _plan(self, examples: Sequence[EncodedText]) -> list[RowPlan]:
        samples = [Sample(0, (length,)) for length in measure_texts(examples)]
        rank, size = self._world.rank, self._world.size
        plan = plan_packed_step(range(len(examples)), samples, self._rules, rank=rank, size=size)
        return [micro_batch.rows for micro_batch in plan]

    def _sum_loss(
        self, rows: RowPlan, examples: Sequence[EncodedText]
    ) -> tuple[Tensor, Tensor]:  # 0-d, log-probs [N] of the rows' targets
        held = {doc.sample: examples[doc.sample] for row in rows for doc in row}
        batch = collate_texts(
            rows,
            {sample: example.input_ids for sample, example in held.items()},
            {sample: example.loss_mask for sample, example in held.items()},
            pad_id=self.engine.module.pad_id,
            device=self._world.device,
        )
        found: tuple[Tensor, Tensor] = self.engine(
            batch.input_ids, batch.attention_mask, batch.target_mask, token_loss=cross_entropy
        )
        return found


def _list_sources(rows: RowPlan, examples: Sequence[EncodedText]) -> list[str]:
    """Where each target of these rows comes from, in their order."""
    placed = [(doc.sample, examples[doc.sample]) for row in rows for doc in row]
    return [
        example.source or f"block {index} of the batch"
        for index, example in placed
        for _ in range(sum(example.loss_mask))
    ]
