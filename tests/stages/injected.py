"""Runs stages in which a number turns bad on the last rank, and records the weights after it.

python -m tests.stages.injected CELLS.json     with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set
"""

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.stages.matrix import agree_on_port, local_weights
from tests.stages.spies import Patches
from training.inference import ResponseForwards
from training.runtime.engine import TrainingEngine
from training.trainers.guards import Guard, SkipStep
from training.trainers.ppo import learners as ppo_learners
from training.trainers.ppo.metrics import UpdateSums
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.ppo.update import PPOTrainer
from training.trainers.reward import step as reward_step
from training.trainers.reward.step import RewardTrainer
from training.trainers.sft import step as sft_step
from training.trainers.sft.step import SFTTrainer

NAN = math.nan
BAD_PARAMETER = "h.1.mlp.c_proj.weight"


def optimizer_state(engine: TrainingEngine) -> list[Tensor]:
    """Copy this rank's optimizer state, step counts included."""
    optimizer = engine._engine.optimizer
    parts = getattr(optimizer, "parts", [getattr(optimizer, "optimizer", optimizer)])
    return [
        value.clone()
        for part in parts
        for state in part.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def everything(engine: TrainingEngine) -> list[Tensor]:
    weights = [weight.detach().clone() for weight in local_weights(engine.module)]
    return weights + optimizer_state(engine)


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    """Bit by bit: NaN equals NaN of the same bits."""
    pairs = zip(before, after, strict=True)
    return all(
        torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in ((x.reshape(-1), y.reshape(-1)) for x, y in pairs)
    )


class Cell:
    """One run: which reading goes bad, from the `first` time on that it is made, how often."""

    def __init__(self, kind: str, first: int, times: int) -> None:
        self.kind, self.first, self.times = kind, first, times
        self.record: dict[str, Any] = {"faults": [], "unchanged": [], "status": 0}
        self.is_last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
        self._count = 0
        self._armed = False
        self._engines: list[TrainingEngine] = []

    def is_due(self) -> bool:
        """True if numbers turn bad now; call once per time."""
        self._count += 1
        return self.first <= self._count < self.first + self.times and self.is_last

    def is_armed(self) -> bool:
        """True at the first reading of a due step of stage 1 or 2."""
        was_armed, self._armed = self._armed, False
        return was_armed

    def _arm(self, original: Callable[..., Any], *inputs: Any) -> Any:
        self._armed = self.is_due()
        return original(*inputs)

    @contextmanager
    def injected(self) -> Iterator[None]:
        with Patches() as patch:
            patch.around(TrainingEngine, "__init__", self._keep)
            patch.around(Guard, "skip", self._skip)
            for module in (sft_step, reward_step, ppo_learners):
                patch.around(module, "step_together", self._watch)
            getattr(self, f"_{self.kind}")(patch)
            yield

    def _keep(self, original: Callable[..., Any], engine: Any, *inputs: Any) -> None:
        original(engine, *inputs)
        self._engines.append(engine)

    def _skip(self, original: Callable[..., Any], guard: Any, name: str, fault: Any) -> None:
        self.record["faults"].append(f"{name}: {fault}")
        original(guard, name, fault)

    def _watch(self, original: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        before = [everything(engine) for engine in self._engines]
        try:
            return original(*inputs, **options)
        except SkipStep:
            after = [everything(engine) for engine in self._engines]
            self.record["unchanged"].append(all(map(same, before, after)))
            raise

    # Kinds of injection.

    def _none(self, patch: Patches) -> None:
        """Nothing goes bad."""

    def _left_out(self, patch: Patches) -> None:
        """The batch of step `first` is not in the data at all."""

        def batches(original: Callable[..., Any], trainer: Any, epoch: int) -> Any:
            whole = original(trainer, epoch)
            return whole[: self.first - 1] + whole[self.first :]

        patch.around(SFTTrainer, "batches", batches)

    def _gradient(self, patch: Patches) -> None:
        """One entry of one gradient, in the last micro-batch, of the first engine."""

        def backward(original: Callable[..., Any], engine: Any, loss: Any, *, last: bool) -> None:
            handle = None
            if engine is self._engines[0] and last and self.is_due():
                named = dict(engine.module.named_parameters())
                parameter = next(p for n, p in named.items() if n.endswith(BAD_PARAMETER))

                def spoil(gradient: Tensor) -> Tensor:
                    bad = gradient.clone()
                    bad.view(-1)[5] = NAN
                    return bad

                handle = parameter.register_hook(spoil)
            original(engine, loss, last=last)
            if handle is not None:
                handle.remove()

        patch.around(TrainingEngine, "backward", backward)

    def _weight(self, patch: Patches) -> None:
        """One weight, just before a step's forwards."""

        def spoil(original: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
            if self.is_due():
                weights = local_weights(self._engines[0].module)
                next(w for w in weights if w.numel()).view(-1)[0] = NAN
            return original(*inputs, **options)

        patch.around(SFTTrainer, "step", spoil)
        patch.around(RolloutCollector, "collect", spoil)

    def _loss(self, patch: Patches) -> None:
        def cross_entropy(original: Callable[..., Any], *inputs: Any) -> Any:
            return original(*inputs) * (NAN if self.is_armed() else 1.0)

        patch.around(SFTTrainer, "step", self._arm)
        patch.around(sft_step, "cross_entropy", cross_entropy)

        def compute_metrics(original: Callable[..., Any], sums: UpdateSums, *inputs: Any) -> Any:
            if self.is_due():
                sums._sums[4] = math.inf
            return original(sums, *inputs)

        patch.around(UpdateSums, "compute_metrics", compute_metrics)

    def _logprob(self, patch: Patches) -> None:
        def summed_loss(original: Callable[..., Any], *inputs: Any) -> Any:
            loss, logprobs = original(*inputs)
            if self.is_armed():
                logprobs = logprobs.clone()
                logprobs[0] = NAN
                loss = loss * NAN
            return loss, logprobs

        patch.around(SFTTrainer, "step", self._arm)
        patch.around(SFTTrainer, "_sum_loss", summed_loss)

        def read_old_policy(original: Callable[..., Any], *inputs: Any) -> Any:
            logprobs, entropies, values = original(*inputs)
            if self.is_due():
                logprobs[0, 0] = NAN
            return logprobs, entropies, values

        patch.around(RolloutCollector, "_read_old_policy", read_old_policy)

    def _value(self, patch: Patches) -> None:
        def read_old_policy(original: Callable[..., Any], *inputs: Any) -> Any:
            logprobs, entropies, values = original(*inputs)
            if self.is_due():
                values[0, 0] = NAN
            return logprobs, entropies, values

        patch.around(RolloutCollector, "_read_old_policy", read_old_policy)

    def _score(self, patch: Patches) -> None:
        def scores(original: Callable[..., Any], *inputs: Any) -> Any:
            found = original(*inputs)
            if self.is_armed():
                found = found.clone()
                found[0] = found[0] * NAN
            return found

        patch.around(RewardTrainer, "step", self._arm)
        patch.around(RewardTrainer, "_compute_scores", scores)

        def rollout_scores(original: Callable[..., Any], *inputs: Any) -> Any:
            found = original(*inputs)
            if self.is_due():
                found[0] = NAN
            return found

        patch.around(ResponseForwards, "compute_scores", rollout_scores)


def watch_updates(cell: Cell, patch: Patches) -> None:
    """A rollout that is refused must leave everything as it was."""

    def update(original: Callable[..., Any], trainer: Any, *inputs: Any) -> Any:
        before = [everything(engine) for engine in cell._engines]
        faults = len(cell.record["faults"])
        try:
            metrics = original(trainer, *inputs)
        finally:
            if len(cell.record["faults"]) > faults and cell.kind != "gradient":
                after = [everything(engine) for engine in cell._engines]
                cell.record["unchanged"].append(all(map(same, before, after)))
        return metrics

    if cell.kind in ("score", "logprob", "value", "weight"):
        patch.around(PPOTrainer, "update", update)


def run(program: str, flags: list[str], output: Path, injection: tuple[str, int, int]) -> None:
    """One cell: the program's own `main`, and a record beside what it wrote."""
    sys.argv = [f"{program}/main.py", "--output_dir", str(output), *flags]
    os.environ["MASTER_PORT"] = str(agree_on_port(output.with_suffix(".port")))
    cell = Cell(*injection)
    with cell.injected(), Patches() as patch:
        watch_updates(cell, patch)
        try:
            importlib.import_module(f"{program}.main").main()
        except SystemExit as end:
            cell.record["status"] = end.code
    (output / f"record.{os.environ['RANK']}.json").write_text(json.dumps(cell.record))


def main() -> None:
    torch.set_num_threads(1)
    for program, flags, output, injection in json.loads(Path(sys.argv[1]).read_text()):
        run(program, flags, Path(output), injection)


if __name__ == "__main__":
    main()
