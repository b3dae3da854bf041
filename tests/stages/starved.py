"""Run a stage whose address space is limited as soon as a phase begins.

python -m tests.stages.starved PHASE PROGRAM [flags]
"""

import importlib
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stages.spies import Patches
from training.hybrid_engine.engine import HybridEngine
from training.trainers.ppo.update import PPOTrainer
from training.trainers.sft import setup as sft_setup
from training.trainers.sft.step import SFTTrainer

ROOM = 32 * 2**20  # bytes beyond what the process has

BEGINNINGS: dict[str, tuple[Any, str]] = {
    "load": (sft_setup, "load_starting_model"),
    "generate": (HybridEngine, "_generate"),
    "train": (SFTTrainer, "step"),
    "update": (PPOTrainer, "update"),
}


def close(original: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    status = Path("/proc/self/status").read_text()
    used = int(re.findall(r"VmSize:\s+(\d+) kB", status)[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    return original(*inputs, **options)


def main() -> None:
    phase, program = sys.argv[1:3]
    sys.argv = [f"{program}/main.py", *sys.argv[3:]]
    with Patches() as patch:
        patch.around(*BEGINNINGS[phase], close)
        importlib.import_module(f"{program}.main").main()


if __name__ == "__main__":
    main()
