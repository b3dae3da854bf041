"""DeepSpeed's configuration: a JSON file plus the keys that depend on the run.

Those keys are added here and nowhere else; a file that sets one of them to something else is an
error, never a silent override.
"""

import json
from pathlib import Path
from typing import Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "ds_configs"

# Set by our flags, so a file must not bring its own.
OWNED_SECTIONS = {
    "optimizer": "--learning_rate, --adam_betas and --weight_decay",
    "scheduler": "--lr_scheduler and --warmup_ratio",
    "bf16": "--dtype",
    "fp16": "--dtype",
}


def config_path(args: CommonArgs) -> Path:
    """The user's own file, else the one of the ZeRO stage."""
    if args.deepspeed_config:
        return Path(args.deepspeed_config)
    suffix = "_offload" if args.offload_optimizer else ""
    return CONFIG_FOLDER / f"zero{args.zero_stage}{suffix}.json"


def build(args: CommonArgs, world_size: int) -> dict[str, Any]:
    """The complete configuration of a trained model's engine."""
    path = config_path(args)
    config = _read(path)
    for section, flags in OWNED_SECTIONS.items():
        if section in config:
            raise UserError(f"{path}: remove {section!r}; it is set by {flags}")
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage != args.zero_stage:
        raise UserError(
            f"{path}: zero_optimization.stage is {stage} but --zero_stage is {args.zero_stage}; "
            f"pass --zero_stage {stage}"
        )
    # A micro-batch is filled by tokens, not rows, and a step has as many as it needs: the engine
    # is told of one row a step, and gradient accumulation is driven by `TrainingEngine`.
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


def for_frozen(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration for a model without an optimizer, which ZeRO-3 alone can shard."""
    kept = {key: value for key, value in config.items() if key != "gradient_clipping"}
    zero = dict(kept.get("zero_optimization", {}))
    zero.pop("offload_optimizer", None)
    return {**kept, "zero_optimization": zero}


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--deepspeed_config: {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--deepspeed_config: {path} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
        raise UserError(f"--deepspeed_config: {path} must be a JSON object with a section a key")
    return config
