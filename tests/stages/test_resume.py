"""A run that is stopped anywhere and resumed equals an undisturbed one to the last bit."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stages.material import Material
from tests.stages.processes import LAUNCH_SECONDS, all_end_well, is_full, started

PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
FLAGS = {
    "sft": "--max_steps 5 --eval_every 2 --batch_size 6 --learning_rate 1e-2",
    "reward": "--max_steps 4 --eval_every 2 --batch_size 4 --normalization_samples 6 "
    "--normalization_new_tokens 6 --learning_rate 1e-2",
    "ppo": "--max_steps 3 --rollout_batch_size 8 --minibatch_size 4 --max_new_tokens 6 "
    "--kl_controller adaptive --kl_target 0.1 --actor_lr 1e-2 --critic_lr 1e-2 --eval_every 2 "
    "--max_eval_rows 4",
}
SAME = ("metrics.jsonl", "samples.jsonl", "evaluation.json", "model.safetensors", "config.json",
        "scalar_model.json", "adapter_model.safetensors", "adapter_config.json")  # fmt: skip
SINGLE = "--ppo_epochs 1 --minibatch_size 8"
# Ranks, stage, ZeRO stage, further flags, and after how many checks it is stopped.
CELLS = [
    # Best at its first evaluation and stopped after it: what was published stays.
    (1, "sft", 2, "--lora_rank 2 --learning_rate 30", 5),
    (1, "reward", 2, "", 9),
    (2, "sft", 2, "--dropout 0.1", 5),
    # Rank 0 alone knows the judge's scores, yet all ranks save there.
    (2, "ppo", 2, "--keep_best 1 --best_metric +eval/judge/mean", 17),
]
MORE_CELLS = [  # of --all
    (1, "ppo", 0, "", 17),
    (2, "ppo", 3, "", 23),
    (1, "sft", 0, "--optimizer muon --dropout 0.1", 4),
    (1, "ppo", 2, "--critic shared", 19),
    (1, "ppo", 2, SINGLE, 17),
    (1, "ppo", 3, "", 21),
    (2, "sft", 3, "", 5),
    (2, "reward", 2, "", 4),
    (2, "ppo", 0, "", 19),
]


def folder_of(root: Path, ranks: int, stage: str, zero: int, flags: str) -> Path:
    words = "".join(flags.replace("--", "-").replace("/", "_").split())
    return root / f"{stage}-zero{zero}-on{ranks}{words}"


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, material: Material, user_env):
    """Folders of the cells, each run twice: stopped repeatedly, and undisturbed."""
    root = tmp_path_factory.mktemp("stops")
    all_cells = [*CELLS, *(MORE_CELLS if is_full(request.session) else [])]
    inputs = {
        "sft": ["--model_name_or_path", str(material.base)],
        "reward": ["--model_name_or_path", str(material.base)],
        "ppo": [
            *("--actor_model_name_or_path", str(material.base)),
            *("--judge", str(root / "judge.py")),
        ],
    }
    (root / "judge.py").write_text("def score(texts): return [len(text) for text in texts]\n")
    scorer = ["--reward_model_name_or_path", str(root / "scorer")]
    with ExitStack() as stack:
        programs = []
        for ranks in (1, 2):
            work = []
            cells = [cell[1:] for cell in all_cells if cell[0] == ranks]
            for stage, zero, flags, stop_every in cells:
                words = [*inputs[stage], *FLAGS[stage].split(), *flags.split()]
                words += ["--zero_stage", str(zero), "--dtype", "fp32"]
                words += ["--micro_batch_tokens", "96", *(scorer if stage == "ppo" else ())]
                folder = folder_of(root, ranks, stage, zero, flags)
                needs = scorer[1:] if stage == "ppo" else []
                work.append((PROGRAMS[stage], words, f"{folder}-stopped", stop_every, needs))
                work.append((PROGRAMS[stage], words, f"{folder}-alone", 0, needs))
            if ranks == 1:
                words = [*inputs["reward"], *FLAGS["reward"].split()]
                work.insert(0, (PROGRAMS["reward"], words, str(root / "scorer"), 0, []))
            file = root / f"cells{ranks}.json"
            file.write_text(json.dumps(work))
            place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            for rank in range(ranks):
                env = user_env | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                command = ["python", "-m", "tests.stages.stops", str(file)]
                programs.append(stack.enter_context(started(command, root, env)))
        all_end_well(programs, 4 * LAUNCH_SECONDS)
    return root


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("ranks", "stage", "zero", "flags", "stop_every"),
    [*CELLS, *(pytest.param(*cell, marks=pytest.mark.full) for cell in MORE_CELLS)],
)
def test_a_run_stopped_repeatedly_ends_like_an_undisturbed_one(
    runs, ranks, stage, zero, flags, stop_every
):
    folder = folder_of(runs, ranks, stage, zero, flags)
    stopped, alone = Path(f"{folder}-stopped"), Path(f"{folder}-alone")
    for rank in range(ranks):
        statuses = json.loads((stopped / f"statuses.{rank}.json").read_text())
        assert statuses[-1] == 0
        assert set(statuses[:-1]) == {75}
        assert len(statuses) > 1, "it was never stopped"
    names = [
        path.relative_to(alone)
        for path in alone.rglob("*")
        if path.name in SAME and "checkpoints" not in path.parts
    ]
    assert len(names) >= 4
    for name in names:
        assert (stopped / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.slow
def test_a_stopped_run_was_best_before_its_end(runs):
    [folder] = runs.glob("*lora*-stopped")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss/eval"] for line in lines if "loss/eval" in line]
    assert len(losses) == 3
    assert min(losses) == losses[0]
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, folder / "last")]
    assert weights[0] != weights[1]
