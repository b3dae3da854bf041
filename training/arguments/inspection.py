"""Flags of `python -m training.data.inspect`."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.annotation import VoteArgs
from training.arguments.common import TemplateArgs
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class InspectArgs(TemplateArgs, VoteArgs):
    """Report what a data file contains, without loading a model."""

    data_path: list[str] = arg([], "Files, folders, Hub data sets or example:NAME.", group="data")
    eval_data_path: list[str] = arg([], "Held-out data, to be checked against the rest.")
    stage: Literal["auto", "sft", "reward", "ppo", "pretrain"] = arg(
        "auto", "Stage that the rows are for; auto: by the columns of the first row."
    )
    tokenizer_name_or_path: str = arg("", "Count its tokens, not characters.", group="report")
    max_length: int = arg(256, "Longest row in tokens, to count those that would be cut.")
    show: int = arg(20, "Print at most this many of each finding; the rest is counted.")
    report: str = arg("", "File for the findings as JSON; they are printed as well.")

    def __post_init__(self) -> None:
        require(bool(self.data_path), "name the data: python -m training.data.inspect PATH")
        self.check_positive("max_length show")
        self.check_templates()
        self.check_votes()
