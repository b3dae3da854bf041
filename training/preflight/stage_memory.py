"""Estimate the memory per rank of each stage: its models, and the phases of a step."""

from dataclasses import replace

from training.arguments.ppo import PPOArgs
from training.arguments.sft import SFTArgs
from training.estimates import memory
from training.estimates.memory import Estimate
from training.estimates.shapes import LargestBatch, ModelShape, Setting
from training.trainers import log_samples


def estimate_sft(
    args: SFTArgs, model: ModelShape, setting: Setting, batch: LargestBatch
) -> Estimate:
    """Estimate stage 1: one model, which also samples responses."""
    estimate = Estimate()
    muon = model.matrices if args.optimizer == "muon" else 0
    memory.add_trained(estimate, model, setting, muon=muon)
    memory.add_view(estimate, model, setting, has_lora=bool(args.lora_rank))
    estimate.phases = {
        "training": memory.count_training_pass(model, batch, setting),
        "optimizer step": memory.count_step(model, setting),
        "samples": memory.count_generation(
            model,
            setting,
            slots=log_samples.COUNT,
            length=args.max_length + log_samples.NEW_TOKENS,
            prompt=args.max_length,
        ),
    }
    return estimate


def estimate_reward(model: ModelShape, setting: Setting, batch: LargestBatch) -> Estimate:
    """Estimate stage 2: one model without an LM head."""
    estimate = Estimate()
    memory.add_trained(estimate, model, setting)
    estimate.phases = {
        "training": memory.count_training_pass(model, batch, setting, with_head=False),
        "optimizer step": memory.count_step(model, setting),
    }
    return estimate


def estimate_ppo(
    args: PPOArgs, actor: ModelShape, critic: ModelShape, setting: Setting, longest_prompt: int
) -> Estimate:
    """Estimate stage 3: all models, and the phases of a step with responses of full length.

    `critic` is the shape of the reward model too.
    """
    is_shared = args.critic == "shared"
    # Under ZeRO-3 gathered weights reuse the hole that the speed measurement leaves.
    estimate = Estimate(is_measured_late=setting.shards_weights)
    memory.add_trained(estimate, actor, setting)
    if not is_shared:
        memory.add_trained(estimate, critic, setting)
    memory.add_frozen(estimate, "ref", actor, setting)
    memory.add_frozen(estimate, "reward model", critic, setting)
    memory.add_view(estimate, actor, setting, has_lora=bool(args.lora_rank))

    row = longest_prompt + args.max_new_tokens
    per_rank = -(-args.minibatch_size // setting.ranks)
    rows = min(per_rank, max(args.micro_batch_tokens // row, 1))
    batch = LargestBatch(
        tokens=rows * row,
        row=row,
        targets=rows * args.max_new_tokens,
        micro_batches=-(-per_rank // rows),
    )
    phases = {"update": memory.count_training_pass(actor, batch, setting)}
    if not is_shared:
        phases["update of the critic"] = memory.count_training_pass(
            critic, batch, setting, with_head=False
        )
    phases["optimizer step"] = memory.count_step(actor, setting)
    scored = replace(batch, micro_batches=1)
    phases["scoring"] = memory.count_inference_pass(actor, scored, setting, with_head=True)
    phases["generation"] = memory.count_generation(
        actor,
        setting,
        slots=min(args.generation_batch_size, -(-args.sequences_per_step // setting.ranks)),
        length=row,
        prompt=longest_prompt,
    )
    estimate.phases = phases
    return estimate
