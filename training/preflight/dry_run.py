"""--dry_run: all that a run checks before its first weight, and what it would need.

Models are made of their configs alone, on the meta device. No group of ranks is joined: each rank
that a launcher has started reckons for itself, rank 0 speaks, and nothing is written.
"""

import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.batches import plan_epoch
from training.data.groups import split_groups
from training.data.packing import MicroBatch, Sample, count_padded_tokens, plan_packed_step
from training.data.stages import (
    load_comparisons,
    load_normalization_prompts,
    load_prompts,
    load_sft,
)
from training.estimates.shapes import REDUCE_BUCKET, LargestBatch, Setting, read_shape
from training.launching.launch import LAUNCH_ID
from training.models import scalar
from training.models.cpu_blocks import can_skip_padding, use_cpu_blocks
from training.models.loading import build_meta_lm, load_config, set_dropout
from training.models.lora import add_lora
from training.models.tokenizers import Tokenizer
from training.preflight import report
from training.preflight.stage_memory import estimate_ppo, estimate_reward, estimate_sft
from training.runtime import ds_config
from training.runtime.distributed import World
from training.runtime.engine import compute_dtype
from training.runtime.process import exit_on_user_error, pick_device, set_logging
from training.trainers.ppo import setup as ppo_setup
from training.trainers.reward import setup as reward_setup
from training.trainers.row_rules import row_rules
from training.trainers.sft import setup as sft_setup
from training.trainers.sft.setup import stage1_tokenizer
from training.trainers.speed import Speed

logger = logging.getLogger(__name__)

BATCHES = 100  # of an epoch that are planned, evenly spaced


@contextmanager
def session(args: CommonArgs) -> Iterator[World]:
    """This rank's place, from the flags or the environment; nobody is waited for."""
    with exit_on_user_error():
        rank, local = _number("RANK") or 0, _number("LOCAL_RANK") or 0
        size = args.dry_run_ranks or _launched_ranks()
        device = pick_device(local)
        set_logging(logging.INFO if rank == 0 else logging.WARNING, sys.stdout)
        logger.info("dry run: weights are not read, nothing is written")
        compute_dtype(args.dtype, device)
        ds_config.build_config(args, size)
        yield World(rank, size, device)
        logger.info("dry run: flags and data are good")


def _launched_ranks() -> int:
    """Ranks that the environment tells of; run.sh starts one a GPU where it is told no number."""
    known = _number("WORLD_SIZE", least=1) or _number("NUM_GPUS", least=1)
    return known or (torch.cuda.device_count() if LAUNCH_ID in os.environ else 0) or 1


def _number(name: str, *, least: int = 0) -> int | None:
    """A number from the environment, None where it has none."""
    text = os.environ.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or not least <= int(text) <= 10**6:
        raise UserError(
            f"{name} in the environment must be a number of at least {least}, got {text!r}"
        )
    return int(text)


def sft(args: SFTArgs) -> None:
    """Stage 1."""
    with session(args) as world:
        tokenizer = stage1_tokenizer(args, _alone(world))
        config = sft_setup.check_starting_model(args, tokenizer)
        if args.dropout >= 0:
            set_dropout(config, args.dropout)
        data = load_sft(replace(args, data_cache=False), tokenizer)
        lm = _prepared(build_meta_lm(config, len(tokenizer)), args)
        lengths = [len(text.input_ids) for text in data.train]
        targets = [sum(text.loss_mask) for text in data.train]
        samples = [Sample(0, (length,)) for length in lengths]
        rules = row_rules(args, lm, longest_row=args.max_length)
        batches = plan_epoch(lengths, args.batch_size, seed=args.seed, epoch=0)
        plans = _plans(batches, samples, rules, world)
        work = _work(plans, targets)
        setting = setting_of(args, world, lm)
        size = read_shape(lm)

        report.lengths("sequences", lengths)
        steps = args.max_steps or max(round(args.num_epochs * len(batches)), 1)
        report.batches(args.batch_size, "rows", world, work, args.micro_batch_tokens)
        report.steps(steps, steps / len(batches))
        report.model("model", size)
        report.memory(estimate_sft(args, size, setting, work), setting)
        speed = Speed(lm, compute_dtype(args.dtype, world.device), world)
        passes = steps / len(batches)
        least = passes * speed.least_training(lengths, sum(targets), optimizer_steps=len(batches))
        report.seconds(least, speed.machine, limit=args.max_seconds)


