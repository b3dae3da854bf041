"""Flags that all benchmarks share."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.common import check_can_write
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class BenchmarkArgs:
    """Flags of all benchmarks: the work to time, and how often."""

    size: Literal["tiny", "small", "medium"] = arg(
        "small", "GPT-2 of 4 x 256, 12 x 768, 24 x 1024."
    )
    dtype: Literal["auto", "bf16", "fp32"] = arg("auto", "Data type of our matrix products.")
    peer_dtype: Literal["bf16", "fp32"] = arg("fp32", "Data type of the peer's weights.")
    batch: int = arg(16, "Sequences, or pairs, per step.")
    prompt: int = arg(64, "Tokens of a prompt.")
    answer: int = arg(64, "New tokens of a response; with ragged data, the maximum.")
    pairs: int = arg(5, "Timed runs of each side, in turn, after an untimed run of each.")
    json: str = arg("", "File for the result; default: none is written.")

    def __post_init__(self) -> None:
        for name in ("batch", "prompt", "answer", "pairs"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} must be at least 1, got {value}")
        if self.json:
            check_can_write(self, "json", is_file=True)


@dataclass(frozen=True, kw_only=True)
class TrainingBenchmarkArgs(BenchmarkArgs):
    """Flags of the benchmarks that run a stage beside TRL's trainer."""

    peer: Literal["trl", "none"] = arg("none", "The trainer to compare with.")
    micro_batch_tokens: int = arg(4096, "--micro_batch_tokens of the stage.")


@dataclass(frozen=True, kw_only=True)
class RaggedBenchmarkArgs(TrainingBenchmarkArgs):
    """Flags of the benchmarks on sequences of random lengths, from --shortest to --answer."""

    answer: int = arg(256, "Tokens of the longest sequence, prompt included.")
    shortest: int = arg(32, "Tokens of the shortest sequence, prompt included.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.prompt < self.shortest <= self.answer,
            "--prompt must be below --shortest, and that at most --answer; got "
            f"{self.prompt}, {self.shortest}, {self.answer}",
        )
