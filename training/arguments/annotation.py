"""Flags that say how annotations become comparisons."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.common import check_file
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class VoteArgs:
    """Of a Label Studio export, wherever one is read."""

    votes: Literal["soft", "majority", "all"] = arg(
        "soft", "Several annotators: share of votes as label, majority's label, or a pair a vote."
    )
    ties: Literal["drop", "half"] = arg("drop", "A tie or empty choice: left out, or label 0.5.")
    annotator_error: str = arg(
        "0", "Chance that a vote is wrong, for softer labels; auto: estimated; 0: trust votes."
    )
    label_config: str = arg("", "The project's labelling config (XML), for names of its own.")
    label_control: str = arg("", "Which control's choice counts, where there are several.")

    def check_votes(self) -> None:
        check_file(self, "label_config")
        if self.annotator_error == "auto":
            return
        try:
            error = float(self.annotator_error)
        except ValueError:
            error = -1.0
        require(
            0.0 <= error < 0.5,
            f"--annotator_error takes auto or a number in [0, 0.5), got {self.annotator_error!r}",
        )


@dataclass(frozen=True, kw_only=True)
class AnnotationArgs(VoteArgs):
    """A Label Studio export as comparisons for stage 2, with an account of every annotation."""

    export: str = arg("", "The exported file: JSON, JSON_MIN or CSV.")
    output: str = arg("", "Comparisons as JSON Lines; nothing is written without.")
    report: str = arg("", "The account as JSON; it is printed in words in any case.")

    def __post_init__(self) -> None:
        require(bool(self.export), "name the exported file")
        check_file(self, "export")
        files = [Path(path).expanduser().resolve() for path in self._files if path]
        require(
            len(set(files)) == len(files),
            "--export, --output and --report must be different files, got "
            f"{', '.join(path for path in self._files if path)}",
        )
        self.check_votes()

    @property
    def _files(self) -> tuple[str, str, str]:
        return self.export, self.output, self.report
