"""Flags of the programs that draw responses: PPO, and the tools that look at a model."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.common import ModelArgs, TemplateArgs
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class SamplingArgs(ModelArgs):
    """Flags for drawing a response."""

    max_new_tokens: int = arg(40, "Longest response in tokens, EOS included.", group="sampling")
    temperature: float = arg(1.0, "Divides the logits wherever log-probs are taken.")
    top_k: int = arg(0, "Sample among the k likeliest tokens; 0: all.")
    top_p: float = arg(1.0, "Sample among the likeliest tokens that hold this much probability.")

    def check_sampling(self) -> None:
        self.check_positive("max_new_tokens temperature")
        self.check_not_negative("top_k")
        require(0 < self.top_p <= 1, f"--top_p must be in (0, 1], got {self.top_p}")


@dataclass(frozen=True, kw_only=True)
class PromptArgs(SamplingArgs, TemplateArgs):
    """Flags for responses to many prompts at a time."""

    max_prompt_length: int = arg(128, "Longest prompt in tokens.", group="sampling")
    overlong_prompts: Literal["error", "drop", "truncate_left"] = arg(
        "error", "Treatment of prompts over --max_prompt_length."
    )
    generation_batch_size: int = arg(256, "Sequences decoded together, per rank.")

    def check_prompts(self) -> None:
        self.check_sampling()
        self.check_positive("max_prompt_length generation_batch_size")
