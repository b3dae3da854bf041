"""Launches of the three stages, as users type them, which the tests of this folder share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stages.material import Material, read_jsonl
from tests.stages.processes import ROOT, started
from training.launching.processes import find_free_port

FOLDERS = {
    "sft": "output/step1_sft",
    "reward": "output/step2_reward",
    "ppo": "output/step3_ppo",
}
RUN = {
    "sft": ROOT / "step1_sft" / "run.sh",
    "reward": ROOT / "step2_reward" / "run.sh",
    "ppo": ROOT / "step3_ppo" / "run.sh",
}
MAIN = {stage: script.with_name("main.py") for stage, script in RUN.items()}
FLAGS = {
    "sft": "--max_steps 3 --eval_every 2 --batch_size 8 --learning_rate 1e-3",
    "reward": "--max_steps 3 --eval_every 2 --normalization_samples 8 --profile_step 1",
    "ppo": "--max_steps 2 --rollout_batch_size 8 --minibatch_size 4 --max_new_tokens 8 "
    "--save_every 1",
}
STEPS = {"sft": 3, "reward": 3, "ppo": 2}
TOKEN = "c4n4ryc4n4ryc4n4ryc4n4ryc4n4ry42"
TOKENS = dict.fromkeys(
    ("LABEL_STUDIO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"), TOKEN
)


@dataclass(frozen=True)
class Launch:
    """How a run was started and how it ended."""

    stage: str
    folder: Path
    cwd: Path
    status: int
    output: str
    errors: str

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl and timing.jsonl, joined, that have `key`."""
        files = [read_jsonl(self.folder / f"{name}.jsonl") for name in ("metrics", "timing")]
        merged = [{**timing, **metrics} for metrics, timing in zip(*files, strict=True)]
        return [row for row in merged if key in row]


def launch(stage: str, command: list[Any], folder: Path, env: dict[str, str], cwd: Path) -> Launch:
    words = [*command, *FLAGS[stage].split()]
    with started(words, cwd, env | TOKENS, cwd) as program:
        status = program.wait()
        assert program.all_gone_within(5)
        texts = program.output.read_text(), program.errors.read_text()
        return Launch(stage, folder, cwd, status, *texts)


def launch_on_one_rank(
    cwd: Path, material: Material, user_env: dict[str, str]
) -> dict[str, Launch]:
    """run.sh, then plain python, then the bare `deepspeed`, which finds both by its defaults."""
    env = user_env | {"MASTER_PORT": str(find_free_port()), "OUTPUT_DIR": str(cwd / FOLDERS["sft"])}
    base = ["--model_name_or_path", material.base]
    sft = launch("sft", ["bash", RUN["sft"], *base], cwd / FOLDERS["sft"], env, cwd)
    plain = ["python", MAIN["reward"]]
    reward = launch("reward", plain, cwd / FOLDERS["reward"], user_env, cwd)
    bare = ["deepspeed", "--master_port", find_free_port(), MAIN["ppo"], "--zero_stage", "2"]
    ppo = launch("ppo", bare, cwd / FOLDERS["ppo"], user_env, cwd)
    return {"sft": sft, "reward": reward, "ppo": ppo}


def launch_on_two_ranks(
    cwd: Path, material: Material, user_env: dict[str, str]
) -> dict[str, Launch]:
    """torchrun, then run.sh with NUM_GPUS=2 under ZeRO-3, then again with --output_dir."""
    torchrun = ["torchrun", "--nproc_per_node", "2", "--master_port", find_free_port(), MAIN["sft"]]
    torchrun += ["--model_name_or_path", material.base, "--output_dir", cwd / "sft"]
    sft = launch("sft", torchrun, cwd / "sft", user_env, cwd)
    env = user_env | {"NUM_GPUS": "2", "MASTER_PORT": str(find_free_port()), "ZERO_STAGE": "3"}
    env |= {"SFT_MODEL": str(cwd / "sft"), "OUTPUT_DIR": str(cwd / "reward")}
    heads = ["--head", "mlp", "--pooling", "weighted_mean"]
    reward = launch("reward", ["bash", RUN["reward"], *heads], cwd / "reward", env, cwd)
    env = user_env | {"NUM_GPUS": "2", "MASTER_PORT": str(find_free_port())}
    env |= {"ACTOR_MODEL": str(cwd / "sft"), "REWARD_MODEL": str(cwd / "reward")}
    env |= {"OUTPUT_DIR": str(cwd / "not_this_one")}
    command = ["bash", RUN["ppo"], "--output_dir", cwd / "ppo"]  # the flag wins over OUTPUT_DIR
    (cwd / "judge.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    command += ["--self_check", "true", "--dtype", "fp32", "--judge", cwd / "judge.py"]
    ppo = launch("ppo", command, cwd / "ppo", env, cwd)
    return {"sft": sft, "reward": reward, "ppo": ppo}
