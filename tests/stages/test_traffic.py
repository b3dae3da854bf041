"""What two ranks' collectives carry in a step, beside what the calculator says."""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.material import Material
from tests.stages.processes import LAUNCH_SECONDS, all_end_well, started
from training.arguments.ppo import PPOArgs
from training.models.loading import empty_causal_lm, load_causal_lm, load_config, save_causal_lm
from training.models.scalar import ScalarSettings, new_scalar_model, save_scalar_model
from training.models.tokenizers import load_tokenizer
from training.runtime import communication_estimate as communication
from training.runtime.memory_inputs import ModelSize, Setting
from training.trainers.model_sizes import size_of
from training.trainers.stage_communication import ppo_parts

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
RANKS = 2
PERSISTENT = 500  # so that the small model has tensors of both kinds
# The calculator leaves out numbers that ranks agree upon; of so small a model they are this much.
BOUND = 0.02
FLAGS = "--dtype fp32 --eval_fraction 0 --save_minutes 0 --micro_batch_tokens 48"
SFT = f"{FLAGS} --packing never --dropout 0 --max_steps 2 --batch_size 12 --max_length 48"
PPO = (
    f"{FLAGS} --max_steps 2 --rollout_batch_size 8 --minibatch_size 8 --ppo_epochs 2 "
    "--samples_per_prompt 2 --max_prompt_length 24 --max_new_tokens 12"
)


# Prefetching too keeps what is used again soon.
FAR = {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}


def zero_3(**more: int) -> dict[str, Any]:
    keys = {"stage": 3, "stage3_param_persistence_threshold": PERSISTENT, **more}
    return {"zero_optimization": keys}


@pytest.fixture(scope="module")
def sizes(material: Material, folder: Path) -> tuple[ModelSize, ModelSize]:
    """Actor and critic, whose folders are made for it."""
    tokenizer = load_tokenizer(str(material.base), flag="")
    lm: Any = load_causal_lm(str(material.base), tokenizer, device=CPU, dropout=None)
    save_causal_lm(lm, dict(lm.named_parameters()), tokenizer, folder / "sft")
    scorer = new_scalar_model(
        str(folder / "sft"), ScalarSettings(), device=CPU, compute_dtype=torch.float32
    )
    save_scalar_model(scorer, dict(scorer.named_parameters()), tokenizer, folder / "reward")
    empty: Any = empty_causal_lm(load_config(str(folder / "sft"), flag="", hint=""), len(tokenizer))
    width = empty.config.hidden_size
    return size_of(empty, persistent=PERSISTENT), size_of(
        empty.base_model, beside=width, persistent=PERSISTENT
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traffic")


@pytest.fixture(scope="module")
def traffic(folder, material, sizes, user_env) -> dict[str, list[dict[str, Any]]]:
    """By cell, the steps of rank 0."""
    cells = []
    for name, config in (("zero3", zero_3()), ("far", zero_3(**FAR))):
        (folder / f"{name}.json").write_text(json.dumps(config))
    own = {"3": "zero3", "3-far": "far"}
    for stage, zero in [("sft", z) for z in ("0", "1", "2", "3", "3-far")] + [("ppo", "3")]:
        flags = f"{SFT if stage == 'sft' else PPO} --zero_stage {zero[0]}"
        flags += f" --data_path {material.file(stage)}"
        if zero in own:
            flags += f" --deepspeed_config {folder / own[zero]}.json"
        if stage == "sft":
            flags += f" --model_name_or_path {folder / 'sft'}"
        else:
            flags += f" --actor_model_name_or_path {folder / 'sft'}"
            flags += f" --reward_model_name_or_path {folder / 'reward'}"
        program = "step1_sft" if stage == "sft" else "step3_ppo"
        cells.append((program, flags.split(), str(folder / f"{stage}{zero}")))
    file = folder / "cells.json"
    file.write_text(json.dumps(cells))
    run(file, user_env)
    return {
        Path(output).name: json.loads((Path(output) / "traffic.0.json").read_text())
        for _, _, output in cells
    }


def run(cells: Path, env: dict[str, str]) -> None:
    places = {"WORLD_SIZE": str(RANKS), "LOCAL_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1"}
    command: list[str | Path] = ["python", "-m", "tests.stages.traffic", cells]
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                started(
                    command, cells.parent, env | places | {"RANK": str(r), "LOCAL_RANK": str(r)}
                )
            )
            for r in range(RANKS)
        ]
        all_end_well(programs, LAUNCH_SECONDS)


def sent(step: dict[str, Any]) -> float:
    """Bytes that a ring sends from each of two ranks: half of what is gathered, or scattered."""
    halves: float = step.get("all_gather", 0) + step.get("reduce_scatter", 0)
    return halves / 2 + float(step.get("all_reduce", 0))


def setting(zero: str) -> Setting:
    return Setting(zero_stage=int(zero[0]), ranks=RANKS, itemsize=4, whole_blocks=True)


@pytest.mark.parametrize("zero", ["0", "1", "2", "3", "3-far"])
def test_an_optimizer_step_carries_what_is_calculated(traffic, sizes, zero):
    step = traffic[f"sft{zero}"][-1]
    assert step["backwards"] > 1
    reuse = 0 if zero == "3-far" else communication.REUSE_DISTANCE
    parts = communication.optimizer_step(sizes[0], setting(zero), step["backwards"], reuse=reuse)
    print(zero, step, parts)
    assert sum(parts.values()) == pytest.approx(sent(step), rel=BOUND)


@pytest.mark.parametrize("zero", ["0", "1", "2"])
def test_the_kernel_sends_what_is_calculated(traffic, sizes, zero):
    # Not under ZeRO-3: gloo scatters by way of an all-reduce, which is twice as much.
    step = traffic[f"sft{zero}"][-1]
    parts = communication.optimizer_step(sizes[0], setting(zero), step["backwards"])
    assert sum(parts.values()) == pytest.approx(step["tcp"], rel=0.05)


def test_a_ppo_step_carries_what_is_calculated(traffic, sizes):
    steps = traffic["ppo3"]
    last = max(i for i, step in enumerate(steps) if step["part"] == "collect")
    total: Counter[str] = Counter()
    for step in steps[last:]:
        total.update({name: value for name, value in step.items() if name != "part"})
    args = replace(
        PPOArgs(), rollout_batch_size=8, samples_per_prompt=2, minibatch_size=8, max_new_tokens=12
    )
    updates = 4
    assert total["backwards"] % (2 * updates) == 0
    actor, critic = sizes
    parts = ppo_parts(
        args,
        actor,
        critic,
        setting("3"),
        readings=total["readings"] // 3,
        micro_batches=total["backwards"] // (2 * updates),
        prompt=10,
        response=12,
    )
    print(total, parts)
    assert parts["rollout"] == pytest.approx(rollout_bytes(steps[last], parts), rel=0.2)
    assert sum(parts.values()) == pytest.approx(sent(total), rel=BOUND)


def rollout_bytes(collect: dict[str, Any], parts: dict[str, float]) -> float:
    """What of a rollout's collectives is no weight."""
    return sent(collect) - sum(parts.get(f"weights to {of}", 0.0) for of in ("generate", "score"))
