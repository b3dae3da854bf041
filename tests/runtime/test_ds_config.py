import json
from dataclasses import replace

import pytest

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime.ds_config import CONFIG_FOLDER, build_config, build_frozen_config

ARGS = CommonArgs(max_grad_norm=0.5)


@pytest.mark.parametrize(
    ("stage", "offloaded"),
    [(0, []), (1, []), (2, []), (3, []), (2, ["optimizer"]), (3, ["optimizer"]),
     (3, ["optimizer", "param"])],
)  # fmt: skip
def test_each_shipped_file_has_its_stage_and_is_complete(stage, offloaded):
    args = replace(
        ARGS,
        zero_stage=stage,
        offload_optimizer="optimizer" in offloaded,
        offload_param="param" in offloaded,
    )
    config = build_config(args, world_size=4)
    zero = config["zero_optimization"]
    assert zero["stage"] == stage
    devices = {name: zero[name]["device"] for name in zero if name.startswith("offload")}
    assert devices == {f"offload_{name}": "cpu" for name in offloaded}
    assert config["train_batch_size"] == 4 * config["train_micro_batch_size_per_gpu"]
    assert config["gradient_clipping"] == 0.5


def test_no_shipped_file_is_forgotten():
    names = {f"zero{stage}.json" for stage in range(4)}
    names |= {f"zero{stage}_offload.json" for stage in (2, 3)} | {"zero3_offload_all.json"}
    assert {file.name for file in CONFIG_FOLDER.iterdir()} == names


def own(tmp_path, **fields):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **fields}))
    return replace(ARGS, deepspeed_config=str(path), zero_stage=2)


def test_a_users_file_keeps_its_keys(tmp_path):
    args = own(tmp_path, wall_clock_breakdown=True, gradient_clipping=0.5, train_batch_size="auto")
    config = build_config(args, world_size=2)
    assert config["wall_clock_breakdown"] is True
    assert config["train_batch_size"] == 2


@pytest.mark.parametrize(
    ("key", "value", "fragment"),
    [
        ("gradient_clipping", 1.0, "gradient_clipping is 1.0 but this run needs 0.5"),
        ("train_batch_size", 64, "train_batch_size is 64"),
        ("gradient_accumulation_steps", 4, "gradient_accumulation_steps is 4"),
        ("optimizer", {"type": "Adam"}, "remove 'optimizer'; it is set by --learning_rate"),
        ("scheduler", {"type": "WarmupLR"}, "remove 'scheduler'; it is set by --lr_scheduler"),
        ("bf16", {"enabled": True}, "remove 'bf16'; it is set by --dtype"),
        ("fp16", {"enabled": True}, "remove 'fp16'; it is set by --dtype"),
        ("zero_optimization", {"stage": 3}, "pass --zero_stage 3"),
        ("zero_optimization", [], "must be a JSON object"),
    ],
)
def test_a_key_that_flags_set_is_an_error_that_names_both(tmp_path, key, value, fragment):
    with pytest.raises(UserError) as refused:
        build_config(own(tmp_path, **{key: value}), world_size=2)
    assert str(tmp_path / "own.json") in str(refused.value)
    assert fragment in str(refused.value)


def test_a_frozen_model_has_nothing_to_offload_or_clip():
    config = build_config(replace(ARGS, zero_stage=3, offload_optimizer=True), world_size=2)
    frozen = build_frozen_config(config)
    assert "gradient_clipping" not in frozen
    assert frozen["zero_optimization"]["stage"] == 3
    assert "offload_optimizer" not in frozen["zero_optimization"]
    assert "offload_optimizer" in config["zero_optimization"], "the original was changed"
