"""Flags that all benchmarks share."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.common import check_can_write
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class BenchmarkArgs:
    """What is timed, how often."""

    size: Literal["tiny", "small", "medium"] = arg(
        "small", "GPT-2 of 4 x 256, 12 x 768, 24 x 1024."
    )
    dtype: Literal["auto", "bf16", "fp32"] = arg("auto", "What our matrix products run in.")
    peer_dtype: Literal["bf16", "fp32"] = arg("fp32", "What the peer's weights are cast to.")
    batch: int = arg(16, "Sequences, or pairs, of one step.")
    prompt: int = arg(64, "Tokens of a prompt.")
    answer: int = arg(64, "New tokens of a response; with ragged data, the most.")
    pairs: int = arg(5, "Timed runs of each side, in turn, after one of each that is left out.")
    json: str = arg("", "File for the result; nothing is written without.")

    def __post_init__(self) -> None:
        for name in ("batch", "prompt", "answer", "pairs"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} must be at least 1, got {value}")
        if self.json:
            check_can_write(self, "json", is_file=True)


@dataclass(frozen=True, kw_only=True)
class TrainingBenchmarkArgs(BenchmarkArgs):
    """Of the benchmarks that run a stage beside TRL's trainer."""

    peer: Literal["trl", "none"] = arg("none", "What runs beside ours.")
    micro_batch_tokens: int = arg(4096, "--micro_batch_tokens of the stage.")
