"""The stages as jobs of a real Slurm: chained, preempted, warned, failing, cancelled, in arrays."""

import json
from pathlib import Path

import pytest

from tests.slurm.cluster import DONE, JOB_SECONDS
from tests.stages.processes import wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.timeout(1800),
]

SHORT = ["--dtype", "fp32", "--log_every", "1"]
PPO = [
    "--max_steps",
    "40",
    "--rollout_batch_size",
    "8",
    "--minibatch_size",
    "4",
    "--max_new_tokens",
    "6",
]
NORMALIZATION = ["--normalization_samples", "4", "--normalization_new_tokens", "4"]


@pytest.fixture(scope="module")
def flags(material):
    """Flags of each stage, with its data."""

    def data(stage: str) -> list[str]:
        train, dev = material.file(stage), material.file(stage, "dev")
        return ["--data_path", str(train), "--eval_data_path", str(dev)]

    return {
        "step1_sft": ["--model_name_or_path", str(material.base), *data("sft"), "--max_steps", "2"],
        "step2_reward": [*data("reward"), "--max_steps", "2", *NORMALIZATION],
        "step3_ppo": [*data("ppo"), *PPO],
    }


def blocks(flags: dict[str, list[str]]) -> list[str]:
    """The command line of pipeline.sh from the first -- on."""
    return ["--", *SHORT, *[w for stage, own in flags.items() for w in ("--", stage, *own)]]


@pytest.fixture(scope="module")
def pipeline(cluster, flags):
    """A pipeline that was let run to its end: its folder, and its jobs' numbers and states."""
    root = cluster.folder / "run"
    done = cluster.script("pipeline.sh", "--nodes", "2", "--output_dir", "run", *blocks(flags))
    assert done.returncode == 0, done.stderr
    jobs = done.stdout.split()
    return root, jobs, [cluster.ended(job) for job in jobs]


def test_three_stages_run_one_after_another_on_two_nodes(cluster, pipeline):
    root, jobs, states = pipeline
    assert states == ["COMPLETED"] * 3
    times = [cluster.job(job) for job in jobs]
    assert times[0]["EndTime"] <= times[1]["StartTime"]
    assert times[1]["EndTime"] <= times[2]["StartTime"]
    assert {job["NodeList"] for job in times} == {"n[1-2]"}
    for stage, job in zip(("step1_sft", "step2_reward", "step3_ppo"), jobs, strict=True):
        assert (root / stage / "complete.json").is_file()
        lines = cluster.printed(stage, job).splitlines()
        assert sum(" rows, " in line and line[:6] == "data: " for line in lines) == 1  # one rank


