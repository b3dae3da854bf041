"""Runs many stage programs in one process a rank, since each start costs ten seconds.

Every cell is the stage's own `main` with flags of its own: it joins the other ranks, trains,
publishes and leaves. What no file of a run tells is noted on the way, in `record.<rank>.json`.

python -m tests.stages.matrix CELLS.json     with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from tests.stages.spies import Patches
from training.hybrid_engine.engine import HybridEngine
from training.launching.processes import find_free_port
from training.models import cpu_blocks, lm_head
from training.runtime.engine import TrainingEngine
from training.trainers.ppo import setup as ppo_setup
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.ppo.setup import Models
from training.trainers.reward import setup as reward_setup
from training.trainers.reward.step import RewardTrainer


def local_weights(module: nn.Module) -> list[Tensor]:
    """What this rank stores of each parameter: the whole of it, or under ZeRO-3 its shard."""
    return [getattr(p, "ds_tensor", p.data) for p in module.parameters()]


def snapshot(module: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in local_weights(module)]


def is_unchanged(module: nn.Module, before: list[Tensor]) -> bool:
    return all(map(torch.equal, local_weights(module), before))


def stored_share(module: nn.Module) -> float:
    """Numbers that this rank holds between steps, as a share of the model's."""
    whole = sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
    shards = sum(weight.numel() for weight in local_weights(module))
    gathered = sum(p.numel() for p in module.parameters() if hasattr(p, "ds_tensor"))
    return (shards + gathered) / whole


class Notes:
    """What one cell shows besides its files."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"generations": [], "rollouts": [], "blocks": 0}
        self._engines: list[nn.Module] = []
        self._before: list[tuple[str, nn.Module, list[Tensor]]] = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        with Patches() as patch:
            patch.around(HybridEngine, "generation", self._generation)
            patch.around(RolloutCollector, "collect", self._collect)
            patch.around(RewardTrainer, "evaluate", self._evaluate)
            patch.around(TrainingEngine, "__init__", self._engine)
            patch.around(cpu_blocks, "_compute", self._block)
            patch.around(reward_setup, "save_normalized", self._save_normalized)
            patch.around(ppo_setup, "load_models", self._models)
            yield
        self.record["stored"] = [stored_share(module) for module in self._engines]
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
        self.record["rollouts"].append(
            {
                "prompts": rollout.prompts,
                "responses": rollout.responses,
                "scores": rollout.scores.tolist(),
            }
        )
        return rollout

    def _evaluate(self, original: Callable[..., Any], trainer: Any, groups: Any) -> Any:
        metrics = original(trainer, groups)
        self.record["pairs"] = [
            (group.source, scores[pair.chosen] - scores[pair.rejected])
            for group, scores in zip(groups, trainer.scores, strict=True)
            for pair in group.pairs
        ]
        return metrics

    def _save_normalized(
        self, original: Callable[..., Any], engine: Any, own: Any, *inputs: Any
    ) -> None:
        self.record["own"] = list(zip(own.prompts, own.responses, strict=True))
        original(engine, own, *inputs)

    def _engine(self, original: Callable[..., Any], engine: Any, *inputs: Any) -> None:
        original(engine, *inputs)
        self._engines.append(engine.module)
        blocks = (m for m in engine.module.modules() if isinstance(m, GPT2Block))
        next(blocks).ln_1.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.record["blocks"] += 1  # of a block that `transformers` computes

    def _block(self, original: Callable[..., Any], block: Any, *inputs: Any, **options: Any) -> Any:
        self.record["blocks"] += block.attn.layer_idx == 0  # of one that we compute
        return original(block, *inputs, **options)

    def _models(self, original: Callable[..., Any], *inputs: Any) -> Models:
        models: Models = original(*inputs)
        for name in ("actor", "critic", "ref", "reward_model"):
            model = getattr(models, name)
            if model is None:
                continue  # a shared trunk
            module = model.module if isinstance(model, TrainingEngine) else model
            self._before.append((name, module, snapshot(module)))
        return models


def agreed_port(file: Path) -> int:
    """A port that rank 0 finds free and tells the others through a file."""
    if os.environ["RANK"] == "0":
        staging = Path(f"{file}.new")
        staging.write_text(str(find_free_port()))
        staging.replace(file)
    wait_for(file)
    return int(file.read_text())


def wait_for(file: Path) -> None:
    """Until another process has made it."""
    while not file.exists():
        time.sleep(0.05)


def run(program: str, flags: list[str], output: Path, needs: list[Path], logit_chunk: int) -> None:
    """One cell: the program's own `main`, and a record beside what it wrote."""
    for folder in needs:
        wait_for(folder / "complete.json")
    sys.argv = [f"{program}/main.py", "--output_dir", str(output), *flags]
    os.environ["MASTER_PORT"] = str(agreed_port(Path(f"{output}.port")))
    lm_head.LOGIT_CHUNK = logit_chunk
    notes = Notes()
    with notes.taken():
        importlib.import_module(f"{program}.main").main()
    (output / f"record.{os.environ['RANK']}.json").write_text(json.dumps(notes.record))


def main() -> None:
    torch.set_num_threads(1)
    for program, flags, output, needs, logit_chunk in json.loads(Path(sys.argv[1]).read_text()):
        run(program, flags, Path(output), [Path(folder) for folder in needs], logit_chunk)


if __name__ == "__main__":
    main()
