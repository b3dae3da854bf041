"""The memory of a rank of each stage: its models, and the phases of a step."""

from dataclasses import replace

from training.arguments.ppo import PPOArgs
from training.arguments.sft import SFTArgs
from training.estimates import memory as memory
from training.estimates.memory import Estimate
from training.estimates.shapes import ModelSize, Setting, Work

SAMPLES, SAMPLE_TOKENS = 4, 40  # of trainers/sample.py


def sft_estimate(args: SFTArgs, size: ModelSize, setting: Setting, work: Work) -> Estimate:
    """One model; `work` is its largest micro-batch."""
    estimate = Estimate()
    muon = size.matrices if args.optimizer == "muon" else 0
    memory.add_trained(estimate, size, setting, muon=muon)
    memory.add_view(estimate, size, setting, has_lora=bool(args.lora_rank))
    estimate.phase("training", memory.training_pass(size, work, setting))
    estimate.phase("optimizer step", memory.step_pass(size, setting))
    room = args.max_length + SAMPLE_TOKENS
    samples = memory.generation_pass(
        size, setting, slots=SAMPLES, length=room, prompt=args.max_length
    )
    estimate.phase("samples", samples)
    return estimate


def reward_estimate(size: ModelSize, setting: Setting, work: Work) -> Estimate:
    """One model without an LM head."""
    estimate = Estimate()
    memory.add_trained(estimate, size, setting)
    training = memory.training_pass(size, work, setting, with_head=False)
    estimate.phase("training", training)
    estimate.phase("optimizer step", memory.step_pass(size, setting))
    return estimate


def ppo_estimate(
    args: PPOArgs, actor: ModelSize, critic: ModelSize, setting: Setting, longest_prompt: int
) -> Estimate:
    """All models under their engines, and the phase that takes most.

    `critic` is the reward model's shape; responses are taken at their longest.
    """
    is_shared = args.critic == "shared"
    # Stage 3's gathered weights lie in the hole that the measurement has left.
    estimate = Estimate(is_measured_late=setting.shards_weights)
    memory.add_trained(estimate, actor, setting)
    if not is_shared:
        memory.add_trained(estimate, critic, setting)
    memory.add_frozen(estimate, "ref", actor, setting)
    memory.add_frozen(estimate, "reward model", critic, setting)
    memory.add_view(estimate, actor, setting, has_lora=bool(args.lora_rank))

    work = largest(args, setting, longest_prompt)
    estimate.phase("update", memory.training_pass(actor, work, setting))
    if not is_shared:
        critic_pass = memory.training_pass(critic, work, setting, with_head=False)
        estimate.phase("update of the critic", critic_pass)
    estimate.phase("optimizer step", memory.step_pass(actor, setting))
    reads = replace(work, micro_batches=1)
    estimate.phase("scoring", memory.reading_pass(actor, reads, setting, with_head=True))
    slots = min(args.generation_batch_size, -(-args.sequences_per_step // setting.ranks))
    length = longest_prompt + args.max_new_tokens
    generation = memory.generation_pass(
        actor, setting, slots=slots, length=length, prompt=longest_prompt
    )
    estimate.phase("generation", generation)
    return estimate


def largest(args: PPOArgs, setting: Setting, longest_prompt: int) -> Work:
    """A rank's largest micro-batch of a minibatch of responses of full length."""
    row = longest_prompt + args.max_new_tokens
    share = -(-args.minibatch_size // setting.ranks)
    rows = min(share, max(args.micro_batch_tokens // row, 1))
    return Work(
        tokens=rows * row,
        row=row,
        targets=rows * args.max_new_tokens,
        micro_batches=-(-share // rows),
    )