def rows(output: Path) -> int:
    metrics = output / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def test_a_job_warned_and_then_preempted_ends_as_if_undisturbed(cluster, pipeline, flags):
    root, _, _ = pipeline
    output = cluster.folder / "preempted"
    models = ["--actor_model_name_or_path", root / "step1_sft",
              "--reward_model_name_or_path", root / "step2_reward"]  # fmt: skip
    options = ["--nodes", "2", "--partition", "preemptible", "--check", "none", "--"]
    done = cluster.script(
        "submit.sh", "step3_ppo", *options, *models, "--output_dir", output, *SHORT,
        *flags["step3_ppo"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()

    def has_rows(count: int) -> bool:
        return rows(output) >= count or cluster.state(job) in DONE

    assert wait_until(lambda: has_rows(3), JOB_SECONDS)
    # What Slurm does --signal seconds before the time limit, the earliest of which is a minute.
    assert cluster.run("scancel", "--batch", "--signal=USR1", job).returncode == 0
    cluster.start_again(job)
    [saved, *_] = output.glob("checkpoints/*/state.json")
    assert json.loads(saved.read_text())["world_size"] == 2  # one process per node
    again = rows(output) + 1
    assert wait_until(lambda: has_rows(again), JOB_SECONDS)
    urgent = cluster.run(
        "sbatch", "--parsable", "-N2", "--exclusive", "-p", "main", "-o", "/dev/null",
        "--wrap", "true",
    ).stdout.strip()  # fmt: skip
    assert cluster.ended(urgent) == "COMPLETED"
    cluster.start_again(job)

    assert cluster.ended(job) == "COMPLETED", cluster.printed("step3_ppo", job)
    assert cluster.job(job)["Restarts"] == "2"
    printed = cluster.printed("step3_ppo", job)
    assert [line.split()[2] for line in printed.splitlines() if line.startswith("stopped by")] == [
        "SIGUSR1",
        "SIGTERM",
    ]
    undisturbed = root / "step3_ppo"
    for name in ("model.safetensors", "critic/model.safetensors", "metrics.jsonl"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_a_stage_that_fails_cancels_the_rest(cluster, flags, tmp_path):
    data = tmp_path / "soon_gone.jsonl"
    own = dict(flags)
    original = own["step1_sft"][own["step1_sft"].index("--data_path") + 1]
    data.write_bytes(Path(original).read_bytes())
    own["step1_sft"] = [str(data) if word == original else word for word in own["step1_sft"]]
    done = cluster.script("pipeline.sh", "--hold", "--output_dir", tmp_path, *blocks(own))
    assert done.returncode == 0, done.stderr
    jobs = done.stdout.split()
    data.unlink()
    assert cluster.run("scontrol", "release", *jobs).returncode == 0
    assert [cluster.ended(job) for job in jobs] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert cluster.job(jobs[0])["ExitCode"] == "2:0"
    assert "soon_gone.jsonl" in cluster.printed("step1_sft", jobs[0])


def test_a_dry_run_checks_with_slurm_and_the_stage_and_submits_nothing(cluster, flags, tmp_path):
    options = ["--nodes", "2", "--gpus-per-node", "2", "--dry_run"]
    done = cluster.script(
        "submit.sh", "step1_sft", *options, "--", "--output_dir", tmp_path / "out",
        *flags["step1_sft"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rows a step on 4 ranks" in done.stdout  # a process for each GPU
    assert "using 4 processors on nodes n[1-2]" in done.stdout
    assert cluster.run("squeue", "--noheader").stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_refusal_of_slurm_or_the_stage_is_one_line_and_nothing_is_submitted(cluster):
    too_many = cluster.script(
        "submit.sh", "step1_sft", "--nodes", "3", "--check", "none", "--dry_run", "--"
    )
    mistyped = cluster.script(
        "submit.sh", "step3_ppo", "--check", "flags", "--", "--kl_coeff", "0.1"
    )
    assert (too_many.returncode, mistyped.returncode) == (2, 2)
    assert too_many.stderr.splitlines() == [
        "slurm/submit.sh: error: allocation failure: Requested node configuration is not available"
    ]
    [line] = mistyped.stderr.splitlines()
    assert "unknown flags: --kl_coeff 0.1; did you mean --kl_coef?" in line
    assert cluster.run("squeue", "--noheader").stdout == ""


def test_a_cancelled_job_stays_cancelled(cluster, flags, tmp_path):
    done = cluster.script(
        "submit.sh", "step1_sft", "--check", "none", "--", "--output_dir", tmp_path,
        *flags["step1_sft"], "--max_steps", "100000",
    )  # fmt: skip
    job = done.stdout.strip()
    assert wait_until(lambda: rows(tmp_path) > 0, JOB_SECONDS)
    cluster.run("scancel", job)
    assert cluster.ended(job) == "CANCELLED"
    assert "stopped by SIGTERM" in cluster.printed("step1_sft", job)
    assert "requeued and resumes" not in cluster.printed("step1_sft", job)
    assert cluster.run("squeue", "--noheader").stdout == ""


def test_each_job_of_an_array_has_its_seed_and_folder(cluster, flags, tmp_path):
    done = cluster.script(
        "submit.sh", "step1_sft", "--array=3,5", "--check=none", "--wait", "--",
        "--output_dir", tmp_path / "seed_%a", "--seed", "%a", *flags["step1_sft"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for seed in (3, 5):
        args = json.loads((tmp_path / f"seed_{seed}" / "args.json").read_text())
        assert args["seed"] == seed
        assert (tmp_path / f"seed_{seed}" / "complete.json").is_file()
