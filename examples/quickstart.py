"""Run a whole example: data, pretraining, the three stages, and a judged evaluation.

bash quickstart.sh [--example chinese_reviews] [--base smollm2] [--smoke] [--controls] [--seed N]
    [--output_dir DIR]
"""

import json
import logging
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from examples.chinese_reviews.recipe import RECIPES as CHINESE
from examples.common.programs import run
from examples.common.recipe import NO_KL_PPO, SHUFFLED_REWARD, TINY_MODEL, Base, Recipe
from examples.movie_reviews.recipe import RECIPES as MOVIES
from examples.movie_reviews.smollm2 import FOLDER as SMOLLM2_FOLDER
from training.arguments.common import check_can_write
from training.arguments.parsing import arg, parse_args, require
from training.paths import REPOSITORY, cache_dir

logger = logging.getLogger("quickstart")

RECIPES: dict[str, dict[tuple[Base, bool], Recipe]] = {
    "movie_reviews": MOVIES,
    "chinese_reviews": CHINESE,
}
LABELS = {"shuffled": "reward model of shuffled labels", "no_kl": "PPO without the KL penalty"}


@dataclass(frozen=True, kw_only=True)
class QuickstartArgs:
    """Flags of quickstart.sh."""

    example: Literal["movie_reviews", "chinese_reviews"] = arg(
        "movie_reviews", "English film reviews, or Chinese ones of books, hotels and computers."
    )
    base: Base = arg(
        "tiny", "Model: a tiny GPT-2 pretrained here, or SmolLM2-135M with LoRA (readable text)."
    )
    smoke: bool = arg(False, "A small version of the run: two minutes, worse text.")
    controls: bool = arg(False, "Also run PPO with shuffled labels and PPO without KL.")
    seed: int = arg(0, "Seed of the whole pipeline (the split of the data stays the same).")
    output_dir: str = arg("", "Folder of the run; default: one under output/.")

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must not be negative, got {self.seed}")
        if self.output_dir:
            check_can_write(self, "output_dir")
        require(
            (self.base, self.smoke) in RECIPES[self.example],
            f"--base {self.base} does not know Chinese; leave out --base or --example",
        )

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.example][self.base, self.smoke]


