"""--dry_run: logs what a run needs, opens no weights, writes nothing, exits with 0 or 2."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.stages import material as m
from tests.stages.processes import ROOT, started
from training.launching.launch import LAUNCH_ID, _is_dry_run
from training.models.loading import load_causal_lm, save_causal_lm
from training.models.scalar import ScalarSettings, build_scalar_model, save_scalar_model
from training.models.tokenizers import load_tokenizer
from training.preflight.report import read_free_memory
from training.trainers.speed import Speed

CPU = torch.device("cpu")
PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, sft and reward, whose weights are garbage now, and data.*.jsonl."""
    root = tmp_path_factory.mktemp("finished")
    m.write_base(root / "base")
    tokenizer = load_tokenizer(str(root / "base"), flag="")
    lm: Any = load_causal_lm(str(root / "base"), tokenizer, device=CPU, dropout=None)
    save_causal_lm(lm, dict(lm.named_parameters()), tokenizer, root / "sft")
    model = build_scalar_model(
        str(root / "sft"), ScalarSettings(), device=CPU, compute_dtype=torch.float32
    )
    save_scalar_model(model, dict(model.named_parameters()), tokenizer, root / "reward")
    for folder in ("base", "sft", "reward"):
        (root / folder / "model.safetensors").write_bytes(b"no weights at all")
    for stage, rows in (
        ("sft", m.demonstrations(48)),
        ("reward", m.comparisons(34)),
        ("ppo", m.prompts(26)),
    ):
        m.write_jsonl(root / f"{stage}.jsonl", rows)
    return root


def flags_of(stage: str, folders: Path) -> list[str]:
    data = ["--data_path", str(folders / f"{stage}.jsonl"), "--eval_fraction", "0"]
    if stage == "ppo":
        models = ["--actor_model_name_or_path", str(folders / "sft")]
        return [*data, *models, "--reward_model_name_or_path", str(folders / "reward")]
    return [*data, "--model_name_or_path", str(folders / ("base" if stage == "sft" else "sft"))]


@pytest.fixture
def run_dry(folders, monkeypatch, capsys, tmp_path, as_one_process):
    """Return a function that makes a dry run and returns the lines of its stdout."""
    made: list[str] = []
    opened: list[str] = []
    original = PreTrainedModel.__init__

    def counted(self: Any, *inputs: Any, **options: Any) -> None:
        made.append(torch.get_default_device().type)
        original(self, *inputs, **options)

    def audit(event: str, arguments: Any) -> None:
        if event == "open" and str(arguments[0]).endswith((".safetensors", ".bin")):
            opened.append(str(arguments[0]))

    sys.addaudithook(audit)  # permanently: it cannot be removed

    def run(stage, *flags):
        words = [*flags_of(stage, folders), "--dry_run", "--output_dir", str(tmp_path / "out")]
        monkeypatch.setattr(PreTrainedModel, "__init__", counted)
        monkeypatch.setattr(sys, "argv", ["main.py", *words, *flags])
        monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        before = files(folders)
        opened.clear()
        importlib.import_module(f"{PROGRAMS[stage]}.main").main()
        assert opened == [], "weights were opened"
        assert set(made) == {"meta"}
        assert list(tmp_path.iterdir()) == [], "something was written"
        assert files(folders) == before
        return capsys.readouterr().out.splitlines()

    return run


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def line_of(lines: list[str], start: str) -> str:
    (found,) = [line for line in lines if line.strip().startswith(start)]
    return found


def test_stage_1_logs_its_figures(run_dry):
    lines = run_dry("sft", "--batch_size", "12", "--num_epochs", "3", "--micro_batch_tokens", "200",
                 "--dry_run_ranks", "2", "--packing", "never")  # fmt: skip
    assert line_of(lines, "data:").startswith("data: 48 of 48 rows")
    assert "lengths: 48 sequences of" in line_of(lines, "lengths:")
    assert "12 rows a step on 2 ranks: 6 each" in line_of(lines, "batch:")
    assert int(re.findall(r"of (\d+) padded", line_of(lines, "batch:"))[0]) <= 200
    # 48 rows are 4 steps of 12; three times.
    assert line_of(lines, "steps:") == "steps: 12 optimizer steps, 3 epochs"
    # Two blocks of width 32 on 256 positions: 12 * 2 * 32^2 + 13 * 2 * 32 + 64 + 256 * 32, and
    # the embedding, PAD's row included.
    tokens = len(dict.fromkeys(m.WORDS)) + 1
    count = 24576 + 832 + 64 + 8192 + tokens * 32
    assert f"model: {count:,} parameters, {count:,} trained (100 %)" in lines
    assert "under ZeRO 2 on 2 ranks" in line_of(lines, "memory:")
    assert line_of(lines, "time:").endswith("(measured now)")


def test_stage_1_logs_how_many_rows_are_truncated(run_dry):
    lines = run_dry("sft", "--max_length", "20")
    assert re.search(r"\d+ cut to --max_length 20", line_of(lines, "data:"))


def test_stage_2_logs_its_figures(run_dry):
    lines = run_dry("reward", "--batch_size", "17", "--lora_rank", "4", "--zero_stage", "0")
    assert "17 prompts a step on 1 rank: 17 each" in line_of(lines, "batch:")
    assert line_of(lines, "steps:") == "steps: 2 optimizer steps, 1 epochs"
    # LoRA of rank 4 beside 32 -> 96, 32 -> 32, 32 -> 128, 128 -> 32 in two blocks, and the head.
    trained = 2 * 4 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32) + 32
    assert f"{trained:,} trained" in line_of(lines, "reward model:")


