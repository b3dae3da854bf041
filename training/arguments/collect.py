"""Flags of the collection of annotation tasks."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.annotation import PushTargetArgs
from training.arguments.common import check_can_write, check_not_negative, check_positive
from training.arguments.parsing import arg, require
from training.arguments.sampling import PromptArgs


@dataclass(frozen=True, kw_only=True)
class CollectArgs(PromptArgs, PushTargetArgs):
    """Sample responses of the SFT model and write tasks for people to compare them."""

    model: str = arg("output/step1_sft", "The model that responds: folder or Hub name.")
    prompts: list[str] = arg(["examples/questions/prompts.txt"], "Prompts: a line, or rows, each.")
    samples_per_prompt: int = arg(4, "Distinct responses of each prompt.")
    temperatures: list[float] = arg([0.7, 1.0, 1.3], "Sampled at each of these, for variety.")
    most_alike: float = arg(0.8, "Responses that share more of their words are left out.")
    tasks: Literal["pairwise", "ranker", "both"] = arg("pairwise", "Comparisons, or rankings.")
    pairs_per_prompt: int = arg(0, "Comparisons of each prompt; 0: each response once.")
    reward_model: str = arg("", "Adds its choices as predictions, least certain tasks first.")
    output: str = arg("tasks.json", "The tasks; the labelling config is written beside them.")
    micro_batch_tokens: int = arg(4096, "Padded tokens per forward; bounds memory.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_prompts()
        self.check_templates()
        check_positive(self, "micro_batch_tokens")
        check_not_negative(self, "pairs_per_prompt")
        require(
            self.samples_per_prompt >= 2,
            f"--samples_per_prompt must be at least 2, got {self.samples_per_prompt}",
        )
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
            0 < self.most_alike < 1, f"--most_alike must lie between 0 and 1, got {self.most_alike}"
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
        require(
            bool(self.label_studio_url) or not self.project,
            f"--project {self.project}: says where to put the tasks; give --label_studio_url",
        )
        require(
            self.tasks != "both" or not self.project,
            f"--project {self.project}: --tasks both makes two projects, named after --output",
        )
