"""Check that a long PPO run does not grow: sample its memory, open files and threads per step.

python -m benchmarks.endurance --minutes 60 --json PATH --model output/step1_sft \\
    --reward_model output/step2_reward --data_path example:movie_reviews

Without models it uses tiny random ones. Stage 3 runs unchanged and is watched from outside. The
exit status is 1 if something grew.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.arguments.parsing import arg, parse_args, require

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 0.25  # fraction of the samples to skip: caches and pools fill
POLL_SECONDS = 0.2
# Growth over the other samples that is tolerated, as a fraction of the mean.
ALLOWED = {"rss_mb": 0.02, "open_files": 0.0, "threads": 0.0}


@dataclass(frozen=True, kw_only=True)
class EnduranceArgs:
    """Flags of this benchmark."""

    minutes: float = arg(60.0, "How long to run.")
    ranks: int = arg(1, "Processes.")
    model: str = arg("", "Stage 1's output; default: a tiny random GPT-2.")
    reward_model: str = arg("", "Stage 2's output; default: a random head on the tiny one.")
    data_path: list[str] = arg([], "Prompts; default: a few questions.")
    rollout_batch_size: int = arg(32, "Prompts per step.")
    max_prompt_length: int = arg(64, "Tokens of a prompt, its last ones.")
    max_new_tokens: int = arg(24, "Tokens of a response.")
    json: str = arg("", "File for the result; default: none is written.")

    def __post_init__(self) -> None:
        require(self.minutes > 0, f"--minutes must be positive, got {self.minutes}")
        require(self.ranks >= 1, f"--ranks must be at least 1, got {self.ranks}")
        require(
            bool(self.model) == bool(self.reward_model) == bool(self.data_path),
            "give --model, --reward_model and --data_path together, or none of them",
        )


@dataclass(frozen=True)
class Sample:
    """All processes of the run together, right after a step."""

    step: int
    seconds: float
    rss_mb: float
    open_files: float
    threads: float


def main() -> int:
    args = parse_args(EnduranceArgs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        samples = watch_run(build_command(args, folder), folder / "output", args.minutes * 60)
    result = {"arguments": asdict(args), **fit_growth(samples)}
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    return 0 if result["grew"] == [] else 1


def build_command(args: EnduranceArgs, scratch: Path) -> list[str]:
    """Build the command of stage 3, with more steps than fit in the time."""
    model, reward_model, data = args.model, args.reward_model, args.data_path
    if not model:
        from training.models.tiny import write_random_scorer, write_tiny_lm
        from training.preflight.self_check import TEXTS

        model = write_tiny_lm(scratch / "model")
        reward_model = write_random_scorer(model, scratch / "reward_model", flag="--model")
        rows = [json.dumps({"prompt": text}) for text in TEXTS]
        data = [str(scratch / "prompts.jsonl")]
        Path(data[0]).write_text("\n".join(rows) + "\n", encoding="utf-8")
    launcher = (
        [sys.executable]
        if args.ranks == 1
        else [sys.executable, "-m", "torch.distributed.run", "--standalone",
              "--nproc_per_node", str(args.ranks)]
    )  # fmt: skip
    flags = {
        "output_dir": str(scratch / "output"),
        "actor_model_name_or_path": model,
        "reward_model_name_or_path": reward_model,
        "rollout_batch_size": args.rollout_batch_size,
        "minibatch_size": args.rollout_batch_size,
        "max_prompt_length": args.max_prompt_length,
        "overlong_prompts": "truncate_left",
        "max_new_tokens": args.max_new_tokens,
        "max_steps": 10**7,
        "actor_lr": 1e-6,  # the text, and so the work, should stay the same
        "log_every": 10**6,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [*launcher, str(ROOT / "step3_ppo/main.py"), *words, "--data_path", *data]


def watch_run(words: Sequence[str], output: Path, seconds: float) -> list[Sample]:
    """Run a stage for some time and sample its processes whenever it has logged a step."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    samples: list[Sample] = []
    started = time.monotonic()
    try:
        while time.monotonic() - started < seconds:
            if process.poll() is not None:
                raise SystemExit(f"the run ended with status {process.returncode}")
            step = read_last_step(output / "metrics.jsonl")
            if step > (samples[-1].step if samples else 0):
                now = time.monotonic() - started
                samples.append(Sample(step, now, *measure_usage(list_family(process.pid))))
            time.sleep(POLL_SECONDS)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in list_family(process.pid):
                signal_if_alive(pid, number)
            time.sleep(1.0)
        process.wait()
    return samples


def read_last_step(metrics: Path) -> int:
    """Read the step of the last complete row; 0 if there is none."""
    if not metrics.is_file():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(metrics.stat().st_size - 20_000, 0))
        lines = file.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def list_family(pid: int) -> list[int]:
    """List a process and its descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    pids = [pid]
    for parent in pids:  # grows in the loop
        pids += [child for child, its_parent in parents.items() if its_parent == parent]
    return pids


def measure_usage(pids: Sequence[int]) -> tuple[float, float, float]:
    """Measure resident memory in MB, open files and threads of these processes."""
    memory = files = threads = 0
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        try:
            memory += int((folder / "statm").read_text().split()[1])
            files += len(list((folder / "fd").iterdir()))
            threads += len(list((folder / "task").iterdir()))
        except OSError:
            continue  # it has just ended
    return memory * 4096 / 2**20, float(files), float(threads)


def signal_if_alive(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def fit_growth(samples: Sequence[Sample]) -> dict[str, Any]:
    """Fit a line to each measure; returns its first and last values and its growth."""
    kept = list(samples)[int(WARM_UP * len(samples)) :]
    if len(kept) < 8:
        raise SystemExit(f"{len(samples)} steps are too few to tell; run it for longer (--minutes)")
    hours = np.array([sample.seconds for sample in kept]) / 3600.0
    result: dict[str, Any] = {"steps": kept[-1].step, "seconds": round(kept[-1].seconds, 1)}
    grew = []
    for name, allowed in ALLOWED.items():
        values = np.array([getattr(sample, name) for sample in kept])
        slope = float(np.polyfit(hours, values, 1)[0])
        growth = slope * float(hours[-1] - hours[0])
        quarter = max(len(values) // 4, 1)
        first, last = float(np.median(values[:quarter])), float(np.median(values[-quarter:]))
        result[name] = {
            "first": round(first, 2),
            "last": round(last, 2),
            "slope_per_hour": round(slope, 3),
            "slope_per_step": round(growth / max(kept[-1].step - kept[0].step, 1), 6),
        }
        # The line alone would miss a late jump and take noise for growth.
        if min(growth, last - first) > max(allowed * float(values.mean()), 0.5):
            grew.append(name)
    return {**result, "grew": grew}


if __name__ == "__main__":
    sys.exit(main())
