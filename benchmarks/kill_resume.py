"""Kill a run at random moments, restart it until it is done, compare it with an undisturbed one.

python -m benchmarks.kill_resume --stage ppo --ranks 2 --kills 50 --json result.json

Each kill is SIGKILL to a random process of the launch: a rank, a launcher or run.sh. The phases of
a run take turns. The final weights, metrics.jsonl and samples.jsonl must be equal byte for byte.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks import phases
from benchmarks.models import write_models
from training.arguments.parsing import arg, parse_args, require
from training.paths import REPOSITORY

MARK = "KILL_RESUME_RUN"  # environment variable that every process of a launch carries
COMPARED = ("metrics.jsonl", "samples.jsonl", "evaluation.json", "model.safetensors",
            "config.json", "scalar_model.json", "adapter_model.safetensors",
            "adapter_config.json")  # fmt: skip
ORPHAN_SECONDS = 30.0  # how long a process may outlive its launch
LAUNCH_SECONDS = 3600.0  # on a busy machine
MOST_KILLS = 8  # per run, which may then finish
MOMENTS = 30  # a kill waits for at most this many sightings of its phase
PHASES_OF = {
    "sft": ("load", "update", "score", "save", "report"),
    "reward": ("load", "generate", "update", "score", "save", "report"),
    "ppo": ("load", "generate", "score", "update", "save", "report"),
}
PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
FLAGS = {
    "sft": "--max_steps 12 --eval_every 4 --batch_size 4 --learning_rate 1e-3",
    "reward": "--max_steps 12 --eval_every 4 --batch_size 2 --learning_rate 1e-3 "
    "--normalization_samples 8 --normalization_new_tokens 8",
    "ppo": "--max_steps 8 --rollout_batch_size 8 --minibatch_size 4 --ppo_epochs 2 --eval_every 4 "
    "--max_new_tokens 12 --actor_lr 1e-3 --critic_lr 1e-3 --kl_controller adaptive --kl_target 0.1",
}


@dataclass(frozen=True, kw_only=True)
class KillArgs:
    """Flags of the harness."""

    stage: Literal["sft", "reward", "ppo"] = arg("ppo", "Stage to run.")
    ranks: int = arg(1, "Processes that train.")
    zero_stage: Literal[0, 1, 2, 3] = arg(2, "ZeRO stage of the run.")
    kills: int = arg(5, "How many times a process is killed.")
    seed: int = arg(0, "Seed of the moments and the processes.")
    json: str = arg("", "File for the result; default: none is written.")

    def __post_init__(self) -> None:
        for name in ("ranks", "kills"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} must be at least 1, got {value}")


@dataclass
class Result:
    """Counts over all runs so far."""

    kills: Counter[str] = field(default_factory=Counter)  # by phase
    runs: int = 0
    mismatches: int = 0
    differing: list[str] = field(default_factory=list)
    lost_runs: int = 0
    orphans: int = 0


class Runs:
    """Launches of one stage's command in one folder."""

    def __init__(self, args: KillArgs, folder: Path) -> None:
        self._args = args
        self._folder = folder
        lm, reward_model = write_models("micro", 256, folder)
        data = write_data(folder)
        models = {
            "sft": ["--model_name_or_path", lm],
            "reward": ["--model_name_or_path", lm],
            "ppo": ["--actor_model_name_or_path", lm, "--reward_model_name_or_path", reward_model],
        }[args.stage]
        self._hook = phases.write_hook(folder)
        self._command = [
            *("bash", str(REPOSITORY / PROGRAMS[args.stage] / "run.sh")),
            *models,
            *("--data_path", str(data[args.stage]), "--dtype", "fp32"),
            *("--save_every", "1", "--zero_stage", str(args.zero_stage)),
            *FLAGS[args.stage].split(),
        ]

    def run(self, output: Path, phase: str | None, draw: random.Random) -> tuple[int, str, bool]:
        """Launch the stage and kill one process in `phase`, if the run reaches it.

        Returns the exit status, the killed command, and whether processes were left behind.
        """
        mark = uuid.uuid4().hex
        phase_file = self._folder / f"phase_{mark}"
        phase_file.write_bytes(b" " * phases.WIDTH)
        paths = (str(self._hook), str(REPOSITORY), os.environ.get("PYTHONPATH", ""))
        environment = {
            **os.environ,
            MARK: mark,
            phases.FILE: str(phase_file),
            "PYTHONPATH": ":".join(filter(None, paths)),
            "NUM_GPUS": str(self._args.ranks),
            "OMP_NUM_THREADS": "1",
        }
        killed = ""
        with (self._folder / "launches.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, "--output_dir", str(output)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            if phase is not None and wait_for_phase(phase, phase_file, process, draw):
                killed = kill_one(mark, draw)
            status = process.wait(LAUNCH_SECONDS)
        return status, killed, sweep(mark)


def wait_for_phase(
    phase: str, phase_file: Path, process: "subprocess.Popen[bytes]", draw: random.Random
) -> bool:
    """Wait for a moment within a phase; returns False if the run ends first."""
    left = draw.randrange(MOMENTS) + 1
    if phase == phases.LOAD:
        time.sleep(draw.uniform(0.0, 12.0))  # launchers and imports are most of it
        left = 1
    while process.poll() is None:
        left -= phase.encode() in phase_file.read_bytes().split() or phase == phases.LOAD
        if not left:
            return True
        time.sleep(0.002)
    return False


def kill_one(mark: str, draw: random.Random) -> str:
    """Kill one living process of a launch; returns its command."""
    while living := list_family(mark):
        chosen = draw.choice(living)
        try:
            command = Path(f"/proc/{chosen}/cmdline").read_bytes().decode(errors="replace")
            os.kill(chosen, signal.SIGKILL)
        except OSError:
            continue  # it has just ended
        return " ".join(command.split("\0")[:5])
    return ""


def write_data(folder: Path) -> dict[str, Path]:
    """Write rows for every stage in the words of the benchmarks' tokenizer."""
    draw = random.Random(0)

    def text(most: int) -> str:
        return " ".join(f"w{draw.randrange(500)}" for _ in range(draw.randint(2, most)))

    files = {}
    for stage in PROGRAMS:
        rows = []
        for number in range(40):
            row = {"prompt": f"w{number} {text(6)}"}
            if stage == "sft":
                row["response"] = " " + text(20)
            if stage == "reward":
                row |= {"chosen": f" w1 {text(15)}", "rejected": f" w2 {text(15)}"}
            rows.append(json.dumps(row) + "\n")
        files[stage] = folder / f"{stage}.jsonl"
        files[stage].write_text("".join(rows), encoding="utf-8")
    return files


def list_family(mark: str) -> list[int]:
    """List the living processes of a launch."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
            if is_ours and (folder / "cmdline").read_bytes():  # a zombie has none
                pids.append(int(folder.name))
        except OSError:
            continue
    return sorted(pids)


def sweep(mark: str) -> bool:
    """Wait until a launch has no process left; kills those that stay and returns True if any."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while list_family(mark):
        if time.monotonic() > deadline:
            for pid in list_family(mark):
                os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.1)
    return False


