"""Report the evaluations of stage 2: evaluation.json, report.html, TensorBoard, a few lines.

Scores of held-out responses are those that each evaluation has made anyway. All ranks have them;
rank 0 alone computes and writes.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.arguments.reward import RewardArgs
from training.data.encode import EncodedGroup
from training.data.stages import Split
from training.evaluation.report import read_metrics
from training.evaluation.reward_model import accuracy
from training.evaluation.reward_model.baselines import learn_length_rule
from training.evaluation.reward_model.held_out_pairs import held_out_pairs
from training.evaluation.reward_model.page import write_reward_page
from training.evaluation.reward_model.warnings import list_warnings
from training.evaluation.statistics import Floats
from training.models.tokenizers import Tokenizer
from training.runtime.distributed import World
from training.runtime.metrics import MetricLogger, write_json

logger = logging.getLogger(__name__)

FILE, PAGE_FILE = "evaluation.json", "report.html"

Scores = Sequence[Sequence[float]]  # by group and response


class RewardRun:
    """Follows the evaluations of one run; what it writes is about the model that is kept."""

    def __init__(
        self,
        args: RewardArgs,
        world: World,
        log: MetricLogger,
        data: Split[EncodedGroup],
        tokenizer: Tokenizer,
    ) -> None:
        self._args, self._world, self._log = args, world, log
        self._data, self._tokenizer = data, tokenizer
        self._held = held_out_pairs(data.held_out if world.is_main else [])
        self._step = 0
        self._scores: Floats | None = None  # of the latest evaluation
        self._kept: tuple[int, Floats] | None = None  # of the model in --output_dir
        self._drift: list[dict[str, float]] = []
        self.report: accuracy.Report = {}  # empty on ranks above 0

    def add(self, step: int, scores: Scores) -> dict[str, float]:
        """Take note of an evaluation; what to log of it."""
        if not self._world.is_main:
            return {}
        before, self._step = self._scores, step
        self._scores = self._held.flat(scores)
        metrics = accuracy.compute_metrics(self._held, self._scores, before, seed=self._args.seed)
        self._drift.append({"step": step, **metrics})
        difference = self._held.difference(self._scores)
        if np.isfinite(difference).all():
            self._log.log_histogram(step, "score/eval_difference", difference)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the evaluations so far, for a checkpoint."""
        step, kept = self._kept or (0, None)
        return {
            "step": self._step,
            "scores": None if self._scores is None else self._scores.tolist(),
            "kept_step": step,
            "kept": None if kept is None else kept.tolist(),
            "drift": self._drift,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._step, self._drift = state["step"], state["drift"]
        if state["scores"] is not None:
            self._scores = np.array(state["scores"])
        if state["kept"] is not None:
            self._kept = state["kept_step"], np.array(state["kept"])

    def save(self, folder: Path) -> None:
        """evaluation.json of the model that has just been saved in `folder`, if it was."""
        if not self._world.is_main:
            return
        report: accuracy.Report = {"all": {"pairs": 0, "accuracy": None, "interval": None}}
        if self._scores is not None:
            difference = self._held.difference(self._scores)
            report = accuracy.report_accuracy(self._held, difference, seed=self._args.seed)
            if folder == Path(self._args.output_dir):
                self._kept = self._step, self._scores
        if folder.is_dir():  # a run whose weights are not kept has no last/
            write_json(self._world, folder / FILE, report)

    def finish(self) -> None:
        """Judge the kept model, and write and log all there is to say."""
        if not self._world.is_main:
            return
        args, report = self._args, self._judge()
        report["shuffled_labels"] = args.shuffle_labels
        report["drift"] = self._drift
        report["warnings"] = list_warnings(report)
        self.report = report
        folder = Path(args.output_dir)
        write_json(self._world, folder / FILE, report)
        worst = [self._decode_texts(pair) for pair in report.get("worst", ())]
        metrics = read_metrics(folder / "metrics.jsonl")
        write_reward_page(report, worst, metrics, folder / PAGE_FILE)
        self._log.log_text("warnings", "\n\n".join(w["text"] for w in report["warnings"]) or "none")
        if "calibration" in report:
            self._log.log_text("reliability", _format_reliability(report))

    def log_summary(self) -> None:
        """Log the outcome for a terminal."""
        if not self._world.is_main:
            return
        for line in summarize(self.report):
            logger.info(line)
        logger.info("report: %s", Path(self._args.output_dir) / PAGE_FILE)

    def _judge(self) -> accuracy.Report:
        if self._kept is None:
            return {"all": {"pairs": 0, "accuracy": None, "interval": None}}
        step, scores = self._kept
        if not np.isfinite(scores).all() or not self._held.is_decided.any():
            difference = self._held.difference(scores)
            return {
                "step": step,
                **accuracy.report_accuracy(self._held, difference, seed=self._args.seed),
            }
        rule = learn_length_rule(self._data.train)
        return {
            "step": step,
            **accuracy.build_report(self._held, scores, rule, seed=self._args.seed),
        }

    def _decode_texts(self, pair: dict[str, Any]) -> dict[str, Any]:
        """The words of one of the worst pairs."""
        groups, decode = self._data.held_out, self._tokenizer.decode
        (group, better), (other, worse) = pair["better"], pair["worse"]
        sides = {"better": groups[group].response_ids[better],
                 "worse": groups[other].response_ids[worse]}  # fmt: skip
        texts = {side: decode(ids, skip_special_tokens=True) for side, ids in sides.items()}
        return {**pair, **texts, "prompt": decode(groups[group].prompt_ids)}


def summarize(report: accuracy.Report) -> list[str]:
    """Accuracy beside its baselines in a line or two, then the warnings."""
    lines = []
    if report["all"]["pairs"]:
        low, high = report["all"]["interval"]
        lines.append(
            f"held-out accuracy {report['all']['accuracy']:.1%} [{low:.1%}, {high:.1%}] "
            f"of {report['all']['pairs']} comparisons"
        )
    if "calibration" in report:
        calibration, baselines = report["calibration"], report["baselines"]
        (low, high), rule = baselines["chance"]["interval"], baselines["length"]
        lines.append(
            f"luck gives {low:.1%} to {high:.1%}, always the {rule['prefers']} response "
            f"{rule['accuracy']:.1%}; calibration error {calibration['ece']:.3f}, Brier score "
            f"{calibration['brier']:.3f}"
        )
    return lines + [f"warning: {warning['text']}" for warning in report["warnings"]]


def _format_reliability(report: accuracy.Report) -> str:
    """The reliability diagram as the Markdown that TensorBoard shows."""
    rows = [
        f"| {part['confidence']:.3f} | {part['agreement']:.3f} | {part['pairs']} |"
        for part in report["calibration"]["bins"]
    ]
    return "\n".join(["| the model's chance | people who agree | comparisons |",
                      "| --- | --- | --- |", *rows])  # fmt: skip
