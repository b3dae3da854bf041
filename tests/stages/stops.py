"""Runs stages that are stopped repeatedly and resumed each time, in one process per rank.

One rank is asked to stop after every so many checks (`check_stop`, each token of generation). A
cell is the flags of a stage, its folder, that number (0 means never), and folders that must be
complete before.

python -m tests.stages.stops CELLS.json     with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set
"""

import importlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.stages.matrix import agree_on_port, wait_for
from tests.stages.spies import Patches
from training.launching import stopping
from training.launching.stopping import STOPPED
from training.runtime.distributed import World

MOST_LAUNCHES = 60


class Looks:
    """Counts this rank's checks while it trains, and asks it to stop at one of them."""

    def __init__(self, stop_at: int) -> None:
        self._stop_at = stop_at
        self._count = 0

    def watch(self, patch: Patches) -> None:
        patch.around(World, "check_stop", self._look)
        patch.around(stopping, "should_stop", self._look)

    def _look(self, original: Any, *inputs: Any) -> Any:
        if stopping.is_training():
            self._count += 1
            if self._count == self._stop_at:
                stopping.ask(signal.SIGUSR1)
        return original(*inputs)


def launch(
    program: str, flags: list[str], output: Path, number: int, watch: Callable[[Patches], None]
) -> int:
    """Run a stage's `main` once, watched. Return its exit status."""
    sys.argv = [f"{program}/main.py", "--output_dir", str(output), *flags]
    os.environ["MASTER_PORT"] = str(agree_on_port(Path(f"{output}.port{number}")))
    stopping._process.phase, stopping._process.asked_by = stopping.LOADING, 0
    with Patches() as patch:
        watch(patch)
        try:
            importlib.import_module(f"{program}.main").main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def main() -> None:
    torch.set_num_threads(1)
    is_asked = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    for program, flags, output, stop_every, needs in json.loads(Path(sys.argv[1]).read_text()):
        for folder in needs:
            wait_for(Path(folder) / "complete.json")
        statuses: list[int] = []
        for number in itertools.count():
            assert number < MOST_LAUNCHES, f"{output}: no progress"
            looks = Looks(stop_every if is_asked else 0)
            statuses.append(launch(program, flags, Path(output), number, looks.watch))
            if statuses[-1] != STOPPED:
                break
        (Path(output) / f"statuses.{os.environ['RANK']}.json").write_text(json.dumps(statuses))


if __name__ == "__main__":
    main()
