"""Signs that a PPO run goes wrong, from its metrics; each names the flag to change. Pure.

A history holds metrics of the first steps and of the latest ones.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.judge import Judge

logger = logging.getLogger(__name__)

History = Sequence[Mapping[str, float]]
Alarm = Callable[[History, PPOArgs], str | None]  # a message with figures and flags, or None

FIRST, LATEST = 3, 3  # steps whose means are compared: where a run began, and where it is
QUIET = 5  # steps without it after which an alarm is over, and may be logged again

MAX_KL_RATIO = 3.0  # to --kl_target
MIN_ENTROPY_RATIO = 0.3  # to the first steps
MAX_LENGTH_RATIO = 2.0  # to the first steps, either way
MAX_CLIPPED = 0.5  # fraction of scores at --score_clip
MIN_SPREAD_RATIO = 0.05  # of the scores' standard deviation to the first steps'
MIN_SPREAD = 1e-3

WATCHED = (
    *("kl/ref", "policy/entropy", "response/eos_rate", "response/length", "score/clip_fraction"),
    *("score/std", "eval/score/mean", "eval/judge/mean", "eval/judge/error"),
)
KEPT = ("_first", "_latest", "_evaluations", "_silent_for", "raised")  # in a checkpoint


def detect_high_kl(history: History, args: PPOArgs) -> str | None:
    """Detect a policy that has left ref by far more than --kl_target."""
    kl = _compare_ends(history, "kl/ref")[1]
    if not kl > MAX_KL_RATIO * args.kl_target:
        return None
    flags = f"raise --kl_coef (now {args.kl_coef:g}) or set --kl_controller adaptive"
    if args.kl_controller == "adaptive":
        flags = f"lower --kl_horizon (now {args.kl_horizon:g})"
    return (
        f"KL to ref is {kl:.1f} nats, over {MAX_KL_RATIO:g} x --kl_target {args.kl_target:g}: "
        f"{flags}, or lower --actor_lr (now {args.actor_lr:g})"
    )


def detect_entropy_collapse(history: History, args: PPOArgs) -> str | None:
    """Detect a policy that repeats itself."""
    first, now = _compare_ends(history, "policy/entropy")
    if not now < MIN_ENTROPY_RATIO * first:
        return None
    return (
        f"entropy fell from {first:.2f} to {now:.2f} nats a token: the responses grow alike; raise "
        f"--kl_coef (now {args.kl_coef:g}), or lower --actor_lr (now {args.actor_lr:g}) or "
        f"--ppo_epochs (now {args.ppo_epochs})"
    )


def detect_missing_eos(history: History, args: PPOArgs) -> str | None:
    """Detect a batch of which no response ended with EOS."""
    if not history or history[-1].get("response/eos_rate") != 0.0:
        return None
    return (
        f"no response of the batch ended within --max_new_tokens {args.max_new_tokens}: raise it, "
        "train stage 1 on whole responses, or set --missing_eos subtract with a larger "
        f"--missing_eos_penalty (now --missing_eos {args.missing_eos}, "
        f"{args.missing_eos_penalty:g})"
    )


def detect_length_drift(history: History, args: PPOArgs) -> str | None:
    """Detect responses that became much longer or shorter: a score may be won by length."""
    first, now = _compare_ends(history, "response/length")
    if not (now > MAX_LENGTH_RATIO * first or now * MAX_LENGTH_RATIO < first):
        return None
    return (
        f"responses went from {first:.1f} to {now:.1f} tokens: does the reward model score length? "
        "(stage 2's report.html shows it); balance the comparisons, or raise --kl_coef (now "
        f"{args.kl_coef:g})"
    )


def detect_saturated_scores(history: History, args: PPOArgs) -> str | None:
    """Detect scores that the clip or the reward model itself makes all alike."""
    clipped = _compare_ends(history, "score/clip_fraction")[1]
    if clipped > MAX_CLIPPED:
        return (
            f"{100 * clipped:.0f} % of the scores are beyond --score_clip {args.score_clip:g} and "
            "count the same: raise it, or set it to 0"
        )
    first, now = _compare_ends(history, "score/std")
    if not now < max(MIN_SPREAD_RATIO * first, MIN_SPREAD):
        return None
    return (
        f"the standard deviation of the scores fell from {first:.3g} to {now:.3g}: the reward "
        "model finds nothing left to prefer; stop earlier (--max_steps), raise --kl_coef (now "
        f"{args.kl_coef:g}), or train stage 2 on responses of this policy"
    )


def detect_overoptimization(history: History, args: PPOArgs) -> str | None:
    """Detect over-optimisation: on held-out prompts the score rises and the judge falls."""
    both = [row for row in history if _has(row, "eval/judge/mean") and _has(row, "eval/score/mean")]
    if len(both) < 2:
        return None
    best = max(both, key=lambda row: row["eval/judge/mean"])
    now = both[-1]
    fell = best["eval/judge/mean"] - now["eval/judge/mean"]
    rose = now["eval/score/mean"] - best["eval/score/mean"]
    # Two standard errors of the difference of means, as the judge's own spread gives them.
    noise = 2.0 * math.hypot(best.get("eval/judge/error", 0.0), now.get("eval/judge/error", 0.0))
    if not (fell > noise and rose > 0.0):
        return None
    return (
        f"the judge fell from {best['eval/judge/mean']:.3g} to {now['eval/judge/mean']:.3g} while "
        f"the score rose by {rose:.3g}: the reward model is being exploited; stop earlier "
        f"(--max_steps), raise --kl_coef (now {args.kl_coef:g}), or train stage 2 on responses of "
        "this policy"
    )


ALARMS: Mapping[str, Alarm] = {
    "kl": detect_high_kl,
    "entropy": detect_entropy_collapse,
    "no_eos": detect_missing_eos,
    "length": detect_length_drift,
    "scores": detect_saturated_scores,
    "judge": detect_overoptimization,
}


class AlarmBell:
    """Logs each alarm once, and again only after `QUIET` steps without it.

    `judge` scores the texts of held-out responses, if the run has one.
    """

    def __init__(self, args: PPOArgs, judge: Judge | None) -> None:
        self._args = args
        self._judge = judge
        self._first: list[dict[str, float]] = []
        self._latest: list[dict[str, float]] = []
        self._evaluations: list[dict[str, float]] = []
        self._silent_for: dict[str, int] = {}  # steps since each active alarm held last
        self.raised: dict[str, list[int]] = {}  # steps at which each began

    def check_step(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Check a training step; returns `alarm/NAME` 1 for each alarm that holds now."""
        row = _select_watched(metrics)
        if len(self._first) < FIRST:
            self._first.append(row)
        else:
            self._latest = [*self._latest, row][-LATEST:]
        names = [name for name in ALARMS if name != "judge"]
        return self._check(step, names, [*self._first, *self._latest])

    def check_evaluation(
        self, step: int, metrics: Mapping[str, float], texts: Sequence[str]
    ) -> dict[str, float]:
        """Check an evaluation on held-out prompts; returns the judge's mean, error and alarm."""
        if self._judge is None:
            return {}
        try:
            scores = torch.tensor(list(self._judge(texts)), dtype=torch.float64)
        except UserError as error:  # it only watches, so the run continues
            logger.warning("step %d: not judged: %s", step, error)
            return {}
        judged = {
            "eval/judge/mean": scores.mean().item(),
            "eval/judge/error": (scores.std(correction=0) / len(scores) ** 0.5).item(),
        }
        self._evaluations.append(_select_watched({**metrics, **judged}))
        return {**judged, **self._check(step, ["judge"], self._evaluations)}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in KEPT:
            setattr(self, name, state[name])

    def summarize(self) -> list[str]:
        """One line for each alarm that was raised."""
        return [
            f"alarm {name}: raised at step {', '.join(map(str, steps))}"
            for name, steps in self.raised.items()
        ]

    def _check(self, step: int, names: Iterable[str], history: History) -> dict[str, float]:
        metrics = {}
        for name in names:
            text = ALARMS[name](history, self._args)
            if text is None:
                if name in self._silent_for:
                    self._silent_for[name] += 1
                    if self._silent_for[name] >= QUIET:
                        del self._silent_for[name]
                continue
            if name not in self._silent_for:
                self.raised.setdefault(name, []).append(step)
                logger.info("warning: step %d: alarm %s: %s", step, name, text)
            self._silent_for[name] = 0
            metrics[f"alarm/{name}"] = 1.0
        return metrics


def _select_watched(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in WATCHED if name in metrics}


def _has(row: Mapping[str, float], name: str) -> bool:
    return math.isfinite(row.get(name, math.nan))


def _compare_ends(history: History, name: str) -> tuple[float, float]:
    """Means of a metric over the first and the latest steps; NaN, beyond no bound, if none."""
    means = []
    for rows in (history[:FIRST], history[-LATEST:]):
        values = [row[name] for row in rows if _has(row, name)]
        means.append(sum(values) / len(values) if values else math.nan)
    return means[0], means[1]
