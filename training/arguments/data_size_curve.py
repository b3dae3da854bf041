"""Flags of the data-size curve: training on shares of the prompts."""

from dataclasses import dataclass
from pathlib import Path

from training.arguments.common import check_can_write
from training.arguments.parsing import arg, require


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

    def run_folder(self, share: float) -> Path:
        """Return the output folder of the run on this share."""
        return Path(self.output_dir) / f"{share:g}"
