"""A number that is not finite on one rank: no rank steps, and the run names it."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.injected import BAD_PARAMETER
from tests.stages.material import Material, read_jsonl
from tests.stages.pairs import cover_pairs
from tests.stages.processes import LAUNCH_SECONDS, all_end_well, is_full, started
from training.models.scalar import ScalarSettings, build_scalar_model, save_scalar_model
from training.models.tokenizers import load_tokenizer
from training.runtime.engine import has_cpu_bf16

pytestmark = pytest.mark.slow

PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
OFFLOAD = ("--offload_optimizer", "true")
STEPS = 4
GUARD_STOP = 3


@dataclass(frozen=True)
class Cell:
    """One run of `ranks` ranks in which `kind` goes bad on the last of them, at step `first`."""

    stage: str
    ranks: int
    zero: int
    kind: str
    flags: tuple[str, ...] = ()
    first: int = 2
    times: int = 1
    label: str = ""

    @property
    def folder(self) -> str:
        offload = "-offload" if OFFLOAD[0] in self.flags else ""
        return f"{self.stage}-{self.kind}{self.label}-zero{self.zero}{offload}-of{self.ranks}"

    @property
    def settings(self) -> set[str]:
        """Values of which each two occur together in `default_cells`."""
        return {self.stage, f"{self.ranks} ranks", f"ZeRO {self.zero}", self.kind, self.label,
                *self.flags[::2]}  # fmt: skip


def all_cells() -> list[Cell]:
    engines: list[tuple[int, int, tuple[str, ...]]] = [
        (1, 0, ()), (1, 3, ()),
        (2, 0, ()), (2, 1, ()), (2, 2, ()), (2, 3, ()), (2, 2, OFFLOAD), (2, 3, OFFLOAD),
    ]  # fmt: skip
    pairs = [
        Cell("sft", ranks, zero, kind, flags)
        for ranks, zero, flags in engines
        for kind in ("gradient", "left_out")
    ]
    bf16 = ("--dtype", "bf16")
    others = [
        Cell("sft", 2, 2, "logprob"),
        Cell("sft", 2, 0, "loss"),
        Cell("sft", 2, 2, "weight"),
        Cell("sft", 2, 2, "logprob", ("--max_skipped_steps", "1"), times=9, label="-always"),
        *([Cell("sft", 2, 2, "gradient", bf16, label="-bf16")] if has_cpu_bf16() else []),
        Cell("reward", 2, 2, "score"),
        Cell("reward", 1, 0, "score"),
        Cell("reward", 2, 3, "gradient"),
        *(Cell("ppo", 2, zero, "gradient") for zero in (0, 2, 3)),
        Cell("ppo", 2, 2, "gradient", OFFLOAD),
        Cell("ppo", 2, 2, "gradient", ("--critic", "shared"), label="-shared"),
        *(Cell("ppo", 2, 2, kind) for kind in ("score", "logprob", "value", "loss", "weight")),
        Cell("ppo", 2, 2, "score", ("--max_skipped_steps", "0"), label="-never"),
        Cell("ppo", 1, 0, "score"),
        Cell("ppo", 1, 3, "weight"),
    ]
    return [*pairs, *others]


def default_cells() -> list[Cell]:
    """The runs made without --all: each two settings of any run occur together in one of them."""
    cells = all_cells()
    first = [cell for cell in cells if cell.kind not in ("gradient", "left_out")]
    injected = [cell for cell in cells if cell.kind != "left_out"]
    chosen = cover_pairs(injected, lambda cell: cell.settings, first)
    others = [replace(cell, kind="left_out") for cell in chosen if cell.kind == "gradient"]
    return [cell for cell in cells if cell in chosen or cell in others]


CELLS = {cell.folder: cell for cell in all_cells()}
DEFAULT = {cell.folder for cell in default_cells()}


def mark_cells(names: Iterable[str]) -> list[Any]:
    """Parameters of a test; cells that are not run by default are marked `full`."""
    return [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.full) for name in names]


class Runs:
    def __init__(self, folder: Path, material: Material) -> None:
        self.folder, self.material = folder, material
        self.reward = folder / "scorer"
        tokenizer = load_tokenizer(str(material.base), flag="")
        model = build_scalar_model(
            str(material.base),
            ScalarSettings(),
            device=torch.device("cpu"),
            compute_dtype=torch.float32,
            tokens=len(tokenizer),
        )
        save_scalar_model(model, dict(model.named_parameters()), tokenizer, self.reward)

    def record(self, name: str, rank: int = 0) -> dict[str, Any]:
        file = self.folder / name / f"record.{rank}.json"
        record: dict[str, Any] = json.loads(file.read_text())
        return record

    def records(self, name: str) -> list[dict[str, Any]]:
        return [self.record(name, rank) for rank in range(CELLS[name].ranks)]

    def metrics(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / name / "metrics.jsonl")

    def flags(self, cell: Cell) -> list[str]:
        flags = f"--zero_stage {cell.zero} --micro_batch_tokens 96 --seed 3 --max_steps {STEPS}"
        flags += f" --data_path {self.material.data} --packing never --log_every 1"
        if cell.stage == "ppo":
            flags = flags.replace(" --packing never", "")
            flags += f" --actor_model_name_or_path {self.material.base}"
            flags += f" --reward_model_name_or_path {self.reward} --actor_lr 1e-3 --critic_lr 1e-3"
            flags += " --rollout_batch_size 6 --samples_per_prompt 2 --minibatch_size 6"
            flags += " --max_prompt_length 24 --max_new_tokens 12"
        else:
            flags += f" --model_name_or_path {self.material.base} --max_length 48 --batch_size 8"
            flags += " --learning_rate 1e-2"
            if cell.stage == "reward":
                flags += " --normalization_samples 4 --normalization_new_tokens 4"
            else:
                flags += " --dropout 0"
        flags += "" if "--dtype" in cell.flags else " --dtype fp32"
        return [*flags.split(), *cell.flags]


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory, material, user_env) -> Runs:
    """The cells that were asked for, in one process for one rank and in two for two ranks."""
    runs = Runs(tmp_path_factory.mktemp("guards"), material)
    names = CELLS if is_full(request.session) else DEFAULT
    with ExitStack() as stack:
        programs = []
        for ranks in (1, 2):
            plan = [
                (
                    PROGRAMS[cell.stage],
                    runs.flags(cell),
                    str(runs.folder / cell.folder),
                    (cell.kind, cell.first, cell.times),
                )
                for name, cell in CELLS.items()
                if cell.ranks == ranks and name in names
            ]
            file = runs.folder / f"cells-{ranks}.json"
            file.write_text(json.dumps(plan))
            for rank in range(ranks):
                variables = {"WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "RANK": rank}
                variables["LOCAL_RANK"] = rank
                env = user_env | {key: str(value) for key, value in variables.items()}
                env |= {"MASTER_ADDR": "127.0.0.1"}
                command = ["python", "-m", "tests.stages.injected", str(file)]
                programs.append(stack.enter_context(started(command, runs.folder, env)))
        all_end_well(programs, LAUNCH_SECONDS)
    return runs


INJECTED = [name for name, cell in CELLS.items() if cell.kind != "left_out"]


@pytest.mark.parametrize("name", mark_cells(INJECTED))
def test_no_rank_steps_and_weights_and_optimizer_state_keep_every_bit(runs, name):
    for record in runs.records(name):
        assert record["unchanged"], "nothing was skipped"
        assert all(record["unchanged"])


@pytest.mark.parametrize("name", mark_cells(INJECTED))
def test_every_rank_names_the_same_fault(runs, name):
    records = runs.records(name)
    assert records[0]["faults"]
    assert all(record["faults"] == records[0]["faults"] for record in records)


@pytest.mark.parametrize(
    "name",
    mark_cells(
        name
        for name, cell in CELLS.items()
        if (cell.stage, cell.kind) == ("sft", "gradient") and cell.label != "-bf16"
    ),
)
def test_the_run_equals_one_without_the_bad_batch(runs, name):
    without = load_file(runs.folder / name.replace("gradient", "left_out") / "model.safetensors")
    injected = load_file(runs.folder / name / "model.safetensors")
    assert injected.keys() == without.keys()
    for weight, tensor in injected.items():
        assert torch.equal(tensor, without[weight]), weight
    rates = [row["optim/lr_scale"] for row in runs.metrics(name) if "optim/lr_scale" in row]
    other = runs.metrics(name.replace("gradient", "left_out"))
    assert rates == [row["optim/lr_scale"] for row in other if "optim/lr_scale" in row]
    assert len(rates) == STEPS


@pytest.mark.parametrize(
    "name", mark_cells(name for name, cell in CELLS.items() if cell.kind == "gradient")
)
def test_a_bad_gradient_is_named_by_its_parameter(runs, name):
    fault = runs.record(name)["faults"][0]
    assert f"{BAD_PARAMETER} of the " in fault
    assert "gradient of" in fault
    assert "more" not in fault  # it alone is bad


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sft-logprob-zero2-of2", ["step 2: log-prob of ", "sft.train.jsonl:"]),
        ("sft-loss-zero0-of2", ["step 2: loss (nan) is not finite"]),
        ("sft-weight-zero2-of2", ["step 2: weight lm.transformer.wte.weight of the model"]),
        ("reward-score-zero2-of2", ["step 2: score of ", "reward.train.jsonl:", "(response "]),
        ("ppo-score-zero2-of2", ["step 1: score of prompt "]),
        ("ppo-logprob-zero2-of2", ["step 1: log-prob of the actor of prompt "]),
        ("ppo-value-zero2-of2", ["step 1: value of prompt "]),
        ("ppo-loss-zero2-of2", ["step 1: value loss (inf) is not finite"]),
        ("ppo-weight-zero2-of2", ["weight lm.transformer.wte.weight of the model that reads"]),
    ],
)
def test_the_first_bad_tensor_is_named_with_its_step_and_rows(runs, name, words):
    fault = runs.record(name)["faults"][0]
    for word in words:
        assert word in fault
    assert fault.endswith("is not finite")


@pytest.mark.parametrize("name", ["sft-logprob-zero2-of2", "reward-score-zero2-of2"])
def test_one_bad_row_is_one_row_named(runs, name):
    assert runs.record(name)["faults"][0].count(".jsonl:") == 1


@pytest.mark.parametrize(
    "name",
    mark_cells(
        name
        for name, cell in CELLS.items()
        if cell.times == 1 and cell.kind != "weight" and cell.label != "-never"
    ),
)
def test_the_run_continues_to_its_end(runs, name):
    assert [record["status"] for record in runs.records(name)] == [0] * CELLS[name].ranks
    assert (runs.folder / name / "complete.json").exists()
    cell = CELLS[name]
    skipped = [row.get("guard/skipped_steps") for row in runs.metrics(name)]
    assert (1.0 in skipped) == (cell.kind != "left_out")
    assert set(skipped) <= {None, 1.0}


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("sft-logprob-always-zero2-of2", 2),  # --max_skipped_steps 1
        ("ppo-score-never-zero2-of2", 1),  # --max_skipped_steps 0
        ("sft-weight-zero2-of2", 1),  # no later step can repair it
        ("ppo-weight-zero2-of2", 1),
        ("ppo-weight-zero3-of1", 1),
    ],
)
def test_the_run_stops_where_it_is_told_to(runs, name, faults):
    for record in runs.records(name):
        assert record["status"] == GUARD_STOP
        assert len(record["faults"]) == faults
    assert not (runs.folder / name / "complete.json").exists()
