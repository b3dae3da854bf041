"""Flags of stage 2, the pairwise reward model."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.annotation import VoteArgs
from training.arguments.common import EXAMPLE, CommonArgs
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class RewardArgs(CommonArgs, VoteArgs):
    """Stage 2: train a scoring head on the stage-1 model with comparisons."""

    model_name_or_path: str = arg("output/step1_sft", "Stage 1's folder.", group="model and output")
    output_dir: str = arg("output/step2_reward", "Folder for the model, args.json and metrics.")
    head: Literal["linear", "mlp"] = arg("linear", "linear, or mlp: hidden -> 512 -> ReLU -> 1.")
    pooling: Literal["last", "mean", "weighted_mean"] = arg(
        "last", "Hidden states that the head reads; padding is masked."
    )
    data_path: list[str] = arg([EXAMPLE], "Files, folders, Hub data or example:NAME.", group="data")
    max_length: int = arg(256, "Longest prompt plus response in tokens.")
    packing: Literal["auto", "always", "never"] = arg(
        "auto", "Put the responses of a prompt in one row; auto: if it is cheaper."
    )
    responses_per_group: int = arg(12, "Most responses of one prompt scored together.")
    num_epochs: float = arg(1.0, "Number of epochs; --max_steps overrides it.", group="training")
    max_steps: int = arg(0, "Stop after this many optimizer steps; 0: --num_epochs decides.")
    batch_size: int = arg(8, "Prompts per optimizer step, each with its responses.")
    learning_rate: float = arg(1e-5, "Peak learning rate.")
    eval_every: int = arg(0, "Steps between two evaluations; 0: once per epoch.")
    group_average: Literal["prompt_mean", "pair_mean"] = arg(
        "prompt_mean", "Weigh every prompt, or every comparison, the same."
    )
    label_smoothing: float = arg(0.0, "Move every label towards 1/2 by this share.")
    center_coef: float = arg(0.0, "Weight of the squared mean score of a pair; centers scores.")
    margin_coef: float = arg(1.0, "Factor of the rows' `margin`; 0: ignore it.")
    shuffle_labels: bool = arg(False, "Control experiment: shuffle which side of a pair is better.")
    normalization_samples: int = arg(
        256, "SFT responses that set mean 0 and variance 1; 0: off.", group="score normalization"
    )
    normalization_data_path: list[str] = arg([], "Their prompts; default: --data_path.")
    normalization_new_tokens: int = arg(40, "Longest of those responses in tokens.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_votes()
        self.check_positive("batch_size learning_rate num_epochs normalization_new_tokens")
        self.check_not_negative("max_steps eval_every center_coef margin_coef")
        self.check_not_negative("normalization_samples")
        self.check_at_least(3, "max_length")
        self.check_at_least(2, "responses_per_group")
        require(
            0 <= self.label_smoothing < 1,
            f"--label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )
        require(
            self.normalization_samples != 1,
            "--normalization_samples 1 has no variance; use 0 (off) or at least 2",
        )
