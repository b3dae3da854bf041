"""One step of stage 1: cross-entropy on the target tokens of a batch."""

import math
import time
from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.arguments.parsing import UserError
from training.arguments.sft import SFTArgs
from training.data.batches import epoch_batches
from training.data.blocks import text_lengths
from training.data.encode import EncodedText
from training.data.packing import Rows, Sample, plan_packed_step
from training.data.prepare import plain_texts
from training.models.cpu_blocks import use_cpu_blocks
from training.models.lora import add_lora
from training.models.policy import Policy
from training.models.sentencepieces import tokenizer_of, train_model
from training.models.starting_point import load_starting_tokenizer
from training.models.tokenizers import Tokenizer
from training.objectives.sft import cross_entropy, perplexity
from training.runtime import optim
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, compute_dtype, trainable
from training.trainers.collate import collate_texts
from training.trainers.guards import Readings, step_together
from training.trainers.row_rules import row_rules
from training.trainers.schedule import Schedule
from training.trainers.speed import Speed


class SFTTrainer:
    """Trains and evaluates an engine whose module is a `Policy`."""

    def __init__(
        self, args: SFTArgs, world: World, engine: TrainingEngine, examples: Sequence[EncodedText]
    ) -> None:
        self._args = args
        self._world = world
        self._engine = engine
        self._examples = examples
        self.lengths = text_lengths(examples)
        self._rules = row_rules(args, engine.module.lm, longest_row=args.max_length)

    def batches(self, epoch: int) -> list[list[int]]:
        """The epoch's batches of example indices, the same on every rank."""
        size, seed = self._args.batch_size, self._args.seed
        return epoch_batches(self.lengths, size, seed=seed, epoch=epoch)

    def step(self, batch: Sequence[int], lr_scale: float) -> dict[str, float]:
        """One optimizer step on these examples (the same list on every rank)."""
        started = time.monotonic()
        self._engine.module.train()
        examples = [self._examples[index] for index in batch]
        token_count = sum(sum(example.loss_mask) for example in examples)
        plan = self._plan(examples)
        readings = Readings()
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        for index, rows in enumerate(self._world.stoppable(plan)):
            summed, logprobs = self._summed_loss(rows, examples)
            readings.add("log-prob", logprobs, partial(_sources, rows, examples))
            loss = summed / token_count
            total += loss.detach()
            self._engine.backward(loss, last=index == len(plan) - 1)
        loss_sum = self._world.all_sum(total).item()
        norms = step_together(
            {"model": self._engine},
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
        return Speed(self._engine.module.lm, dtype, self._world)

    @torch.no_grad()
    def evaluate(self, examples: Sequence[EncodedText]) -> dict[str, float]:
        """Cross-entropy per target token and its exponential, over all ranks."""
        self._engine.module.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        for rows in self._world.stoppable(self._plan(examples)):
            total += self._summed_loss(rows, examples)[0]
        count = sum(sum(example.loss_mask) for example in examples)
        loss = self._world.all_sum(total).item() / count
        return {"loss/eval": loss, "perplexity/eval": perplexity(loss)}

    def _plan(self, examples: Sequence[EncodedText]) -> list[Rows]:
        samples = [Sample(0, (length,)) for length in text_lengths(examples)]
        rank, size = self._world.rank, self._world.size
        plan = plan_packed_step(range(len(examples)), samples, self._rules, rank=rank, size=size)
        return [micro_batch.rows for micro_batch in plan]

    def _summed_loss(
        self, rows: Rows, examples: Sequence[EncodedText]
    ) -> tuple[Tensor, Tensor]:  # 0-d, log-probs [N] of the rows' targets
        held = {doc.sample: examples[doc.sample] for row in rows for doc in row}
        batch = collate_texts(
            rows,
            {sample: example.input_ids for sample, example in held.items()},
            {sample: example.loss_mask for sample, example in held.items()},
            pad_id=self._engine.module.pad_id,
            device=self._world.device,
        )
        found: tuple[Tensor, Tensor] = self._engine(
            batch.input_ids, batch.attention_mask, batch.target_mask, token_loss=cross_entropy
        )
        return found


def _sources(rows: Rows, examples: Sequence[EncodedText]) -> list[str]:
    """Where each target of these rows comes from, in their order."""
    placed = [(doc.sample, examples[doc.sample]) for row in rows for doc in row]
    return [
        example.source or f"block {index} of the batch"
        for index, example in placed
        for _ in range(sum(example.loss_mask))
    ]


def stage1_tokenizer(args: SFTArgs, world: World) -> Tokenizer:
    """The tokenizer that the flags name, or a new one of the stage's own text."""
    if args.tokenizer == "given":
        return load_starting_tokenizer(args)
    model, mistake = b"", ""
    if world.is_main:
        try:
            # A list, so that a bad row is named here, not within the library, which holds all text.
            model = train_model(list(plain_texts(args)), vocab_size=args.vocab_size)
        except UserError as error:
            mistake = str(error)
    model, mistake = world.gather((model, mistake))[0]
    if mistake:
        raise UserError(mistake)  # on every rank: the others must not wait for this one
    return tokenizer_of(model, name="--tokenizer sentencepiece")


def sft_engine(lm: nn.Module, args: SFTArgs, world: World, tokenizer: Tokenizer) -> TrainingEngine:
    """A training engine around the policy, with the optimizer that the flags name."""
    dtype = compute_dtype(args.dtype, world.device)
    add_lora(lm, args)
    policy = Policy(lm, pad_id=tokenizer.pad_token_id, compute_dtype=dtype)
    if args.cpu_blocks:
        use_cpu_blocks(policy)

    def optimizer(module: nn.Module) -> Optimizer:
        if args.optimizer == "adamw":
            return optim.adamw(module, args, args.learning_rate)
        embeddings = [m for m in module.modules() if isinstance(m, nn.Embedding)]
        outside = {id(p) for m in (*embeddings, policy.lm.get_output_embeddings())
                   for p in m.parameters()}  # fmt: skip
        return optim.muon(
            module,
            lambda parameter: parameter.dim() == 2 and id(parameter) not in outside,
            args,
            lr=args.learning_rate,
            muon_lr=args.muon_lr,
        )

    return trainable(policy, args, world, optimizer)


def sft_schedule(args: SFTArgs, world: World, trainer: SFTTrainer) -> Schedule:
    """As many steps as --max_steps says, else as --num_epochs makes."""
    a_pass = math.ceil(len(trainer.lengths) / args.batch_size)
    steps = args.max_steps or max(round(args.num_epochs * a_pass), 1)
    return Schedule(args, world, total_steps=steps, max_seconds=args.max_seconds)
