"""Speed metrics: tokens/s of each phase, and its share of what the machine allows at best."""

from collections.abc import Sequence
from typing import Any

import torch

from training.arguments.ppo import PPOArgs
from training.estimates.roofline import ADAM_BYTES, TRAINING, Machine, measure_machine
from training.estimates.shapes import ModelShape, read_shape
from training.runtime.distributed import World
from training.trainers.ppo.experience import Rollout


class Speed:
    """Counts the work of a model of this shape on this rank's machine.

    Every rank measures at the same time, so that what they share is shared in the measurement.
    """

    def __init__(self, lm: Any, dtype: torch.dtype, world: World) -> None:
        self.shape: ModelShape = read_shape(lm)
        self.machine: Machine = measure_machine(world.device, dtype)
        self._itemsize = dtype.itemsize
        self._ranks = world.size

    def training(self, lengths: Sequence[int], targets: int, seconds: float) -> dict[str, float]:
        """One optimizer step on sequences of these lengths, dealt over all ranks."""
        return {
            "speed/tokens_per_s": sum(lengths) / seconds,
            "speed/roofline": self.least_training(lengths, targets) / seconds,
        }

    def least_training(
        self, lengths: Sequence[int], targets: int, *, optimizer_steps: int = 1
    ) -> float:
        """Seconds at best of optimizer steps on sequences of these lengths."""
        flops = TRAINING * self.shape.count_forward_flops(lengths, targets)
        return self._bound_seconds(flops, optimizer_passes=optimizer_steps)

    def ppo(self, rollout: Rollout, args: PPOArgs, seconds: dict[str, float]) -> dict[str, float]:
        """The phases of a PPO step, from their `time/..._s`."""
        responses = [len(response) for response in rollout.responses]
        least = self.least_ppo([len(prompt) for prompt in rollout.prompts], responses, args)
        targets, length = sum(responses), sum(rollout.lengths)
        tokens = {"generate": targets, "score": length, "update": length}
        total = sum(seconds[f"time/{phase}_s"] for phase in least)
        metrics = {
            "speed/tokens_per_s": targets / total,
            "speed/roofline": sum(least.values()) / total,
        }
        for phase, least_s in least.items():
            taken = seconds[f"time/{phase}_s"]
            metrics[f"speed/{phase}_tokens_per_s"] = tokens[phase] / taken
            metrics[f"speed/{phase}_roofline"] = least_s / taken
        return metrics

    def least_ppo(
        self, prompts: Sequence[int], responses: Sequence[int], args: PPOArgs
    ) -> dict[str, float]:
        """Seconds at best of the phases of a PPO step over responses of these lengths."""
        lengths, targets = (
            [sum(pair) for pair in zip(prompts, responses, strict=True)],
            sum(responses),
        )
        is_shared = args.critic == "shared"
        head = self.shape.count_forward_flops(lengths, targets)
        trunk = self.shape.count_forward_flops(lengths, 0)
        is_recomputed = args.old_logprobs == "recompute"
        scored = head + trunk + is_recomputed * head  # ref, reward model, perhaps the actor
        if not args.reads_values_in_update and not (is_shared and is_recomputed):
            scored += trunk
        updates = args.ppo_epochs * (args.sequences_per_step // args.minibatch_size)
        learnt = TRAINING * args.ppo_epochs * (head if is_shared else head + trunk)
        return {
            "generate": self._bound_generation(prompts, responses, args),
            "score": self._bound_seconds(scored),
            "update": self._bound_seconds(
                learnt, optimizer_passes=updates * (1 if is_shared else 2)
            ),
        }

    def _bound_seconds(self, flops: float, optimizer_passes: int = 0) -> float:
        """Seconds for a rank's share of the arithmetic, then for its optimizer."""
        adam = optimizer_passes * ADAM_BYTES * self.shape.active_parameters
        arithmetic = self.machine.seconds(flops=flops / self._ranks)
        return arithmetic + self.machine.seconds(bytes_read=adam)

    def _bound_generation(
        self, prompts: Sequence[int], responses: Sequence[int], args: PPOArgs
    ) -> float:
        """The prompts at once, then token by token."""
        share = slice(0, None, self._ranks)
        prompts, responses = prompts[share], responses[share]
        read, flops = self.shape.count_decoding(
            prompts, responses, slots=args.generation_batch_size, itemsize=self._itemsize
        )
        prefill = self.shape.count_forward_flops(prompts, len(prompts))
        weights = self.shape.active_parameters * self._itemsize
        return self.machine.seconds(flops=prefill, bytes_read=weights) + self.machine.seconds(
            bytes_read=read, flops=flops
        )
