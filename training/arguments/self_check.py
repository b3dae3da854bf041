"""Flags of `python -m training.self_check`."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.common import EngineArgs
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class SelfCheckArgs(EngineArgs):
    """Check what PPO relies on, with your models or with tiny random ones."""

    model: str = arg("", "Causal LM to check; default: a tiny random GPT-2.", group="check")
    reward_model: str = arg("", "Stage 2's output; default: a random head on --model.")
    prompts: int = arg(8, "Number of prompts, each answered twice.")
    max_new_tokens: int = arg(16, "Longest response in tokens, EOS included.")
    zero_stage: Literal[0, 1, 2, 3] = arg(0, "ZeRO stage to check under.", group="memory and speed")
    micro_batch_tokens: int = arg(4096, "Padded tokens per forward and rank; bounds memory.")
    cpu_blocks: bool = arg(
        True,
        "On a CPU, compute each GPT-2 block as one function.",
        negative="On a CPU, compute GPT-2 blocks as `transformers` does.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("prompts max_new_tokens micro_batch_tokens")
        require(
            not self.reward_model or bool(self.model),
            "--reward_model needs --model: the stage-1 model that it was trained from",
        )
