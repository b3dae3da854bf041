"""Flags of the collection of annotation tasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.annotation import PushTargetArgs
from training.arguments.common import check_can_write
from training.arguments.parsing import arg, require
from training.arguments.sampling import PromptArgs


@dataclass(frozen=True, kw_only=True)
class CollectArgs(PromptArgs, PushTargetArgs):
    """Sample responses of the SFT model and write tasks for people to compare them."""

    model: str = arg("output/step1_sft", "SFT model: folder or Hub name.", group="model and tasks")
    prompts: list[str] = arg(["examples/questions/prompts.txt"], "Prompts: one per line, or rows.")
    output: str = arg("tasks.json", "Tasks; the labelling config is written beside them.")
    tasks: Literal["pairwise", "ranker", "both"] = arg("pairwise", "Comparisons, or rankings.")
    pairs_per_prompt: int = arg(0, "Comparisons per prompt; 0: each response once.")
    reward_model: str = arg("", "Adds its choices as predictions, least certain tasks first.")
    samples_per_prompt: int = arg(4, "Distinct responses per prompt.", group="sampling")
    temperatures: list[float] = arg([0.7, 1.0, 1.3], "Temperatures of sampling, for variety.")
    most_alike: float = arg(0.8, "Skip responses that share more of their words than this.")
    micro_batch_tokens: int = arg(4096, "Padded tokens per forward pass.", group="memory and speed")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_prompts()
        self.check_templates()
        self.check_positive("micro_batch_tokens")
        self.check_not_negative("pairs_per_prompt")
        self.check_at_least(2, "samples_per_prompt")
        require(
            bool(self.temperatures) and all(0 < t < 100 for t in self.temperatures),
            f"--temperatures must be positive, got {self.temperatures}",
        )
        require(
            self.temperature == 1.0,
            f"--temperature does nothing here: give --temperatures {self.temperature:g}",
        )
        require(
            len(set(self.temperatures)) == len(self.temperatures),
            f"--temperatures names one twice: {self.temperatures}",
        )
        require(
            0 < self.most_alike < 1, f"--most_alike must be between 0 and 1, got {self.most_alike}"
        )
        require(
            not self.reward_model or self.tasks == "pairwise",
            "--reward_model predicts comparisons; it needs --tasks pairwise, "
            f"got --tasks {self.tasks}",
        )
        require(
            self.output.endswith(".json"), f"--output must name a .json file, got {self.output}"
        )
        check_can_write(self, "output", is_file=True)
        self._check_upload()

    def _check_upload(self) -> None:
        if self.label_studio_url:
            self.check_target(self.output)
            if self.tasks == "both":  # the second project's title is the longer one
                self.check_target(str(Path(self.output).with_suffix(".ranker.json")))
        require(
            bool(self.label_studio_url) or not self.project,
            f"--project {self.project}: says where to put the tasks; give --label_studio_url",
        )
        require(
            self.tasks != "both" or not self.project,
            f"--project {self.project}: --tasks both makes two projects, named after --output",
        )
