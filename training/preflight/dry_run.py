"""--dry_run: check everything that a run checks before loading weights, and log what it needs.

Models are built from their configs on the meta device. No process group is joined: each launched
rank computes on its own, rank 0 logs, and nothing is written.
"""

import logging
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
from training.data import stages
from training.data.batches import plan_epoch
from training.data.groups import split_groups
from training.data.packing import RowRules, Sample, count_padded_tokens, plan_packed_step
from training.estimates.shapes import REDUCE_BUCKET, LargestBatch, Setting, read_shape
from training.launching.launch import LAUNCH_ID
from training.models.cpu_blocks import can_skip_padding, use_cpu_blocks
from training.models.loading import Config, build_meta_lm, load_config, set_dropout
from training.models.lora import add_lora
from training.models.scalar import find_backbone
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
from training.trainers.speed import Speed

logger = logging.getLogger(__name__)

MOST_BATCHES = 100  # of an epoch that are planned, evenly spaced


def check_sft(args: SFTArgs) -> None:
    """Dry run of stage 1."""
    with _open_session(args) as world:
        alone = World(0, 1, world.device)
        tokenizer = sft_setup.load_or_train_tokenizer(args, alone)
        config = sft_setup.check_starting_model(args, tokenizer)
        data = stages.load_sft(replace(args, data_cache=False), tokenizer)
        lm = _build_lm(config, tokenizer, args, dropout=args.dropout)
        lengths = [len(text.input_ids) for text in data.train]
        targets = [sum(text.loss_mask) for text in data.train]
        batches = plan_epoch(lengths, args.batch_size, seed=args.seed, epoch=0)
        samples = [Sample(0, (length,)) for length in lengths]
        rules = row_rules(args, lm, longest_row=args.max_length)
        largest = _find_largest_batch(batches, samples, rules, world, targets)
        steps = sft_setup.count_steps(args, len(batches))
        shape, setting = read_shape(lm), make_setting(args, world, lm)

        report.log_lengths("sequences", lengths)
        report.log_batches(args, "rows", world, largest)
        report.log_steps(steps, steps / len(batches))
        report.log_model("model", shape)
        report.log_memory(estimate_sft(args, shape, setting, largest), setting)
        speed = Speed(lm, compute_dtype(args.dtype, world.device), world)
        epoch_s = speed.least_training(lengths, sum(targets), optimizer_steps=len(batches))
        report.log_time(steps / len(batches) * epoch_s, speed.machine, limit=args.max_seconds)


def check_reward(args: RewardArgs) -> None:
    """Dry run of stage 2."""
    with _open_session(args) as world:
        tokenizer = reward_setup.check_backbone(args)
        uncached = replace(args, data_cache=False)
        data = stages.load_comparisons(uncached, tokenizer)
        if args.normalization_samples:
            stages.load_normalization_prompts(uncached, tokenizer)
        flag, hint = "--model_name_or_path", reward_setup.RUN_STAGE_1
        config = load_config(args.model_name_or_path, flag=flag, hint=hint)
        lm = _build_lm(config, tokenizer, args)
        groups = split_groups(data.train, size=args.responses_per_group, seed=args.seed, epoch=0)
        batches = plan_epoch(groups.lengths, args.batch_size, seed=args.seed, epoch=0)
        samples = [Sample(len(g.prompt_ids), tuple(map(len, g.response_ids))) for g in groups]
        rules = row_rules(args, lm.base_model, longest_row=args.micro_batch_tokens)
        largest = _find_largest_batch(batches, samples, rules, world)
        lengths = [sample.prompt + n for sample in samples for n in sample.responses]
        steps = reward_setup.count_steps(args, len(batches))
        shape = read_shape(lm.base_model, extra=lm.config.hidden_size)
        setting = make_setting(args, world, lm)

        report.log_lengths("prompts with a response", lengths)
        report.log_batches(args, "prompts", world, largest)
        report.log_steps(steps, steps / len(batches))
        report.log_model("reward model", shape)
        report.log_memory(estimate_reward(shape, setting, largest), setting)
        speed = Speed(lm.base_model, compute_dtype(args.dtype, world.device), world)
        epoch_s = speed.least_training(lengths, 0, optimizer_steps=len(batches))
        report.log_time(steps / len(batches) * epoch_s, speed.machine)


