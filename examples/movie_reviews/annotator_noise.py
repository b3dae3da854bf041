"""Measure what noisy annotators cost, and what soft labels and error estimates save.

python -m examples.movie_reviews.annotator_noise --model output/quickstart/step1_sft

Simulated annotators compare pairs of the example's train films: each takes the opinion of a random
rater per side and votes against it with probability `--noise`. Stage 2 trains on their votes in
Label Studio's export format, once with each way of counting votes. The accuracy is that on the
example's held-out comparisons, without noise.
"""

import json
import random
import shlex
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.common.programs import run
from training.arguments.parsing import arg, exit_with_user_error, parse_args, require
from training.paths import REPOSITORY, cache_dir

EXAMPLE = "movie_reviews"
COUNTS = {
    "majority": "--votes majority",
    "soft": "--votes soft",
    "majority, error estimated": "--votes majority --annotator_error auto",
}
STAGE_2 = "--zero_stage 0 --learning_rate 7e-4 --num_epochs 2 --batch_size 32 --log_every 50 "
STAGE_2 += "--normalization_samples 0"


@dataclass(frozen=True, kw_only=True)
class NoiseArgs:
    """Flags of the experiment."""

    model: str = arg("output/quickstart/step1_sft", "Backbone: the quickstart's stage 1.")
    noise: list[float] = arg([0.1, 0.2, 0.3], "Probabilities that a vote is against its opinion.")
    annotators: int = arg(3, "Votes per pair.")
    tasks: int = arg(4000, "Pairs to vote on.")
    seeds: list[int] = arg([0, 1, 2], "Seeds; each makes a data set and its runs of stage 2.")
    output_dir: str = arg("output/annotator_noise", "Where exports, runs and results.json go.")

    def __post_init__(self) -> None:
        require(
            all(0 <= noise < 0.5 for noise in self.noise),
            f"--noise takes numbers in [0, 0.5), got {self.noise}",
        )
        for name in ("annotators", "tasks"):
            require(getattr(self, name) >= 1, f"--{name} must be at least 1")


def make_export(
    groups: list[dict[str, Any]], *, tasks: int, annotators: int, noise: float, seed: int
) -> list[dict[str, Any]]:
    """Make pairwise tasks of random comparisons, with votes, in Label Studio's JSON format."""
    draw = random.Random(f"{seed}:{noise}")
    comparisons = [(group, pair) for group in groups for pair in group["pairs"]]
    exported = []
    for number, (group, pair) in enumerate(draw.sample(comparisons, tasks), start=1):
        better, worse, label = pair
        sides = [better, worse]
        draw.shuffle(sides)
        answers = [group["responses"][side] for side in sides]
        votes = []
        for annotator in range(1, annotators + 1):
            is_for_better = (draw.random() < label) != (draw.random() < noise)
            is_left = is_for_better == (sides[0] == better)
            votes.append(_make_annotation(number, annotator, "left" if is_left else "right"))
        data = {"prompt": group["prompt"], "answer1": answers[0], "answer2": answers[1]}
        exported.append({"id": number, "data": data, "annotations": votes})
    return exported


def _make_annotation(task: int, annotator: int, side: str) -> dict[str, Any]:
    region = {"from_name": "comparison", "to_name": "answer1,answer2", "type": "pairwise"}
    return {
        "id": 1000 * task + annotator,
        "completed_by": annotator,
        "was_cancelled": False,
        "result": [{**region, "value": {"selected": side}}],
    }


def measure_accuracy(args: NoiseArgs, file: Path, count: str, folder: Path, seed: int) -> float:
    """Train stage 2 on this export and return its held-out accuracy."""
    command = [
        *("bash", "step2_reward/run.sh", "--data_path", str(file)),
        *("--eval_data_path", f"example:{EXAMPLE}", "--model_name_or_path", args.model),
        *("--output_dir", str(folder), "--seed", str(seed)),
        *shlex.split(STAGE_2),
        *shlex.split(COUNTS[count]),
    ]
    status = run(command, stdout=subprocess.DEVNULL)
    if status:
        raise SystemExit(status)
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    accuracy: float = report["all"]["accuracy"]
    return accuracy


def main() -> None:
    args = parse_args(NoiseArgs)
    source = cache_dir() / EXAMPLE / "reward.train.jsonl"
    if not source.is_file():
        exit_with_user_error(
            "annotator_noise", f"{source}: missing; run examples/movie_reviews/prepare.py first"
        )
    lines = source.read_text(encoding="utf-8").splitlines()
    groups = [json.loads(line) for line in lines]
    comparisons = sum(len(group["pairs"]) for group in groups)
    if args.tasks > comparisons:
        exit_with_user_error(
            "annotator_noise", f"--tasks {args.tasks}: {source} has {comparisons} comparisons"
        )
    output = (REPOSITORY / args.output_dir).resolve()
    results: dict[str, dict[str, list[float]]] = {}
    for noise in args.noise:
        results[str(noise)] = {count: [] for count in COUNTS}
        for seed in args.seeds:
            tasks = make_export(
                groups, tasks=args.tasks, annotators=args.annotators, noise=noise, seed=seed
            )
            folder = output / f"noise_{noise:g}" / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / "export.json"
            file.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
            for number, count in enumerate(COUNTS):
                accuracy = measure_accuracy(args, file, count, folder / f"run_{number}", seed)
                results[str(noise)][count].append(accuracy)
                print(f"noise {noise:g}, seed {seed}, {count}: {accuracy:.4f}", flush=True)
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_table(results)


def print_table(results: dict[str, dict[str, list[float]]]) -> None:
    """Print the mean accuracy over seeds, and its difference to majority on the same votes."""
    for noise, counts in results.items():
        for count, values in counts.items():
            gains = [a - b for a, b in zip(values, counts["majority"], strict=True)]
            print(
                f"noise {noise}: {count}: {statistics.mean(values):.4f}, "
                f"over majority {statistics.mean(gains):+.4f} "
                f"[{', '.join(f'{gain:+.4f}' for gain in gains)}]"
            )


if __name__ == "__main__":
    main()
