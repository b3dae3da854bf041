"""What a rank of each stage sends in a step: its models together, by what is sent."""

from collections.abc import Sequence

from training.arguments.ppo import PPOArgs
from training.runtime import communication_estimate as communication
from training.runtime.communication_estimate import REUSE_DISTANCE
from training.runtime.memory_inputs import ModelSize, Setting, Work
from training.trainers.stage_memory import largest


def training_volume(
    size: ModelSize, setting: Setting, work: Work, *, reuse: int = REUSE_DISTANCE
) -> dict[str, float]:
    """Bytes of an optimizer step of stages 1 and 2."""
    return communication.optimizer_step(size, setting, work.micro_batches, reuse=reuse)


def ppo_volume(
    args: PPOArgs,
    actor: ModelSize,
    critic: ModelSize,
    setting: Setting,
    *,
    prompts: Sequence[int],
    reuse: int = REUSE_DISTANCE,
) -> dict[str, float]:
    """Bytes of a PPO step with all its updates; responses are taken at their longest.

    `critic` is the reward model's shape, `prompts` the lengths of all prompts.
    """
    work = largest(args, setting, max(prompts))
    share = -(-args.sequences_per_step // setting.ranks)
    rows = max(args.micro_batch_tokens // work.row, 1)
    return ppo_parts(
        args,
        actor,
        critic,
        setting,
        readings=-(-share // rows),
        micro_batches=work.micro_batches,
        prompt=sum(prompts) / len(prompts),
        response=args.max_new_tokens,
        reuse=reuse,
    )


def ppo_parts(
    args: PPOArgs,
    actor: ModelSize,
    critic: ModelSize,
    setting: Setting,
    *,
    readings: int,
    micro_batches: int,
    prompt: float,
    response: float,
    reuse: int = REUSE_DISTANCE,
) -> dict[str, float]:
    """The same from the micro-batches of each model's readings and of each update."""
    is_shared = args.critic == "shared"
    is_recomputed = args.old_logprobs == "recompute"
    # Of the actor, or with a shared trunk of both, one forward gives what is old.
    actor_is_read = is_recomputed or is_shared
    critic_is_read = not is_shared and not args.reads_values_in_update
    trained = [(actor, actor_is_read)] + [(critic, critic_is_read)] * (not is_shared)
    read = [actor, critic] + [model for model, is_read in trained if is_read]

    updates = args.ppo_epochs * (args.sequences_per_step // args.minibatch_size)
    parts = {
        "weights to generate": communication.view(actor, setting),
        "weights to score": sum(communication.reading(model, setting, readings) for model in read),
        "rollout": communication.rollout(args.sequences_per_step, prompt, response, setting.ranks),
    }
    for model, is_read in trained:
        step = communication.optimizer_step(
            model, setting, micro_batches, is_read=is_read, reuse=reuse
        )
        for name, size in step.items():
            parts[name] = parts.get(name, 0.0) + updates * size
    return {name: size for name, size in parts.items() if size}