def check_ppo(args: PPOArgs) -> None:
    """Dry run of stage 3. Response lengths are unknown, so all are assumed to be the longest."""
    with _open_session(args) as world:
        tokenizer, settings = ppo_setup.check_stages(args, world)
        data = stages.load_prompts(replace(args, data_cache=False), tokenizer)
        flag, hint = "--actor_model_name_or_path", ppo_setup.RUN_STAGE_1
        config = load_config(args.actor_model_name_or_path, flag=flag, hint=hint)
        actor = _build_lm(config, tokenizer, args)
        flag, hint = "--reward_model_name_or_path", ppo_setup.RUN_STAGE_2
        folder = find_backbone(args.reward_model_name_or_path, settings)
        critic = _build_lm(load_config(folder, flag=flag, hint=hint), tokenizer, args)
        is_shared = args.critic == "shared"
        actor_shape = read_shape(actor, extra=actor.config.hidden_size if is_shared else 0)
        critic_shape = read_shape(critic.base_model, extra=critic.config.hidden_size)
        setting = make_setting(args, world, actor)
        prompts = [len(prompt.input_ids) for prompt in data.train]

        report.log_lengths("prompts", prompts)
        report.log_rollouts(args, world, len(prompts))
        report.log_model("actor", actor_shape)
        report.log_model("reward model" if is_shared else "critic", critic_shape)
        estimate = estimate_ppo(args, actor_shape, critic_shape, setting, max(prompts))
        report.log_memory(estimate, setting)
        speed = Speed(actor, compute_dtype(args.dtype, world.device), world)
        median = sorted(prompts)[len(prompts) // 2]
        count = args.sequences_per_step
        step_s = speed.least_ppo([median] * count, [args.max_new_tokens] * count, args)
        report.log_time(args.max_steps * sum(step_s.values()), speed.machine)


@contextmanager
def _open_session(args: CommonArgs) -> Iterator[World]:
    """Yield this rank's world, from flags and environment, without waiting for other ranks."""
    with exit_on_user_error():
        rank, local = _read_number("RANK") or 0, _read_number("LOCAL_RANK") or 0
        launched = _read_number("WORLD_SIZE", least=1) or _read_number("NUM_GPUS", least=1)
        if not launched and LAUNCH_ID in os.environ:  # run.sh then starts one rank per GPU
            launched = torch.cuda.device_count()
        size = args.dry_run_ranks or launched or 1
        device = pick_device(local)
        set_logging(logging.INFO if rank == 0 else logging.WARNING, sys.stdout)
        logger.info("dry run: weights are not read, nothing is written")
        compute_dtype(args.dtype, device)
        ds_config.build_config(args, size)
        yield World(rank, size, device)
        logger.info("dry run: flags and data are good")


def _read_number(name: str, *, least: int = 0) -> int | None:
    """Read a number from the environment, None if it is not set."""
    text = os.environ.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or not least <= int(text) <= 10**6:
        raise UserError(
            f"{name} in the environment must be a number of at least {least}, got {text!r}"
        )
    return int(text)


def _build_lm(
    config: Config, tokenizer: Tokenizer, args: CommonArgs, *, dropout: float = 0.0
) -> Any:
    """Build a model as its engine would get it; a negative dropout keeps the config's."""
    if dropout >= 0:
        set_dropout(config, dropout)
    lm = build_meta_lm(config, len(tokenizer))
    add_lora(lm, args)
    if args.cpu_blocks:
        use_cpu_blocks(lm)
    return lm


def make_setting(args: CommonArgs, world: World, lm: nn.Module) -> Setting:
    """Collect everything besides the model's shape that memory depends on."""
    zero = ds_config.build_config(args, world.size).get("zero_optimization", {})
    is_cpu = world.device.type == "cpu"
    return Setting(
        zero_stage=args.zero_stage,
        ranks=world.size,
        itemsize=compute_dtype(args.dtype, world.device).itemsize,
        whole_blocks=is_cpu and args.zero_stage < 3 and can_skip_padding(lm),
        device=world.device.type,
        offload_optimizer="offload_optimizer" in zero,
        offload_param="offload_param" in zero,
        gradient_checkpointing=args.gradient_checkpointing,
        dropout=any(isinstance(m, nn.Dropout) and m.p > 0 for m in lm.modules()),
        bucket=int(zero.get("reduce_bucket_size", REDUCE_BUCKET)),
    )


def _find_largest_batch(
    batches: Sequence[Sequence[int]],
    samples: Sequence[Sample],
    rules: RowRules,
    world: World,
    targets: Sequence[int] = (),
) -> LargestBatch:
    """Find the largest micro-batch in every respect; `targets` counts those of each sample.

    Plans some of the batches for rank 0; those of the other ranks are as large.
    """
    stride = -(-len(batches) // MOST_BATCHES)
    plans = [
        plan_packed_step(batch, samples, rules, rank=0, size=world.size)
        for batch in batches[::stride]
    ]
    micro_batches = [micro for plan in plans for micro in plan if micro.rows]
    return LargestBatch(
        tokens=max(count_padded_tokens(micro.rows) for micro in micro_batches),
        row=max(sum(doc.tokens for doc in row) for micro in micro_batches for row in micro.rows),
        targets=max(sum(targets[i] for i in m.samples) for m in micro_batches) if targets else 0,
        micro_batches=max(map(len, plans)),
    )
