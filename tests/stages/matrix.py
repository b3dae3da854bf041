"""Runs many stage programs in one process per rank, since each start costs ten seconds.

Every cell is a call of the stage's `main`: it joins the other ranks, trains, publishes and leaves.
What no file of a run holds is noted on the way, in `record.<rank>.json`.

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
    """Each parameter as this rank stores it: whole, or under ZeRO-3 a shard."""
    return [getattr(p, "ds_tensor", p.data) for p in module.parameters()]


def copy_weights(module: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in local_weights(module)]


def is_unchanged(module: nn.Module, before: list[Tensor]) -> bool:
    return all(map(torch.equal, local_weights(module), before))


def compute_stored_fraction(module: nn.Module) -> float:
    """Fraction of the model's parameters that this rank holds between steps."""
    whole = sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
    shards = sum(weight.numel() for weight in local_weights(module))
    gathered = sum(p.numel() for p in module.parameters() if hasattr(p, "ds_tensor"))
    return (shards + gathered) / whole


class Notes:
    """Values of one cell that its files do not hold."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"generations": [], "rollouts": [], "blocks": 0}
        self._engines: list[nn.Module] = []
        self._before: list[tuple[str, nn.Module, list[Tensor]]] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        with Patches() as patch:
            patch.around(HybridEngine, "generation", self._compare_generation)
            patch.around(RolloutCollector, "collect", self._collect)
            patch.around(RewardTrainer, "evaluate", self._evaluate)
            patch.around(TrainingEngine, "__init__", self._keep_engine)
            patch.around(cpu_blocks, "_compute", self._count_our_block)
            patch.around(reward_setup, "save_normalized", self._save_normalized)
            patch.around(ppo_setup, "load_models", self._load_models)
            yield
        self.record["stored"] = [compute_stored_fraction(module) for module in self._engines]
        self.record["unchanged"] = {
            name: is_unchanged(module, before) for name, module, before in self._before
        }

    @contextmanager
    def _compare_generation(self, original: Callable[..., Any], hybrid: Any) -> Iterator[Any]:
        before = copy_weights(hybrid._lm)
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
        self, original: Callable[..., Any], engine: Any, samples: Any, *inputs: Any
    ) -> None:
        self.record["samples"] = list(zip(*samples, strict=True))
        original(engine, samples, *inputs)

    def _keep_engine(self, original: Callable[..., Any], engine: Any, *inputs: Any) -> None:
        original(engine, *inputs)
        self._engines.append(engine.module)
        blocks = (m for m in engine.module.modules() if isinstance(m, GPT2Block))
        next(blocks).ln_1.register_forward_pre_hook(self._count_block)

    def _count_block(self, *_: Any) -> None:
        self.record["blocks"] += 1  # of a block that `transformers` computes

    def _count_our_block(
        self, original: Callable[..., Any], block: Any, *inputs: Any, **options: Any
    ) -> Any:
        self.record["blocks"] += block.attn.layer_idx == 0  # of one that we compute
        return original(block, *inputs, **options)

    def _load_models(self, original: Callable[..., Any], *inputs: Any) -> Models:
        models: Models = original(*inputs)
        for name in ("actor", "critic", "ref", "reward_model"):
            model = getattr(models, name)
            if model is None:
                continue  # a shared trunk
            module = model.module if isinstance(model, TrainingEngine) else model
            self._before.append((name, module, copy_weights(module)))
        return models


def agree_on_port(file: Path) -> int:
    """Return a port that rank 0 finds free and passes to the others through a file."""
    if os.environ["RANK"] == "0":
        staging = Path(f"{file}.new")
        staging.write_text(str(find_free_port()))
        staging.replace(file)
    wait_for(file)
    return int(file.read_text())


def wait_for(file: Path) -> None:
    """Return once another process has made it."""
    while not file.exists():
        time.sleep(0.05)


def run(program: str, flags: list[str], output: Path, needs: list[Path], logit_chunk: int) -> None:
    """Call the program's `main`, then write a record beside its files."""
    for folder in needs:
        wait_for(folder / "complete.json")
    sys.argv = [f"{program}/main.py", "--output_dir", str(output), *flags]
    os.environ["MASTER_PORT"] = str(agree_on_port(Path(f"{output}.port")))
    lm_head.LOGIT_CHUNK = logit_chunk
    notes = Notes()
    with notes.watch():
        importlib.import_module(f"{program}.main").main()
    (output / f"record.{os.environ['RANK']}.json").write_text(json.dumps(notes.record))


def main() -> None:
    torch.set_num_threads(1)
    for program, flags, output, needs, logit_chunk in json.loads(Path(sys.argv[1]).read_text()):
        run(program, flags, Path(output), [Path(folder) for folder in needs], logit_chunk)


if __name__ == "__main__":
    main()
