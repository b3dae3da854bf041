"""Starts the runs of test_matrix.py, and reads what they wrote."""

import json
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from transformers import GPT2Config

from tests.stages.cells import Cell, all_cells
from tests.stages.material import Material, read_jsonl, write_jsonl
from tests.stages.processes import LAUNCH_SECONDS, Program, all_end_well, started
from training.runtime.engine import has_cpu_bf16

MATRIX_SECONDS = 5 * LAUNCH_SECONDS  # for all runs, in one process per rank
START = "sft-start-1"  # the stage-1 folder of all reward models and policies
TEMPERATURE = 0.8
NORMALIZATION_SAMPLES = 12
PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
OWN_CONFIG = {
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,  # shard even the smallest
        "stage3_prefetch_bucket_size": 0,
        "reduce_bucket_size": 5000,
        "sub_group_size": 20000,
    }
}
# Large enough that ten steps change the models a good deal. A PPO run of fewer steps must show
# the beginning of a longer one, so its rate is constant.
LR = (
    "--learning_rate 1e-2",
    "--learning_rate 1e-3",
    "--actor_lr 1e-3 --critic_lr 3e-4 --lr_scheduler constant --warmup_ratio 0",
)
CELLS = {cell.folder: cell for cell in all_cells()}
HAS_BF16 = has_cpu_bf16()


def reference_of(cell: str) -> str:
    """The run whose curve this one must show."""
    return next(c.folder for c in CELLS.values() if c.name == CELLS[cell].like)


class Runs:
    """The folders that the cells have written."""

    def __init__(self, folder: Path, material: Material) -> None:
        self.folder, self.material = folder, material
        (folder / "own.json").write_text(json.dumps(OWN_CONFIG))
        config = GPT2Config.from_pretrained(material.base).to_dict()
        (folder / "config.json").write_text(json.dumps(config))
        write_jsonl(folder / "one.jsonl", read_jsonl(material.file("ppo", "dev"))[:1])

    def path(self, cell: str) -> Path:
        return self.folder / cell

    def record(self, cell: str, rank: int = 0) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.path(cell) / f"record.{rank}.json").read_text())
        return record

    def records(self, cell: str) -> list[dict[str, Any]]:
        return [self.record(cell, rank) for rank in range(CELLS[cell].ranks)]

    def metrics(self, cell: str) -> list[dict[str, Any]]:
        return read_jsonl(self.path(cell) / "metrics.jsonl")

    def steps(self, cell: str) -> dict[int, dict[str, float]]:
        """Metrics of each training step, without those that measure time."""
        rows = [row for row in self.metrics(cell) if "optim/lr_scale" in row]
        assert len(rows) == len({row["step"] for row in rows}), "a step was logged twice"
        return {
            row["step"]: {k: v for k, v in row.items() if not k.startswith(("time", "speed"))}
            for row in rows
        }

    def needs(self, cell: Cell) -> list[str]:
        """The finished runs that a cell starts from."""
        reward = next(c.folder for c in CELLS.values() if c.name == cell.reward)
        names = {"sft": [], "reward": [START], "ppo": [START, reward]}[cell.stage]
        return [str(self.path(name)) for name in names]

    def flags(self, cell: Cell) -> list[str]:
        first = self.path(START)
        flags = f"--zero_stage {cell.zero} --micro_batch_tokens {cell.tokens} --seed 3"
        flags += f" --max_steps {cell.steps} --dtype {cell.dtype} --data_path {self.material.data}"
        if cell.stage == "sft":
            flags += f" --dropout 0 --weight_decay 0.1 --max_length 48 --batch_size 8 {LR[0]}"
            if "--init_from_scratch" not in cell.flags:
                flags += f" --model_name_or_path {self.material.base}"
        elif cell.stage == "reward":
            flags += f" --model_name_or_path {first} --max_length 48 --batch_size 6 {LR[1]}"
            flags += f" --normalization_samples {NORMALIZATION_SAMPLES}"
            flags += " --normalization_new_tokens 12"
        else:
            reward = next(c.folder for c in CELLS.values() if c.name == cell.reward)
            flags += f" --actor_model_name_or_path {first} {LR[2]} --temperature {TEMPERATURE}"
            flags += f" --reward_model_name_or_path {self.path(reward) / 'last'}"
            flags += " --rollout_batch_size 6 --samples_per_prompt 2 --minibatch_size 6"
            flags += " --max_prompt_length 24 --max_new_tokens 12"
            flags += " --kl_controller adaptive --kl_horizon 100"
        files = {name: str(self.folder / name) for name in ("own.json", "config.json", "one.jsonl")}
        files["BASE"] = str(self.material.base)
        return [*flags.split(), *(files.get(flag, flag) for flag in cell.flags)]


def make_all(runs: Runs, cells: list[Cell], env: dict[str, str]) -> None:
    """Make the cells in one process for one rank and in two for two ranks, all at a time."""
    with ExitStack() as stack:
        programs = [
            stack.enter_context(_start(runs, cells, ranks, rank, env))
            for ranks in (1, 2)
            for rank in range(ranks)
        ]
        all_end_well(programs, MATRIX_SECONDS)


def _start(
    runs: Runs, cells: list[Cell], ranks: int, rank: int, env: dict[str, str]
) -> AbstractContextManager[Program]:
    """The process of one rank, which makes all cells of that many ranks."""
    plan = [
        (
            PROGRAMS[cell.stage],
            runs.flags(cell),
            str(runs.path(cell.folder)),
            runs.needs(cell),
            cell.logit_chunk,
        )
        for cell in cells
        if cell.ranks == ranks and (cell.dtype == "fp32" or HAS_BF16)
    ]
    file = runs.folder / f"cells-{ranks}.json"
    file.write_text(json.dumps(plan))
    variables = {"WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank}
    env = env | {name: str(value) for name, value in variables.items()}
    env |= {"MASTER_ADDR": "127.0.0.1"}
    return started(["python", "-m", "tests.stages.matrix", file], runs.folder, env)