def test_time_is_a_range_above_the_roofline(run_dry, monkeypatch):
    monkeypatch.setattr(Speed, "least_training", lambda *_, **__: 10.0)
    # Of the roofline 0.7 to 0.45 is reached: 10 / 0.7 and 10 / 0.45.
    assert "time: about 14 s to 22 s," in line_of(run_dry("reward"), "time:")


def test_stage_3_logs_its_figures(run_dry):
    lines = run_dry("ppo", "--rollout_batch_size", "8", "--samples_per_prompt", "3", "--ppo_epochs",
                 "2", "--minibatch_size", "12", "--max_steps", "5", "--dry_run_ranks", "4",
                 "--zero_stage", "3")  # fmt: skip
    assert "8 prompts x 3 = 24 responses a step on 4 ranks" in line_of(lines, "rollout:")
    update = line_of(lines, "update:")
    assert update == "update: 2 epochs x 2 minibatches of 12, 3 a rank: 4 optimizer steps a step"
    assert line_of(lines, "steps: 5, 20 optimizer steps").endswith("1.54 epochs of the prompts")
    stays = line_of(lines, "stays:")
    for part in ("weights", "gradients", "optimizer", "ref", "reward model", "generation's"):
        assert part in stays


def test_ranks_come_from_the_environment(run_dry, monkeypatch):
    monkeypatch.setenv("NUM_GPUS", "6")
    assert "on 6 ranks: 2 each" in line_of(run_dry("sft", "--batch_size", "12"), "batch:")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "on 3 ranks: 4 each" in line_of(run_dry("sft", "--batch_size", "12"), "batch:")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({LAUNCH_ID: "a", "NUM_GPUS": ""}, "on 3 ranks: 4 each"),  # run.sh, told no number
        ({LAUNCH_ID: "a", "NUM_GPUS": "2"}, "on 2 ranks: 6 each"),
        ({}, "on 1 rank: 12 each"),  # plain python
    ],
)
def test_a_launcher_without_a_number_starts_one_rank_per_gpu(
    run_dry, monkeypatch, environment, expected
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert expected in line_of(run_dry("sft", "--batch_size", "12"), "batch:")


@pytest.mark.parametrize("name", ["NUM_GPUS", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_an_invalid_number_of_ranks_gives_one_line(run_dry, monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run_dry("sft")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} in the environment must be a number of at least 1, got '{value}'" in line


def test_ranks_other_than_0_log_nothing(run_dry, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_dry("sft") == []


def test_a_model_that_does_not_fit_gives_a_warning(run_dry, monkeypatch):
    monkeypatch.setattr("training.preflight.report.read_free_memory", lambda: 1e8)
    lines = run_dry("sft")
    warning = line_of(lines, "warning:")
    assert "does not fit" in warning
    assert "0.10 there" in warning


@pytest.mark.parametrize("stage", PROGRAMS)
def test_a_mistake_ends_a_dry_run_with_one_line(
    folders, monkeypatch, capsys, tmp_path, as_one_process, stage
):
    bad = m.write_jsonl(tmp_path / "bad.jsonl", [{"question": "a"}])
    words = [*flags_of(stage, folders), "--dry_run", "--data_path", str(bad)]
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"{PROGRAMS[stage]}.main").main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad.jsonl:1" in line


@pytest.mark.slow
def test_run_sh_starts_a_dry_run_of_two_ranks(folders, tmp_path, user_env):
    env = {**user_env, "NUM_GPUS": "2", "OUTPUT_DIR": str(tmp_path / "out")}
    command: list[Any] = [
        "bash",
        ROOT / "step1_sft" / "run.sh",
        *flags_of("sft", folders),
        "--dry_run",
    ]
    with started(command, tmp_path, env) as program:
        assert program.wait() == 0
        assert "on 2 ranks" in program.output.read_text()
        assert program.errors.read_text() == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["main.py", "--dry_run"], True),
        (["main.py", "--dry_run", "--seed", "1"], True),
        (["main.py", "--dry_run=true"], True),
        (["main.py", "--dry_run", "false"], False),
        (["main.py", "--dry_run", "--dry_run", "false"], False),
        (["main.py", "--dry_run_ranks", "2"], False),
        (["main.py"], False),
    ],
)
def test_the_launcher_recognizes_a_dry_run(words, expected):
    assert _is_dry_run(words) is expected


def test_free_memory_is_the_smaller_of_system_and_container(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  2000 kB\n")
    assert read_free_memory(tmp_path) == 2000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("400000\n")
    # Of the 400000 taken, 50000 + 70000 are files that the kernel gives up; shared memory stays.
    stat = "anon 250000\nfile 150000\nshmem 30000\ninactive_file 50000\nactive_file 70000\n"
    (group / "memory.stat").write_text(stat)
    assert read_free_memory(tmp_path) == 720_000
    (group / "memory.stat").unlink()
    assert read_free_memory(tmp_path) == 600_000
    (group / "memory.max").write_text("max\n")
    assert read_free_memory(tmp_path) == 2000 * 1024
