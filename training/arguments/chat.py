"""Flags of the tool that talks to a model."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.common import TemplateArgs
from training.arguments.parsing import arg, require
from training.arguments.sampling import SamplingArgs


@dataclass(frozen=True, kw_only=True)
class ChatArgs(SamplingArgs, TemplateArgs):
    """Type a line and read the model's response as it is generated; Ctrl-D ends."""

    model: str = arg("output/step3_ppo", "Folder of stage 1 or 3, or a Hub name.", group="model")
    mode: Literal["auto", "prompt", "chat"] = arg(
        "auto", "prompt: separate lines; chat: turns; auto: chat if there is a chat template."
    )
    max_new_tokens: int = arg(128, "Longest response in tokens, EOS included.", group="sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_sampling()
        self.check_templates()
        require(
            self.mode != "chat" or self.prompt_template == "{prompt}",
            "--prompt_template is for separate prompts; --mode chat takes --chat_template",
        )
        require(
            self.mode != "prompt" or not self.chat_template,
            "--chat_template is for turns; --mode prompt takes --prompt_template",
        )
