"""DeepSpeed's configuration: a JSON file plus the keys that depend on the run.

Only this module adds those keys. A file that sets one of them to another value is an error, never
silently overridden.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "ds_configs"

# Set by flags, so a file must not contain them.
OWNED_SECTIONS = {
    "optimizer": "--learning_rate, --adam_betas and --weight_decay",
    "scheduler": "--lr_scheduler and --warmup_ratio",
    "bf16": "--dtype",
    "bfloat16": "--dtype",
    "fp16": "--dtype",
    "torch_autocast": "--dtype",
    "data_types": "--dtype",
}

# Sections whose names are not among DeepSpeed's constants.
SECTIONS = {
    *("zero_optimization", "activation_checkpointing", "aio", "autotuning", "comet"),
    *("comms_logger", "compile", "compression_training", "csv_monitor", "curriculum_learning"),
    *("data_efficiency", "eigenvalue", "elasticity", "flops_profiler", "hybrid_engine", "nebula"),
    *("pipeline", "progressive_layer_drop", "tensorboard", "wandb"),
}


def build_config(args: CommonArgs, world_size: int) -> dict[str, Any]:
    """Build the complete configuration of a trained model's engine."""
    suffix = "_offload_all" if args.offload_param else "_offload" if args.offload_optimizer else ""
    default = CONFIG_FOLDER / f"zero{args.zero_stage}{suffix}.json"
    path = Path(args.deepspeed_config or default)
    config = _read_file(path)
    for section, flags in OWNED_SECTIONS.items():
        if section in config:
            raise UserError(f"{path}: remove {section!r}; it is set by {flags}")
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage != args.zero_stage:
        raise UserError(
            f"{path}: zero_optimization.stage is {stage} but --zero_stage is {args.zero_stage}; "
            f"pass --zero_stage {stage}"
        )
    if args.deepspeed_config:
        _check_keys(config, path)
    # Micro-batches are filled by tokens and their number varies, so `TrainingEngine` accumulates
    # gradients itself, and DeepSpeed is given one row per step.
    added = {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": args.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    for key, value in added.items():
        given = config.get(key, value)
        if given not in (value, "auto"):
            raise UserError(
                f"{path}: {key} is {given!r} but this run needs {value!r}; remove it from the file"
            )
        config[key] = value
    return config


def _check_keys(config: dict[str, Any], path: Path) -> None:
    """Raise `UserError` for a key or a value that DeepSpeed does not accept.

    DeepSpeed ignores unknown sections, and fails on unknown keys in one with a traceback, after
    the models are loaded.
    """
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    names = {value for value in vars(constants).values() if isinstance(value, str)} | SECTIONS
    for key in config.keys() - names:
        hint = _suggest_name(key, names)
        raise UserError(f"{path}: no key {key!r} of DeepSpeed is known here{hint}; remove it")
    try:
        DeepSpeedZeroConfig(**config.get("zero_optimization", {}))
    except ValueError as error:
        pydantic_error: Any = error
        first = pydantic_error.errors()[0]
        key = ".".join(["zero_optimization", *map(str, first["loc"])])
        is_unknown = first["type"] == "extra_forbidden"
        known = DeepSpeedZeroConfig.model_fields
        hint = _suggest_name(str(first["loc"][-1]), known) if is_unknown else ""
        raise UserError(f"{path}: {key}: {first['msg']}, got {first['input']!r}{hint}") from error


def _suggest_name(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (is {matches[0]!r} meant?)" if matches else ""


def build_frozen_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration for a model without an optimizer, which only ZeRO-3 can shard."""
    kept = {key: value for key, value in config.items() if key != "gradient_clipping"}
    zero = dict(kept.get("zero_optimization", {}))
    zero.pop("offload_optimizer", None)
    return {**kept, "zero_optimization": zero}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--deepspeed_config: {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--deepspeed_config: {path} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
        raise UserError(f"--deepspeed_config: {path} must be a JSON object with a section per key")
    return config
