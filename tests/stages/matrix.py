"""Runs many stage programs in one process a rank, since each start costs ten seconds.

Every cell is the stage's own `main` with flags of its own: it joins the other ranks, trains,
publishes and leaves. What no file of a run tells is noted on the way, in `record.<rank>.json`.

python -m tests.stages.matrix CELLS.json     with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.stages.spies import Patches
from training.data.encode import EncodedPrompt
from training.hybrid_engine.engine import HybridEngine
from training.runtime.engine import TrainingEngine
from training.trainers import ppo_loop, ppo_setup
from training.trainers.ppo_setup import Models
from training.trainers.reward import RewardTrainer
from training.trainers.rollout import RolloutCollector

Record = dict[str, Any]


def local_weights(module: nn.Module) -> list[Tensor]:
    """What this rank stores of each parameter: the whole of it, or under ZeRO-3 its shard."""
    return [getattr(p, "ds_tensor", p.data) for p in module.parameters()]


def snapshot(module: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in local_weights(module)]


def is_unchanged(module: nn.Module, before: list[Tensor]) -> bool:
    return all(map(torch.equal, local_weights(module), before))


def stored_share(module: nn.Module) -> float:
    """Numbers that this rank stores between steps, as a share of the model's."""
    whole = sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
    stored = sum(weight.numel() for weight in local_weights(module))
    loose = sum(p.numel() for p in module.parameters() if hasattr(p, "ds_tensor"))
    return (stored + loose) / whole


class Notes:
    """What one cell shows besides its files."""

    def __init__(self, scored: Path | None) -> None:
        self.record: Record = {"generations": [], "rollouts": [], "scored": [], "blocks": 0}
        self._scored = scored
        self._before: list[tuple[str, nn.Module, list[Tensor]]] = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        with Patches() as patch:
            patch.around(HybridEngine, "generation", self._generation)
            patch.around(RolloutCollector, "collect", self._collect)
            patch.around(RewardTrainer, "_scores", self._evaluated)
            patch.around(TrainingEngine, "__init__", self._engine)
            patch.around(ppo_setup, "load_models", self._models)
            patch.around(ppo_loop, "run_ppo", self._ppo)
            yield
        self.record["unchanged"] = {
            name: is_unchanged(module, before) for name, module, before in self._before
        }

    @contextmanager
    def _generation(self, original: Callable[..., Any], hybrid: Any) -> Iterator[Any]:
        before = snapshot(hybrid._lm)
        with original(hybrid) as generate:
            yield generate
        self.record["generations"].append(is_unchanged(hybrid._lm, before))

    def _collect(self, original: Callable[..., Any], *inputs: Any) -> Any:
        rollout = original(*inputs)
        step = {"responses": rollout.responses, "scores": rollout.scores.tolist()}
        self.record["rollouts"].append(step)
        return rollout

    def _evaluated(self, original: Callable[..., Any], trainer: Any, model: Any, groups: Any) -> Any:
        """Stage 2's evaluation: each response with its score before normalisation."""
        scores = original(trainer, model, groups)
        if groups and not torch.is_grad_enabled():
            rows = [(group.prompt_ids, ids) for group in groups for ids in group.response_ids]
            self.record["scored"] += [
                [*row, score] for row, score in zip(rows, scores.tolist(), strict=True)
            ]
        return scores

    def _engine(self, original: Callable[..., Any], engine: Any, *inputs: Any) -> None:
        original(engine, *inputs)
        self.record["stored_share"] = stored_share(engine.module)
        block = next(m for m in engine.module.modules() if type(m).__name__ == "GPT2Block")
        block.register_forward_hook(self._count_block)

    def _count_block(self, *_: Any) -> None:
        self.record["blocks"] += 1

    def _models(self, original: Callable[..., Any], *inputs: Any) -> Models:
        models: Models = original(*inputs)
        for name in ("actor", "critic", "ref", "reward_model"):
            model = getattr(models, name)
            module = model.module if isinstance(model, TrainingEngine) else model
            self._before.append((name, module, snapshot(module)))
        return models

    def _ppo(self, original: Callable[..., Any], *inputs: Any) -> None:
        """Before PPO starts: the scores of what stage 2 scored, read as a rollout is."""
        collector = next(part for part in inputs if isinstance(part, RolloutCollector))
        if self._scored is not None:
            rows = json.loads(self._scored.read_text())["scored"]
            jobs = [(EncodedPrompt(0, prompt, "", {}), 0) for prompt, _, _ in rows]
            read = collector._read(jobs, [response for _, response, _ in rows])
            self.record["scored"] = [
                [*row[:2], score] for row, score in zip(rows, read.scores.tolist(), strict=True)
            ]
        original(*inputs)


def run(cell: dict[str, Any]) -> None:
    """One cell: the program's own `main`, and its record beside what it wrote."""
    sys.argv = [f"{cell['program']}/main.py", *cell["flags"]]
    os.environ["MASTER_PORT"] = str(cell["port"])
    scored = cell.get("scored")
    notes = Notes(Path(scored) if scored else None)
    with notes.taken():
        importlib.import_module(f"{cell['program']}.main").main()
    output = Path(cell["flags"][cell["flags"].index("--output_dir") + 1])
    (output / f"record.{os.environ['RANK']}.json").write_text(json.dumps(notes.record))


def main() -> None:
    torch.set_num_threads(1)
    for cell in json.loads(Path(sys.argv[1]).read_text()):
        run(cell)


if __name__ == "__main__":
    main()
