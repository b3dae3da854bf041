"""Runs stages whose launches differ in ranks and ZeRO stage, in one process per rank.

Each launch but the last is stopped in a given optimizer step, and the next one resumes. The
launches of a cell run one after another, by the processes of one rank and of two in turn; a file
beside its folder records that one has ended, and where.

python -m tests.stages.layouts CELLS.json     with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from tests.stages.matrix import wait_for
from tests.stages.spies import Patches
from tests.stages.stops import launch
from training.launching import stopping
from training.runtime.checkpoint_store import CheckpointStore
from training.trainers.guards import Guard
from training.trainers.ppo import loop

ALL_SAMPLES = 1000


class Stop:
    """Asks this rank to stop in that optimizer step; 0 means never."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._count = 0

    def watch(self, patch: Patches) -> None:
        patch.around(Guard, "step", self._step)

    def _step(self, original: Any, *inputs: Any) -> Any:
        self._count += 1
        if self._count == self._at:
            stopping.ask(signal.SIGUSR1)
        return original(*inputs)


def ended(output: Path, number: int) -> Path:
    """Return the file that records the end of a launch."""
    return Path(f"{output}.ended{number}.json")


def tell(output: Path, number: int, status: int) -> None:
    """Record the status of a launch and the progress of its checkpoint."""
    found: dict[str, Any] = {"status": status}
    folder = CheckpointStore(output, keep=1).find_newest()[0]
    if folder is not None:
        state = json.loads((folder / "state.json").read_text())
        found |= {"step": state["step"], "progress": state["progress"]}
    file = ended(output, number)
    staging = file.with_suffix(".new")
    staging.write_text(json.dumps(found))
    staging.replace(file)


def main() -> None:
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    loop.LOGGED_SAMPLES = ALL_SAMPLES
    for cell in json.loads(Path(sys.argv[1]).read_text()):
        output = Path(cell["output"])
        for number, (on, flags, stop_at) in enumerate(cell["launches"]):
            if on != ranks:
                continue
            for folder in cell["needs"]:
                wait_for(Path(folder) / "complete.json")
            if number:
                wait_for(ended(output, number - 1))
            stop = Stop(stop_at if rank == ranks - 1 else 0)
            all_flags = [*cell["flags"], *flags]
            status = launch(cell["program"], all_flags, output, number, stop.watch)
            if rank == 0:
                tell(output, number, status)


if __name__ == "__main__":
    main()
