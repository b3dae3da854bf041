"""What a run writes about itself: metrics.jsonl, samples.jsonl, TensorBoard, lines or a bar.

Rank 0 alone writes; on the other ranks every call does nothing.
"""

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime.distributed import World

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float]

# The metrics of a printed line, in order; each stage has some of them.
SHOWN = (
    "loss/train",
    "accuracy/train",
    "loss/eval",
    "perplexity/eval",
    "accuracy/eval",
    "score/mean",
    "kl/ref",
    "kl/coef",
    "policy/entropy",
    "response/length",
    "response/eos_rate",
    "eval/score/mean",
    "eval/kl/ref",
    "eval/response/length",
    "speed/tokens_per_s",
    "speed/pairs_per_s",
    "speed/roofline",
)


class MetricLogger:
    """Opens the run's files in `output_dir` and closes them at the end of the `with` block."""

    def __init__(self, args: CommonArgs, world: World, *, total_steps: int) -> None:
        self._is_main = world.is_main
        self._total = total_steps
        self._every = args.log_every
        self._started = time.monotonic()
        if not self._is_main:
            return
        folder = prepare_output(args)
        from torch.utils.tensorboard import SummaryWriter

        self._metrics: IO[str] = (folder / "metrics.jsonl").open("w", encoding="utf-8")
        self._samples: IO[str] = (folder / "samples.jsonl").open("w", encoding="utf-8")
        self._board: Any = SummaryWriter(str(folder / "tensorboard"))
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_main:
            return
        for open_file in (self._metrics, self._samples, self._board):
            open_file.close()
        if self._bar is not None:
            self._bar.close()

    def log(self, step: int, metrics: Metrics, *, always_show: bool = False) -> None:
        """Record the metrics of `step`; a printed line every --log_every steps."""
        if not self._is_main:
            return
        row = {"step": step, "time": round(time.monotonic() - self._started, 3), **metrics}
        # JSON has no NaN: a reader gets null instead of a file that it cannot parse.
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        self._metrics.write(json.dumps(clean) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if always_show or step % self._every == 0 or step in (1, self._total):
            self._show(step, metrics)

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append examples (prompt, response, score, ...) to samples.jsonl."""
        if not self._is_main:
            return
        for row in rows:
            self._samples.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")
        self._samples.flush()

    def histogram(self, step: int, name: str, values: Any) -> None:
        """A distribution for TensorBoard alone."""
        if self._is_main:
            self._board.add_histogram(name, values, step)

    def text(self, name: str, markdown: str) -> None:
        """Words for TensorBoard alone."""
        if self._is_main:
            self._board.add_text(name, markdown)

    def _show(self, step: int, metrics: Metrics) -> None:
        fields = [f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics]
        elapsed = time.monotonic() - self._started
        left = elapsed / max(step, 1) * max(self._total - step, 0)
        line = f"step {step}/{self._total}  {'  '.join(fields)}  left {left:.0f} s"
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            logger.info(line)


def prepare_output(args: CommonArgs) -> Path:
    """Make `output_dir`, write args.json, and take away an earlier run's completion marker."""
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "complete.json").unlink(missing_ok=True)
        for adapter in (folder / "adapter", folder / "last/adapter", folder / "critic/adapter"):
            if (adapter / "adapter_config.json").is_file():
                shutil.rmtree(adapter)  # of an earlier run with LoRA; this one may have none
        text = json.dumps(asdict(args), indent=2)
        (folder / "args.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir: {folder} cannot be written: {error.strerror}") from error
    return folder


def write_json(world: World, path: Path, content: Mapping[str, Any]) -> None:
    """Let rank 0 write a small JSON file."""
    if world.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
