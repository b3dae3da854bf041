"""Flags that the three stages share. A default lives here and nowhere else."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.parsing import arg, require

EXAMPLE = "example:movie_reviews"
MODELS = ("model_name_or_path", "actor_model_name_or_path", "reward_model_name_or_path")


@dataclass(frozen=True, kw_only=True)
class ModelArgs:
    """What every program that runs a model needs."""

    seed: int = arg(0, "Seed of every random draw: data order, initial weights, sampling.")
    dtype: Literal["auto", "fp32", "bf16"] = arg(
        "auto", "Compute type; weights stay fp32. auto: bf16 where the processor has it."
    )

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"--seed must not be negative, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class TemplateArgs:
    """What stands around a prompt."""

    prompt_template: str = arg("{prompt}", "Text around a prompt; must contain {prompt} once.")
    chat_template: str = arg("", "Jinja file for `messages` rows; default: the tokenizer's own.")

    def check_templates(self) -> None:
        require(
            self.prompt_template.count("{prompt}") == 1,
            f"--prompt_template must contain {{prompt}} once, got {self.prompt_template!r}",
        )
        check_file(self, "chat_template")


@dataclass(frozen=True, kw_only=True)
class EngineArgs(ModelArgs):
    """What every program that runs on one or more ranks needs besides."""

    local_rank: int = arg(-1, "Set by the deepspeed launcher; leave it alone.")
    timeout_minutes: float = arg(30.0, "How long a rank waits for the others before it fails.")
    host_timeout_minutes: float = arg(
        5.0, "How long a rank may be late at the start, and a host silent later on."
    )


@dataclass(frozen=True, kw_only=True)
class CommonArgs(EngineArgs, TemplateArgs):
    """Flags of every stage."""

    output_dir: str = arg("output", "Where the model, args.json and metrics.jsonl go.")
    zero_stage: Literal[0, 1, 2, 3] = arg(2, "ZeRO stage; picks ds_configs/zero<N>.json.")
    offload_optimizer: bool = arg(False, "Keep optimizer state in host memory (ZeRO 2 or 3).")
    offload_param: bool = arg(
        False, "Keep weights in host memory too (ZeRO 3 with --offload_optimizer)."
    )
    deepspeed_config: str = arg("", "Your own DeepSpeed JSON in place of ds_configs/zero<N>.json.")
    data_path: list[str] = arg([EXAMPLE], "Files, folders, Hub data sets or example:NAME.")
    data_weights: list[float] = arg([], "One weight a data path: 2 takes each row twice, 0.5 half.")
    eval_data_path: list[str] = arg([], "Held-out data; default: split off, or the example's dev.")
    eval_fraction: float = arg(0.05, "Share of prompts held out when no eval data is given.")
    max_eval_rows: int = arg(0, "Evaluate on at most this many held-out rows; 0 takes all.")
    decontaminate: bool = arg(
        True, "Leave out training rows whose prompt (of texts: 13 words in a row) is held out."
    )
    data_cache: bool = arg(
        True, "Keep encoded data in ~/.cache/classic-rlhf/encoded; false: in memory, anew each run."
    )
    micro_batch_tokens: int = arg(4096, "Padded tokens per forward and rank; bounds memory.")
    lr_scheduler: Literal["cosine", "linear", "constant"] = arg("cosine", "Decay after warm-up.")
    warmup_ratio: float = arg(0.05, "Share of the steps in which the learning rate rises.")
    min_lr_ratio: float = arg(0.0, "Learning rate at the end, as a share of its peak.")
    weight_decay: float = arg(0.0, "Decoupled weight decay on matrices.")
    adam_betas: list[float] = arg([0.9, 0.95], "Adam's two betas.")
    adam_eps: float = arg(1e-5, "Adam's epsilon.")
    max_grad_norm: float = arg(1.0, "Gradients are scaled down to this norm; 0 does not clip.")
    max_skipped_steps: int = arg(
        3, "Optimizer steps in a row that may be left out since a number was not finite."
    )
    lora_rank: int = arg(0, "Train adapters of this rank (LoRA), not the model; 0: the model.")
    lora_alpha: float = arg(0.0, "LoRA's alpha, its scale times its rank; 0: twice --lora_rank.")
    gradient_checkpointing: bool = arg(False, "Recompute activations in backward: less memory.")
    cpu_blocks: bool = arg(True, "On a CPU, compute each GPT-2 block as one function: faster.")
    resume: str = arg(
        "auto", "auto: go on from an unfinished run's newest checkpoint; none; or its folder."
    )
    allow_changed_settings: bool = arg(
        False, "Go on from a checkpoint of other flags all the same."
    )
    save_every: int = arg(0, "Steps between two checkpoints; 0: by --save_minutes alone.")
    save_minutes: float = arg(10.0, "Minutes between two checkpoints; 0: by --save_every alone.")
    keep_checkpoints: int = arg(2, "How many checkpoints are kept, the newest.")
    keep_best: int = arg(0, "How many more are kept: those of the best evaluations.")
    best_metric: str = arg("loss/eval", "By this metric, lower is better; +NAME: higher.")
    profile_step: int = arg(0, "Write a profile of this step to output_dir/profile; 0: none.")
    dry_run: bool = arg(False, "Check flags and data, say what the run would need, and end.")
    dry_run_ranks: int = arg(0, "Ranks that --dry_run reckons with; 0: as many as are launched.")
    log_every: int = arg(10, "Steps between two printed lines (every step is in metrics.jsonl).")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = (
            "micro_batch_tokens", "log_every", "timeout_minutes", "host_timeout_minutes",
            "adam_eps", "keep_checkpoints",
        )  # fmt: skip
        for name in positive:
            check_positive(self, name)
        for name in (
            "weight_decay",
            "max_grad_norm",
            "max_skipped_steps",
            "max_eval_rows",
            "profile_step",
            "save_every",
            "save_minutes",
            "keep_best",
            "lora_rank",
            "lora_alpha",
            "dry_run_ranks",
        ):
            check_not_negative(self, name)
        for name in ("eval_fraction", "warmup_ratio", "min_lr_ratio"):
            check_share(self, name)
        self._check_lists()
        self._check_layout()
        check_file(self, "deepspeed_config")
        check_can_write(self, "output_dir")
        self.check_templates()

    def _check_lists(self) -> None:
        betas = self.adam_betas
        require(
            len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            f"--adam_betas takes two numbers in [0, 1), got {betas}",
        )
        require(
            not self.data_weights or len(self.data_weights) == len(self.data_path),
            f"--data_weights needs one number for each of the {len(self.data_path)} paths of "
            f"--data_path, got {len(self.data_weights)}",
        )
        require(
            all(weight > 0 and math.isfinite(weight) for weight in self.data_weights),
            f"--data_weights must be positive, got {self.data_weights}",
        )

    def _check_layout(self) -> None:
        """What can be sharded, offloaded and adapted together."""
        require(
            not self.offload_optimizer or self.zero_stage >= 2,
            f"--offload_optimizer needs --zero_stage 2 or 3, got --zero_stage {self.zero_stage}",
        )
        require(
            not self.offload_param or (self.zero_stage == 3 and self.offload_optimizer),
            "--offload_param needs --zero_stage 3 and --offload_optimizer true, got --zero_stage "
            f"{self.zero_stage} and --offload_optimizer {str(self.offload_optimizer).lower()}",
        )
        if self.lora_rank:
            self._check_base_stays()
        require(
            self.lora_rank > 0 or not self.lora_alpha,
            f"--lora_alpha {self.lora_alpha:g} scales an adapter: give --lora_rank as well",
        )
        require(
            self.dry_run or not self.dry_run_ranks,
            f"--dry_run_ranks {self.dry_run_ranks} is for --dry_run; give that as well",
        )

    def _check_base_stays(self) -> None:
        """An adapter belongs to its base, which must not be written over while it is trained."""
        output = Path(self.output_dir).expanduser().resolve()
        for name in MODELS:
            base = str(getattr(self, name, ""))
            require(
                not base or Path(base).expanduser().resolve() not in (output, output / "last"),
                f"--{name} {base} would be written over by --output_dir {self.output_dir}, and "
                "with it what --lora_rank adapts; name another --output_dir",
            )


def check_positive(args: object, name: str) -> None:
    value = getattr(args, name)
    require(value > 0 and math.isfinite(value), f"--{name} must be positive, got {value}")


def check_not_negative(args: object, name: str) -> None:
    value = getattr(args, name)
    require(value >= 0 and math.isfinite(value), f"--{name} must not be negative, got {value}")


def check_share(args: object, name: str) -> None:
    value = getattr(args, name)
    require(0 <= value <= 1, f"--{name} must lie between 0 and 1, got {value}")


def check_file(args: object, name: str) -> None:
    value = getattr(args, name)
    require(not value or Path(value).is_file(), f"--{name}: no file at {value}")


def check_can_write(args: object, name: str, *, is_file: bool = False) -> None:
    """The folder (a file's folder), or the nearest one above it that exists, can be written to."""
    path = Path(getattr(args, name)).expanduser()
    places = path.absolute().parents if is_file else (path, *path.absolute().parents)
    nearest = next(folder for folder in places if folder.exists())
    reason = "may not be written to" if nearest.is_dir() else "is not a folder"
    require(
        nearest.is_dir() and os.access(nearest, os.W_OK), f"--{name} {path}: {nearest} {reason}"
    )