def reward(args: RewardArgs) -> None:
    """Stage 2."""
    with session(args) as world:
        tokenizer = reward_setup.check_backbone(args)
        uncached = replace(args, data_cache=False)
        data = load_comparisons(uncached, tokenizer)
        if args.normalization_samples:
            load_normalization_prompts(uncached, tokenizer)
        flag, hint = "--model_name_or_path", reward_setup.RUN_STAGE_1
        config = load_config(args.model_name_or_path, flag=flag, hint=hint)
        lm = _prepared(_without_dropout(config, tokenizer), args)
        parts = split_groups(data.train, size=args.responses_per_group, seed=args.seed, epoch=0)
        samples = [
            Sample(len(part.prompt_ids), tuple(map(len, part.response_ids))) for part in parts
        ]
        rules = row_rules(args, lm.base_model, longest_row=args.micro_batch_tokens)
        batches = plan_epoch(parts.lengths, args.batch_size, seed=args.seed, epoch=0)
        plans = _plans(batches, samples, rules, world)
        work = _work(plans)
        setting = setting_of(args, world, lm)
        head = lm.config.hidden_size
        size = read_shape(lm.base_model, extra=head)

        lengths = [sample.prompt + n for sample in samples for n in sample.responses]
        report.lengths("prompts with a response", lengths)
        steps = args.max_steps or max(math.ceil(args.num_epochs * len(batches)), 1)
        report.batches(args.batch_size, "prompts", world, work, args.micro_batch_tokens)
        report.steps(steps, steps / len(batches))
        report.model("reward model", size)
        report.memory(estimate_reward(size, setting, work), setting)
        speed = Speed(lm.base_model, compute_dtype(args.dtype, world.device), world)
        passes = steps / len(batches)
        passes *= 1 + sum(share for share in args.data_size_curve if share < 1)
        least = passes * speed.least_training(lengths, 0, optimizer_steps=len(batches))
        report.seconds(least, speed.machine)


def ppo(args: PPOArgs) -> None:
    """Stage 3. Nobody knows how long responses will be: they are taken at their longest."""
    with session(args) as world:
        tokenizer, _ = ppo_setup.check_stages(args, world)
        data = load_prompts(replace(args, data_cache=False), tokenizer)
        flag, hint = "--actor_model_name_or_path", ppo_setup.RUN_STAGE_1
        config = load_config(args.actor_model_name_or_path, flag=flag, hint=hint)
        actor = _prepared(_without_dropout(config, tokenizer), args)
        critic = _prepared(_scorer(args, tokenizer), args)
        beside = actor.config.hidden_size if args.critic == "shared" else 0
        setting = setting_of(args, world, actor)
        actor_size = read_shape(actor, extra=beside)
        critic_size = read_shape(critic.base_model, extra=critic.config.hidden_size)
        prompts = [len(prompt.input_ids) for prompt in data.train]

        report.lengths("prompts", prompts)
        report.rollouts(args, world, len(prompts))
        report.model("actor", actor_size)
        report.model("critic" if not beside else "reward model", critic_size)
        report.memory(estimate_ppo(args, actor_size, critic_size, setting, max(prompts)), setting)
        speed = Speed(actor, compute_dtype(args.dtype, world.device), world)
        typical = sorted(prompts)[len(prompts) // 2]
        count = args.sequences_per_step
        least = speed.least_ppo([typical] * count, [args.max_new_tokens] * count, args)
        report.seconds(args.max_steps * sum(least.values()), speed.machine)


def _alone(world: World) -> World:
    return World(0, 1, world.device)


def _without_dropout(config: Any, tokenizer: Tokenizer) -> nn.Module:
    set_dropout(config, 0.0)
    return build_meta_lm(config, len(tokenizer))


def _scorer(args: PPOArgs, tokenizer: Tokenizer) -> nn.Module:
    """A causal LM on the reward model's backbone."""
    flag, hint = "--reward_model_name_or_path", ppo_setup.RUN_STAGE_2
    path = args.reward_model_name_or_path
    settings = scalar.read_settings(path, flag=flag, hint=hint)
    folder = scalar.find_backbone(path, settings)
    return _without_dropout(load_config(folder, flag=flag, hint=hint), tokenizer)


def _prepared(lm: nn.Module, args: CommonArgs) -> Any:
    """The model as its engine would have it."""
    add_lora(lm, args)
    if args.cpu_blocks:
        use_cpu_blocks(lm)
    return lm


def setting_of(args: CommonArgs, world: World, lm: nn.Module) -> Setting:
    """What memory depends on beside the model's shape."""
    zero = ds_config.build_config(args, world.size).get("zero_optimization", {})
    is_cpu = world.device.type == "cpu"
    whole = is_cpu and args.zero_stage < 3 and can_skip_padding(lm)
    return Setting(
        zero_stage=args.zero_stage,
        ranks=world.size,
        itemsize=compute_dtype(args.dtype, world.device).itemsize,
        whole_blocks=whole,
        device=world.device.type,
        offload_optimizer="offload_optimizer" in zero,
        offload_param="offload_param" in zero,
        gradient_checkpointing=args.gradient_checkpointing,
        dropout=any(isinstance(m, nn.Dropout) and m.p > 0 for m in lm.modules()),
        bucket=int(zero.get("reduce_bucket_size", REDUCE_BUCKET)),
    )


def _plans(
    batches: Sequence[Sequence[int]], samples: Sequence[Sample], rules: Any, world: World
) -> list[list[MicroBatch]]:
    """Rank 0's micro-batches of some of the batches; the other ranks' are as large."""
    stride = -(-len(batches) // BATCHES)
    return [
        plan_packed_step(batch, samples, rules, rank=0, size=world.size)
        for batch in batches[::stride]
    ]


def _work(plans: Sequence[Sequence[MicroBatch]], targets: Sequence[int] = ()) -> LargestBatch:
    """The largest of the micro-batches in every respect; `targets` are each sample's."""
    every = [micro for plan in plans for micro in plan if micro.rows]
    return LargestBatch(
        tokens=max(count_padded_tokens(micro.rows) for micro in every),
        row=max(sum(doc.tokens for doc in row) for micro in every for row in micro.rows),
        targets=max(sum(targets[i] for i in micro.samples) for micro in every) if targets else 0,
        micro_batches=max(map(len, plans)),
    )
