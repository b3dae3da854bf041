"""A run that resumes with other ranks or another ZeRO stage equals the undisturbed run.

Up to the order in which fp32 sums are taken: metrics agree to 1e-5, what is sampled is equal.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.stages.material import Material, read_jsonl
from tests.stages.processes import LAUNCH_SECONDS, all_end_well, is_full, started

PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
FLAGS = {
    "sft": "--max_steps 6 --eval_every 2 --batch_size 6 --learning_rate 1e-2 --dropout 0",
    "reward": "--max_steps 6 --eval_every 2 --batch_size 6 --learning_rate 1e-3 "
    "--normalization_samples 6 --normalization_new_tokens 6",
    # Four optimizer steps per PPO step, twelve in all.
    "ppo": "--max_steps 3 --eval_every 1 --max_eval_rows 4 --rollout_batch_size 8 "
    "--minibatch_size 4 --ppo_epochs 2 --max_new_tokens 8 --kl_controller adaptive "
    "--kl_target 0.1 --actor_lr 1e-3 --critic_lr 1e-3",
}
SINGLE = "--ppo_epochs 1 --minibatch_size 8"
LORA = "--lora_rank 2 --learning_rate 1e-2"
MLP = "--head mlp"  # its last bias is one number: no two ranks can share it
MUON = "--optimizer muon"


@dataclass(frozen=True)
class Cell:
    """A run's `launches`: ranks and ZeRO stage ("o": with optimizer offload, "p": of
    weights too), and where it stops.

    `stops` has the optimizer step of each launch but the last in which it is asked to stop: as
    many are done in stage 3, which looks for it after that step, one less in stages 1 and 2.
    """

    stage: str
    launches: tuple[str, ...]
    stops: tuple[int, ...]
    flags: str = ""
    tolerance: float = 1e-5
    full: bool = False  # left to --all

    @property
    def name(self) -> str:
        return "-".join([self.stage, *self.flags.split(), *self.launches]).replace("--", "")

    @property
    def alone(self) -> "Cell":
        """Return this run on one rank without ZeRO, not stopped."""
        return Cell(self.stage, ("1z0",), (), self.flags)


UP = ("1z0", "2z2", "1z3", "2z2", "1z0")
DOWN = ("2z3", "1z0", "2z3", "1z2", "2z0")
CELLS = [
    Cell("sft", UP, (2, 2, 2, 2), full=True),
    Cell("sft", DOWN, (2, 3, 2, 2), full=True),
    Cell("reward", UP, (2, 2, 2, 2), full=True),
    Cell("reward", DOWN, (2, 2, 3, 2), full=True),
    Cell("ppo", UP, (3, 3, 3, 1), full=True),
    Cell("ppo", DOWN, (4, 3, 2, 2)),
    Cell("sft", ("2z3", "1z0", "1z3", "2z1"), (2, 2, 2), LORA),
    Cell("sft", ("2z3o", "1z2o", "1z3p", "2z1"), (2, 2, 2)),
    Cell("sft", ("2z0", "1z0"), (3,), MUON, tolerance=1e-3),  # it computes in bf16
    Cell("reward", ("1z0", "2z3", "1z2"), (2, 2), MLP),
    Cell("ppo", ("1z0", "2z3", "2z2"), (3, 3), "--critic shared"),
    # Stopped in the update that is begun, and after it: its values are not yet read.
    Cell("ppo", ("2z2", "1z0"), (1,), SINGLE),
]
ALONE = list({cell.alone.name: cell.alone for cell in CELLS}.values())


@dataclass(frozen=True)
class Plan:
    """A cell, as layouts.py reads it."""

    program: str
    flags: list[str]
    output: str
    launches: list[tuple[int, list[str], int]]
    needs: list[str] = field(default_factory=list)


def plan(cell: Cell, root: Path, material: Material) -> Plan:
    scorer = str(root / Cell("reward", UP, ()).alone.name)
    flags = f"{FLAGS[cell.stage]} {cell.flags} --dtype fp32 --micro_batch_tokens 96"
    flags += " --save_minutes 0 --weight_decay 0.1"
    if cell.stage == "ppo":
        models = ["--actor_model_name_or_path", str(material.base)]
        models += ["--reward_model_name_or_path", scorer]
    else:
        models = ["--model_name_or_path", str(material.base)]
    launches = []
    for launch, stop in zip(cell.launches, (*cell.stops, 0), strict=True):
        zero = ["--zero_stage", launch[2]]
        offload = ["--offload_optimizer", "true"] if launch[3:] else []
        offload += ["--offload_param", "true"] if launch[3:] == "p" else []
        launches.append((int(launch[0]), [*zero, *offload], stop))
    return Plan(
        PROGRAMS[cell.stage],
        [*flags.split(), *models],
        str(root / cell.name),
        launches,
        [scorer] if cell.stage == "ppo" else [],
    )


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, material: Material, user_env):
    """The folder of the runs, made by one process for one rank and two for two."""
    root = tmp_path_factory.mktemp("layouts")
    file = root / "cells.json"
    cells = [cell for cell in CELLS if not cell.full or is_full(request.session)]
    plans = [asdict(plan(cell, root, material)) for cell in [*ALONE, *cells]]
    file.write_text(json.dumps(plans))
    places = [(1, 0), (2, 0), (2, 1)]
    with ExitStack() as stack:
        programs = []
        for ranks, rank in places:
            place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            env = user_env | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = ["python", "-m", "tests.stages.layouts", str(file)]
            programs.append(stack.enter_context(started(command, root, env)))
        all_end_well(programs, 4 * LAUNCH_SECONDS)
    return root


def endings(runs: Path, cell: Cell) -> list[dict[str, Any]]:
    """Return the record of each launch."""
    files = [Path(f"{runs / cell.name}.ended{n}.json") for n in range(len(cell.launches))]
    return [json.loads(file.read_text()) for file in files]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return read_jsonl(folder / name)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
EXACT = [cell for cell in CELLS if cell.tolerance == 1e-5]


def mark_cells(cells: list[Cell]) -> Any:
    """A test's parameter `cell`, with the marks of the cells."""
    marks = {cell: pytest.mark.full if cell.full else () for cell in cells}
    return pytest.mark.parametrize(
        "cell", [pytest.param(c, id=c.name, marks=mark) for c, mark in marks.items()]
    )