class Pipeline:
    """Runs the stages one after the other, each as its own program, and times them."""

    def __init__(self, args: QuickstartArgs) -> None:
        self.recipe = args.recipe
        self.task = self.recipe.task
        self.seed = args.seed
        default = REPOSITORY / "output" / self.task.output
        self.output = Path(args.output_dir or default).resolve()
        self.is_tiny = self.recipe.base == "tiny"
        self.data = f"example:{self.recipe.example}"
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        smoke = ["--smoke"] if self.recipe.example.endswith("smoke") else []
        self._run("data", [sys.executable, f"{self.task.folder}/prepare.py", *smoke])
        if not self.is_tiny:
            self._run("model", [sys.executable, "examples/movie_reviews/smollm2.py"])

    def pretrain(self) -> None:
        """Pretrain a tiny GPT-2: the base of the stages, or beside a real base the reader."""
        name, folder = ("pretrain", "base") if self.is_tiny else ("reader", "reader")
        prepared = shlex.quote(str(cache_dir() / self.recipe.example / "tokenizer"))
        tokenizer = self.task.tokenizer or f"--tokenizer_name_or_path {prepared}"
        flags = f"--init_from_scratch {TINY_MODEL} {tokenizer}"
        self._run_stage(name, "step1_sft", folder, f"{self.recipe.pretrain} {flags}")

    def sft(self) -> None:
        base = self.output / "base" if self.is_tiny else cache_dir() / SMOLLM2_FOLDER
        flags = f"{self.recipe.sft} --model_name_or_path {shlex.quote(str(base))}"
        self._run_stage("sft", "step1_sft", "step1_sft", flags)

    def reward(self, folder: str = "step2_reward", extra: str = "") -> None:
        backbone = shlex.quote(str(self.output / "step1_sft"))
        flags = f"{self.recipe.reward} --model_name_or_path {backbone} {extra}"
        self._run_stage(folder, "step2_reward", folder, flags)

    def ppo(
        self, folder: str = "step3_ppo", reward_model: str = "step2_reward", extra: str = ""
    ) -> None:
        actor = shlex.quote(str(self.output / "step1_sft"))
        reward = shlex.quote(str(self.output / reward_model))
        paths = f"--actor_model_name_or_path {actor} --reward_model_name_or_path {reward}"
        self._run_stage(folder, "step3_ppo", folder, f"{self.recipe.ppo} {paths} {extra}")

    def evaluate(
        self, policy: str = "step3_ppo", folder: str = ".", best_of: bool = True
    ) -> dict[str, Any]:
        """Compare a policy with SFT on test prompts; returns evaluate.py's summary."""
        ns = self.recipe.best_of if best_of else ()
        reader = () if self.is_tiny else (
            *("--reader_model_name_or_path", str(self.output / "reader")),
            *("--human_path", self.data),
        )  # fmt: skip
        command = [
            sys.executable,
            "step3_ppo/evaluate.py",
            *("--before", str(self.output / "step1_sft"), "--after", str(self.output / policy)),
            *("--labels", "SFT", "PPO", "--title", self.task.title),
            *("--data_path", self.data, "--split", "test", "--group_by", self.task.group_by),
            *("--max_prompts", str(self.recipe.test_prompts), "--max_new_tokens", "40"),
            *("--generation_batch_size", "512"),
            *("--reward_model_name_or_path", str(self.output / "step2_reward")),
            *("--comparisons_path", self.data, *(("--best_of", *ns) if ns else ())),
            *reader,
            *("--judge", f"{self.task.folder}/judge.py", self.recipe.example),
            *("--judge_text", "prompt_and_response"),
            *("--judge_text_after", self.task.judge_text_after),
            *("--kl_target", str(self.recipe.kl_target)),
            *("--notes", self.task.notes),
            *("--seed", str(self.seed), "--output_dir", str(self.output / folder)),
        ]
        self._run("evaluate" if folder == "." else f"evaluate {policy}", command)
        summary: dict[str, Any] = json.loads(
            (self.output / folder / "summary.json").read_text(encoding="utf-8")
        )
        return summary

    def _run_stage(self, name: str, program: str, folder: str, flags: str) -> None:
        command = [
            "bash",
            f"{program}/run.sh",
            *("--data_path", self.data, "--zero_stage", "0", "--resume", "none"),
            *("--output_dir", str(self.output / folder), "--seed", str(self.seed)),
            *shlex.split(flags),
        ]
        self._run(name, command)

    def _run(self, name: str, command: list[str]) -> None:
        logger.info("\n== %s: %s", name, shlex.join(command))
        started = time.monotonic()
        status = run(command)
        self.seconds[name] = round(time.monotonic() - started, 1)
        if status:
            logger.error("quickstart: %s ended with status %d; its message is above", name, status)
            raise SystemExit(status)


def main() -> None:
    args = parse_args(QuickstartArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    pipeline = Pipeline(args)
    pipeline.prepare()
    pipeline.pretrain()
    pipeline.sft()
    pipeline.reward()
    pipeline.ppo()
    summary = pipeline.evaluate()
    summary["seconds"] = {**pipeline.seconds, "total": round(sum(pipeline.seconds.values()), 1)}
    if args.controls:
        summary["controls"] = run_controls(pipeline)
    target = pipeline.output / "summary.json"
    target.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    logger.info("\nseconds: %s", json.dumps(summary["seconds"]))
    logger.info("report:  %s", pipeline.output / "report.html")


def run_controls(pipeline: Pipeline) -> dict[str, Any]:
    """Run PPO against a reward model of shuffled labels, and PPO without the KL penalty.

    The first must not win over SFT, and the text of the second should break down.
    """
    pipeline.reward("controls/shuffled_reward", SHUFFLED_REWARD)
    pipeline.ppo("controls/shuffled_ppo", "controls/shuffled_reward")
    pipeline.ppo("controls/no_kl_ppo", "step2_reward", NO_KL_PPO)
    results = {}
    for name, label in LABELS.items():
        logger.info("\ncontrol: %s", label)
        folder = f"controls/{name}"
        results[name] = pipeline.evaluate(f"controls/{name}_ppo", folder, best_of=False)
    return results


if __name__ == "__main__":
    main()