def list_differences(actual: Path, expected: Path) -> list[str]:
    """List files that differ or exist on one side only."""
    names = {
        str(path.relative_to(folder))
        for folder in (actual, expected)
        for path in folder.rglob("*")
        if path.name in COMPARED and "checkpoints" not in path.parts
    }
    return [
        name
        for name in sorted(names)
        if not (actual / name).is_file()
        or not (expected / name).is_file()
        or (actual / name).read_bytes() != (expected / name).read_bytes()
    ]


def kill_and_compare(args: KillArgs, folder: Path) -> dict[str, object]:
    """Kill until --kills is reached and the last run is done; returns the result."""
    runs, draw = Runs(args, folder), random.Random(args.seed)
    expected = folder / "undisturbed"
    status, _, _ = runs.run(expected, None, draw)
    if status:
        raise SystemExit(f"kill_resume: the undisturbed run ended with status {status}")
    turns = itertools.cycle(PHASES_OF[args.stage])
    result = Result()
    while sum(result.kills.values()) < args.kills:
        output = folder / f"run_{result.runs}"
        for attempt in itertools.count():
            is_last = sum(result.kills.values()) >= args.kills or attempt >= MOST_KILLS
            phase = None if is_last else next(turns)
            status, killed, left = runs.run(output, phase, draw)
            result.orphans += left
            if phase and killed:
                result.kills[phase] += 1
                print(f"kill {sum(result.kills.values())} in {phase}: {killed}", flush=True)
            if (output / "complete.json").is_file():
                differing = list_differences(output, expected)
                result.mismatches += bool(differing)
                result.differing = sorted({*result.differing, *differing})
                break
            if not killed or status in (0, 2):
                result.lost_runs += 1  # it ended without a kill, or with a wrong status
                break
        result.runs += 1
        shutil.rmtree(output, ignore_errors=True)
    return {
        "flags": asdict(args),
        **asdict(result),
        "kills": sum(result.kills.values()),
        "kills_by_phase": dict(result.kills),
    }


def main() -> None:
    args = parse_args(KillArgs)
    with tempfile.TemporaryDirectory() as folder:
        result = kill_and_compare(args, Path(folder))
        failed = result["mismatches"] or result["lost_runs"] or result["orphans"]
        if failed:
            log = (Path(folder) / "launches.log").read_text(encoding="utf-8", errors="replace")
            sys.stderr.write(log[-20000:])
    print(json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