@mark_cells(CELLS)
def test_it_was_stopped_at_the_planned_steps(runs, cell):
    found = endings(runs, cell)
    assert [launch["status"] for launch in found] == [75] * len(cell.stops) + [0]
    done = 0
    for launch, asked in zip(found, cell.stops, strict=False):
        done += asked - (cell.stage != "ppo")
        assert launch["progress"]["schedule"]["step"] == done
        if cell.stage == "ppo" and SINGLE not in cell.flags:
            # The rollout that is being learned from is in the checkpoint.
            assert launch["step"] == done // 4
            assert launch["progress"]["trainer"]["minibatches"] == done % 4


@mark_cells(CELLS)
def test_metrics_equal_those_of_the_undisturbed_run(runs, cell):
    found = rows(runs / cell.name, "metrics.jsonl")
    expected = rows(runs / cell.alone.name, "metrics.jsonl")
    assert len(found) == len(expected) >= 6
    for row, other in zip(found, expected, strict=True):
        near = cell.tolerance
        assert row == pytest.approx(other, rel=near, abs=near), f"step {other['step']}"


@mark_cells(EXACT)
def test_samples_equal_those_of_the_undisturbed_run(runs, cell):
    found = rows(runs / cell.name, "samples.jsonl")
    expected = rows(runs / cell.alone.name, "samples.jsonl")
    scores = [
        [row.pop(name) for row in part for name in ("score", "scores") if name in row]
        for part in (found, expected)
    ]
    assert found == expected
    for score, other in zip(*scores, strict=True):
        assert score == pytest.approx(other, abs=2e-4), "they are rounded to four places"
    if cell.stage == "ppo":
        assert len(found) == 3 * 8 + 4 * 4  # each response of each rollout and evaluation


@mark_cells(CELLS)
def test_weights_equal_those_of_the_undisturbed_run(runs, cell):
    alone = runs / cell.alone.name
    names = [path.relative_to(alone) for path in alone.rglob("*.safetensors")]
    names = [name for name in names if "checkpoints" not in name.parts]
    assert names
    for name in names:
        found, expected = (load_file(runs / run.name / name) for run in (cell, cell.alone))
        # Adam makes steps of nearly full size even of gradients that are nothing but rounding.
        assert_close(found, expected, rtol=10 * cell.tolerance, atol=10 * cell.tolerance)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_metrics_change_during_the_run(runs, stage):
    name = "score/mean" if stage == "ppo" else "loss/train"
    alone = runs / Cell(stage, UP, ()).alone.name
    curve = [row[name] for row in rows(alone, "metrics.jsonl") if name in row]
    assert max(curve) - min(curve) > 0.02
