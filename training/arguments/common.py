"""Flags that the three stages share. A default lives here and nowhere else."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.arguments.parsing import arg, require

EXAMPLE = "example:movie_reviews"
MODELS = ("model_name_or_path", "actor_model_name_or_path", "reward_model_name_or_path")


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Checks of flags, `names` separated by spaces. Each raises `UserError`."""

    def check_positive(self, names: str) -> None:
        for name, value in self._read(names):
            require(value > 0 and math.isfinite(value), f"--{name} must be positive, got {value}")

    def check_not_negative(self, names: str) -> None:
        for name, value in self._read(names):
            is_good = value >= 0 and math.isfinite(value)
            require(is_good, f"--{name} must not be negative, got {value}")

    def check_at_least(self, least: int, names: str) -> None:
        for name, value in self._read(names):
            require(value >= least, f"--{name} must be at least {least}, got {value}")

    def check_share(self, names: str) -> None:
        for name, value in self._read(names):
            require(0 <= value <= 1, f"--{name} must be between 0 and 1, got {value}")

    def check_file(self, names: str) -> None:
        for name, value in self._read(names):
            require(not value or Path(value).is_file(), f"--{name}: no file at {value}")

    def _read(self, names: str) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in names.split()]


@dataclass(frozen=True, kw_only=True)
class ModelArgs(Flags):
    """Flags of every program that runs a model."""

    seed: int = arg(0, "Seed of data order, weights, sampling.", group="randomness and precision")
    dtype: Literal["auto", "fp32", "bf16"] = arg(
        "auto", "Compute type; weights stay fp32. auto: bf16 if the processor has it."
    )

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"--seed must not be negative, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class TemplateArgs(Flags):
    """Flags for the text around a prompt."""

    prompt_template: str = arg("{prompt}", "Text around a prompt, with one {prompt}.", group="data")
    chat_template: str = arg("", "Jinja file for `messages` rows; default: the tokenizer's.")

    def check_templates(self) -> None:
        require(
            self.prompt_template.count("{prompt}") == 1,
            f"--prompt_template must contain {{prompt}} once, got {self.prompt_template!r}",
        )
        self.check_file("chat_template")


@dataclass(frozen=True, kw_only=True)
class EngineArgs(ModelArgs):
    """Flags of every program that runs on one or more ranks."""

    timeout_minutes: float = arg(30.0, "Longest wait for the other ranks.", group="several ranks")
    host_timeout_minutes: float = arg(5.0, "Longest start of a rank; later, silence of a host.")
    local_rank: int = arg(-1, "Set by the deepspeed launcher; do not set it yourself.")


