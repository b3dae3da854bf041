"""Flags of the tool that compares two models."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.annotation import VoteArgs
from training.arguments.common import EXAMPLE, check_can_write
from training.arguments.parsing import arg, require
from training.arguments.sampling import PromptArgs


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs(PromptArgs, VoteArgs):
    """Answer the same prompts with two models; judges compare the responses pair by pair."""

    before: str = arg("output/step1_sft", "Baseline folder or Hub name.", group="models and output")
    after: str = arg("output/step3_ppo", "Model to evaluate: folder or Hub name.")
    output_dir: str = arg("output/evaluation", "Folder for summary.json, samples and report.html.")
    data_path: list[str] = arg([EXAMPLE], "Files, folders, Hub data or example:NAME.", group="data")
    split: Literal["train", "dev", "test"] = arg("test", "Split to read, if the data has splits.")
    max_prompts: int = arg(0, "Use this many prompts, evenly spaced; 0: all.")
    group_by: str = arg("", "Field of the prompt rows: intervals resample its values, not prompts.")
    judge: list[str] = arg(
        [], "Python file with score(texts), or judges() and arguments; executed.", group="judges"
    )
    judge_text: Literal["response", "prompt_and_response"] = arg("response", "Text to be judged.")
    judge_text_after: str = arg("", "Cut the prompt up to and including this text.")
    reward_model_name_or_path: str = arg("", "Reward model of stage 2 that scores both sides.")
    best_of: list[int] = arg([], "Also judge the best of n `before` samples by the reward model.")
    comparisons_path: list[str] = arg([], "Held-out comparisons, as for stage 2's --data_path.")
    reader_model_name_or_path: str = arg("", "Independent LM: measures perplexity of both sides.")
    human_path: list[str] = arg([], "People's answers to the prompts, for the same measure.")
    kl_target: float = arg(6.0, "Warn of a KL above three times this; 0: never.", group="report")
    labels: list[str] = arg([], "Two names for the columns; default: the models' folder names.")
    title: str = arg("Before and after", "Heading of the report.")
    notes: str = arg("", "JSON with lists `shows` and `does_not_show`, for the report.")
    micro_batch_tokens: int = arg(4096, "Padded tokens per forward pass.", group="memory and speed")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_prompts()
        self.check_templates()
        self.check_votes()
        self.check_positive("micro_batch_tokens")
        self.check_not_negative("max_prompts kl_target")
        self.check_file("notes")
        check_can_write(self, "output_dir")
        require(
            bool(self.judge or self.reward_model_name_or_path),
            "nothing to compare with: give --judge, --reward_model_name_or_path, or both",
        )
        require(
            self.judge_text == "prompt_and_response" or not self.judge_text_after,
            "--judge_text_after cuts prompts, which judges read only with "
            "--judge_text prompt_and_response",
        )
        require(
            all(n >= 2 for n in self.best_of) and len(set(self.best_of)) == len(self.best_of),
            f"--best_of takes different numbers of at least 2, got {self.best_of}",
        )
        require(
            not self.best_of or bool(self.judge and self.reward_model_name_or_path),
            "--best_of needs --reward_model_name_or_path to choose and --judge to judge",
        )
        require(
            not self.comparisons_path or bool(self.reward_model_name_or_path),
            "--comparisons_path measures a reward model: give --reward_model_name_or_path",
        )
        require(
            not self.human_path or bool(self.reader_model_name_or_path),
            "--human_path is for a reader: give --reader_model_name_or_path",
        )
        require(len(self.labels) in (0, 2), f"--labels takes two names, got {len(self.labels)}")
