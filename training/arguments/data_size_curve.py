"""Flags of the data-size curve: training on shares of the prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.arguments.common import check_can_write
from training.arguments.parsing import arg, require
from training.arguments.reward import RewardArgs


@dataclass(frozen=True, kw_only=True)
class DataSizeCurveArgs:
    """Train a reward model on each share of the prompts; flags of stage 2 come after a --."""

    shares: list[float] = arg(
        [0.1, 0.3, 1.0], "Shares of the prompts; smaller ones within larger ones.", group="curve"
    )
    output_dir: str = arg("output/data_size_curve", "Folder for the curve and for each run.")

    def __post_init__(self) -> None:
        shares = self.shares
        require(
            bool(shares)
            and all(0 < share <= 1 for share in shares)
            and len(set(shares)) == len(shares),
            "--shares needs different shares of the training prompts, above 0 and at "
            f"most 1, got {' '.join(f'{share:g}' for share in shares)}",
        )
        check_can_write(self, "output_dir")

    def check_stage_flags(self, flags: Sequence[str]) -> None:
        """Refuse flags of stage 2 that would break the comparison of the shares."""
        for flag in ("--output_dir", "--dry_run"):
            require(
                not any(word.split("=")[0] == flag for word in flags),
                f"{flag} must not be among the flags of stage 2, after the --",
            )

    def run_folder(self, share: float) -> Path:
        """Return the output folder of the run on this share."""
        return Path(self.output_dir) / f"{share:g}"

    def run_flags(
        self, stage: RewardArgs, share: float, data_path: Path, eval_data_path: Path
    ) -> list[str]:
        """Flags that make stage 2 train on this share: as many passes as on all prompts."""
        return [
            *("--data_path", str(data_path), "--data_weights", "1"),
            *("--eval_data_path", str(eval_data_path)),
            *("--max_steps", str(math.ceil(stage.max_steps * share))),
            *("--eval_every", str(math.ceil(stage.eval_every * share))),
            *("--model_name_or_path", stage.model_name_or_path),
            *("--output_dir", str(self.run_folder(share))),
        ]