@dataclass(frozen=True, kw_only=True)
class CommonArgs(EngineArgs, TemplateArgs):
    """Flags of all three stages."""

    output_dir: str = arg("output", "Folder for the model, args.json and metrics.", group="output")
    data_path: list[str] = arg([EXAMPLE], "Files, folders, Hub data or example:NAME.", group="data")
    eval_data_path: list[str] = arg([], "Held-out data; default: split off, or the example's dev.")
    eval_fraction: float = arg(0.05, "Share of prompts held out if --eval_data_path is not given.")
    max_eval_rows: int = arg(0, "Evaluate on at most this many held-out rows; 0: all.")
    data_weights: list[float] = arg([], "One per data path: 2 uses rows twice, 0.5 half of them.")
    decontaminate: bool = arg(
        True,
        "Skip training rows whose prompt (in plain text: any 13 words in a row) is held out.",
        negative="Keep training rows whose prompt is held out.",
    )
    data_cache: bool = arg(
        True,
        "Keep encoded data in ~/.cache/classic-rlhf/encoded.",
        negative="Encode the data in memory, again in each run.",
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = arg(
        "cosine", "Learning rate after the warm-up.", group="optimizer"
    )
    warmup_ratio: float = arg(0.05, "Share of the steps in which the learning rate rises.")
    min_lr_ratio: float = arg(0.0, "Final learning rate, as a share of its peak.")
    weight_decay: float = arg(0.0, "Decoupled weight decay on matrices.")
    max_grad_norm: float = arg(1.0, "Clip gradients to this norm; 0: no clipping.")
    adam_betas: list[float] = arg([0.9, 0.95], "Adam's two betas.")
    adam_eps: float = arg(1e-5, "Adam's epsilon.")
    max_skipped_steps: int = arg(3, "Most consecutive skipped (non-finite) steps before a stop.")
    micro_batch_tokens: int = arg(
        4096, "Padded tokens per forward and rank; bounds memory.", group="memory and speed"
    )
    zero_stage: Literal[0, 1, 2, 3] = arg(2, "ZeRO stage; uses ds_configs/zero<N>.json.")
    gradient_checkpointing: bool = arg(False, "Save memory: recompute activations in backward.")
    offload_optimizer: bool = arg(False, "Keep optimizer state in host memory (ZeRO 2 or 3).")
    offload_param: bool = arg(False, "Keep weights on the host too (ZeRO 3, --offload_optimizer).")
    deepspeed_config: str = arg("", "Your DeepSpeed JSON instead of ds_configs/zero<N>.json.")
    cpu_blocks: bool = arg(
        True,
        "On a CPU, compute each GPT-2 block as one function: faster.",
        negative="On a CPU, compute GPT-2 blocks as `transformers` does.",
    )
    lora_rank: int = arg(0, "Train LoRA adapters of this rank; 0: the whole model.", group="LoRA")
    lora_alpha: float = arg(0.0, "LoRA's alpha, its scale times its rank; 0: twice --lora_rank.")
    resume: str = arg(
        "auto", "auto: newest checkpoint of an unfinished run; none; a folder.", group="checkpoints"
    )
    save_every: int = arg(0, "Steps between two checkpoints; 0: --save_minutes decides.")
    save_minutes: float = arg(10.0, "Minutes between two checkpoints; 0: --save_every decides.")
    keep_checkpoints: int = arg(2, "Number of newest checkpoints to keep.")
    keep_best: int = arg(0, "Number of checkpoints to keep besides: those of the best evaluations.")
    best_metric: str = arg("loss/eval", "Metric for --keep_best; lower is better, +NAME: higher.")
    allow_changed_settings: bool = arg(False, "Resume even if flags differ from the checkpoint's.")
    dry_run: bool = arg(
        False, "Check flags and data, print the run's needs, and end.", group="checks and logging"
    )
    dry_run_ranks: int = arg(0, "Number of ranks that --dry_run assumes; 0: those launched.")
    log_every: int = arg(10, "Steps between two printed lines (metrics.jsonl has every step).")
    profile_step: int = arg(0, "Write a profile of this step to output_dir/profile; 0: none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("micro_batch_tokens log_every timeout_minutes host_timeout_minutes")
        self.check_positive("adam_eps keep_checkpoints")
        self.check_not_negative("weight_decay max_grad_norm max_skipped_steps max_eval_rows")
        self.check_not_negative("profile_step save_every save_minutes keep_best")
        self.check_not_negative("lora_rank lora_alpha dry_run_ranks")
        self.check_share("eval_fraction warmup_ratio min_lr_ratio")
        self._check_lists()
        self._check_layout()
        self.check_file("deepspeed_config")
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
        """Check that sharding, offload and adapters fit together."""
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
            self._check_base_is_kept()
        require(
            self.lora_rank > 0 or not self.lora_alpha,
            f"--lora_alpha {self.lora_alpha:g} scales an adapter: give --lora_rank as well",
        )
        require(
            self.dry_run or not self.dry_run_ranks,
            f"--dry_run_ranks {self.dry_run_ranks} is for --dry_run; give that as well",
        )

    def _check_base_is_kept(self) -> None:
        """Check that --output_dir does not overwrite the base that an adapter belongs to."""
        output = Path(self.output_dir).expanduser().resolve()
        for name in MODELS:
            base = str(getattr(self, name, ""))
            require(
                not base or Path(base).expanduser().resolve() not in (output, output / "last"),
                f"--{name} {base} would be written over by --output_dir {self.output_dir}, and "
                "with it what --lora_rank adapts; name another --output_dir",
            )


def check_can_write(args: object, name: str, *, is_file: bool = False) -> None:
    """Check that the folder (of a file: its folder) can be written to, or created."""
    path = Path(getattr(args, name)).expanduser()
    folders = path.absolute().parents if is_file else (path, *path.absolute().parents)
    nearest = next(folder for folder in folders if folder.exists())
    reason = "may not be written to" if nearest.is_dir() else "is not a folder"
    require(
        nearest.is_dir() and os.access(nearest, os.W_OK), f"--{name} {path}: {nearest} {reason}"
    )
