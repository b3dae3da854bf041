"""Signs that a PPO run goes wrong, out of its metrics; each says which flag to change. Pure.

A history is the metrics of the steps so far, the first steps and the latest ones at least.
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
Alarm = Callable[[History, PPOArgs], str | None]  # what, figures, which flag; None: all is well

FIRST, LATEST = 3, 3  # steps whose mean is where a run began, and where it is
QUIET = 5  # steps without it after which an alarm is over, and may be said again

MAX_KL_RATIO = 3.0  # to --kl_target
MIN_ENTROPY_SHARE = 0.3  # of the first steps'
MAX_LENGTH_RATIO = 2.0  # either way, of the first steps'
MAX_CLIPPED = 0.5  # share of scores at --score_clip
MIN_SPREAD_SHARE = 0.05  # of the first steps' standard deviation of scores
MIN_SPREAD = 1e-3

WATCHED = (
    *("kl/ref", "policy/entropy", "response/eos_rate", "response/length", "score/clip_fraction"),
    *("score/std", "eval/score/mean", "eval/judge/mean", "eval/judge/error"),
)
KEPT = ("_first", "_latest", "_evaluations", "_silent_for", "raised")  # in a checkpoint


def kl_far_over_target(history: History, args: PPOArgs) -> str | None:
    """The policy has left ref by far more than was wanted."""
    kl = _latest(history, "kl/ref")
    if not kl > MAX_KL_RATIO * args.kl_target:
        return None
    flags = (
        f"raise --kl_coef (now {args.kl_coef:g}) or set --kl_controller adaptive"
        if args.kl_controller == "fixed"
        else f"lower --kl_horizon (now {args.kl_horizon:g})"
    )
    return (
        f"KL to ref is {kl:.1f} nats, over {MAX_KL_RATIO:g} x --kl_target {args.kl_target:g}: "
        f"{flags}, or lower --actor_lr (now {args.actor_lr:g})"
    )


def entropy_collapse(history: History, args: PPOArgs) -> str | None:
    """The policy says the same thing over and over."""
    first, now = _first(history, "policy/entropy"), _latest(history, "policy/entropy")
    if not now < MIN_ENTROPY_SHARE * first:
        return None
    return (
        f"entropy fell from {first:.2f} to {now:.2f} nats a token: the responses grow alike; raise "
        f"--kl_coef (now {args.kl_coef:g}), or lower --actor_lr (now {args.actor_lr:g}) or "
        f"--ppo_epochs (now {args.ppo_epochs})"
    )


def no_eos(history: History, args: PPOArgs) -> str | None:
    """No response of the latest batch ended by itself."""
    if not history or history[-1].get("response/eos_rate") != 0.0:
        return None
    return (
        f"no response of the batch ended within --max_new_tokens {args.max_new_tokens}: raise it, "
        "train stage 1 on whole responses, or set --missing_eos subtract with a larger "
        f"--missing_eos_penalty (now --missing_eos {args.missing_eos}, "
        f"{args.missing_eos_penalty:g})"
    )


def length_drift(history: History, args: PPOArgs) -> str | None:
    """Responses have become much longer or shorter: a score that is won by length."""
    first, now = _first(history, "response/length"), _latest(history, "response/length")
    if not (now > MAX_LENGTH_RATIO * first or now * MAX_LENGTH_RATIO < first):
        return None
    return (
        f"responses went from {first:.1f} to {now:.1f} tokens: does the reward model score length? "
        "(stage 2's report.html shows it); balance the comparisons, or raise --kl_coef (now "
        f"{args.kl_coef:g})"
    )


def saturated_scores(history: History, args: PPOArgs) -> str | None:
    """The reward model no longer tells responses apart, or the clip hides what it tells."""
    clipped = _latest(history, "score/clip_fraction")
    if clipped > MAX_CLIPPED:
        return (
            f"{100 * clipped:.0f} % of the scores lie beyond --score_clip {args.score_clip:g} and "
            "count the same: raise it, or set it to 0"
        )
    first, now = _first(history, "score/std"), _latest(history, "score/std")
    if not now < max(MIN_SPREAD_SHARE * first, MIN_SPREAD):
        return None
    return (
        f"the standard deviation of the scores fell from {first:.3g} to {now:.3g}: the reward "
        "model finds nothing left to prefer; stop earlier (--max_steps), raise --kl_coef (now "
        f"{args.kl_coef:g}), or train stage 2 on responses of this policy"
    )


def judge_falls_while_score_rises(history: History, args: PPOArgs) -> str | None:
    """Held-out responses please the reward model more and the judge less: over-optimisation."""
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
    "kl": kl_far_over_target,
    "entropy": entropy_collapse,
    "no_eos": no_eos,
    "length": length_drift,
    "scores": saturated_scores,
    "judge": judge_falls_while_score_rises,
}


class AlarmBell:
    """Says each alarm once an episode: again only after `QUIET` steps without it.

    `judge` scores the texts of held-out responses, if the run has one.
    """

    def __init__(self, args: PPOArgs, judge: Judge | None) -> None:
        self._args = args
        self._judge = judge
        self._first: list[dict[str, float]] = []
        self._latest: list[dict[str, float]] = []
        self._evaluations: list[dict[str, float]] = []
        self._silent_for: dict[str, int] = {}  # of the alarms that are on
        self.raised: dict[str, list[int]] = {}  # steps at which each began

    def step(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Look at a training step; `alarm/NAME` 1 for each alarm that holds now."""
        row = _watched(metrics)
        if len(self._first) < FIRST:
            self._first.append(row)
        else:
            self._latest = [*self._latest, row][-LATEST:]
        names = [name for name in ALARMS if name != "judge"]
        return self._look(step, names, [*self._first, *self._latest])

    def evaluation(
        self, step: int, metrics: Mapping[str, float], texts: Sequence[str]
    ) -> dict[str, float]:
        """Look at an evaluation on held-out prompts: the judge's opinion, and its alarm."""
        if self._judge is None:
            return {}
        try:
            scores = torch.tensor(list(self._judge(texts)), dtype=torch.float64)
        except UserError as error:  # it only watches: nothing that was learned is given up for it
            logger.warning("step %d: not judged: %s", step, error)
            return {}
        judged = {
            "eval/judge/mean": scores.mean().item(),
            "eval/judge/error": (scores.std(correction=0) / len(scores) ** 0.5).item(),
        }
        self._evaluations.append(_watched({**metrics, **judged}))
        return {**judged, **self._look(step, ["judge"], self._evaluations)}

    def state_dict(self) -> dict[str, Any]:
        """What `restore` needs to go on from here."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in KEPT:
            setattr(self, name, state[name])

    def summary(self) -> list[str]:
        """One line for each alarm that there was."""
        return [
            f"alarm {name}: raised at step {', '.join(map(str, steps))}"
            for name, steps in self.raised.items()
        ]

    def _look(self, step: int, names: Iterable[str], history: History) -> dict[str, float]:
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


def _watched(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in WATCHED if name in metrics}


def _has(row: Mapping[str, float], name: str) -> bool:
    return math.isfinite(row.get(name, math.nan))


def _mean(rows: History, name: str) -> float:
    """The mean of a metric over the rows that have it; NaN, of which no bound holds, if none."""
    values = [row[name] for row in rows if _has(row, name)]
    return sum(values) / len(values) if values else math.nan


def _first(history: History, name: str) -> float:
    return _mean(history[:FIRST], name)


def _latest(history: History, name: str) -> float:
    return _mean(history[-LATEST:], name)
