"""Write a run's metrics.jsonl, samples.jsonl, TensorBoard files, and log lines or progress bar.

Rank 0 writes; on other ranks every call does nothing. Timings go to timing.jsonl, so that the
other files are equal byte for byte however often a run is stopped and resumed.
"""

import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime.checkpoint_store import FOLDER as CHECKPOINTS
from training.runtime.checkpoint_store import CheckpointStore
from training.runtime.distributed import World
from training.runtime.publish import COMPLETE_FILE, STOPPED_FILE
from training.runtime.resume import Checkpoint

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float]
LOG = "log"  # key of `MetricLogger.state_dict` in a checkpoint
FILES, ELAPSED = "files", "elapsed_s"  # keys of that state

# Metrics of a log line, in order; each stage has some of them.
SHOWN = (
    *("loss/train", "accuracy/train", "loss/eval", "perplexity/eval", "accuracy/eval"),
    *("score/mean", "kl/ref", "kl/coef", "policy/entropy", "response/length", "response/eos_rate"),
    *("eval/score/mean", "eval/kl/ref", "eval/response/length"),
    *("speed/tokens_per_s", "speed/pairs_per_s", "speed/roofline"),
)
# Written line by line, and truncated to a checkpoint's size when a run resumes from it.
METRICS, TIMING, SAMPLES = JSON_LINES = ("metrics.jsonl", "timing.jsonl", "samples.jsonl")
CLOCK = ("time/", "speed/")  # prefixes of metrics that are timings


class JsonLines:
    """Appends rows to a file; those that do not fit on a full disk wait in memory for room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._waiting = b""  # what could not be written so far

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the waiting rows and this one. Logs the first of several failures."""
        failed_before = bool(self._waiting)
        self._waiting += json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._waiting = self._waiting[written or 0 :]
        except OSError as error:
            if not failed_before:
                logger.error(
                    "%s: a line was not written: %s; the run continues, and tries again with the "
                    "next", self._path, error,
                )  # fmt: skip

    def sync(self) -> int:
        """Sync the file and return its size in bytes, waiting rows included."""
        with suppress(OSError):  # `write` logs it
            os.fsync(self._file.fileno())
        return self._file.tell() + len(self._waiting)

    def close(self) -> None:
        self._file.close()
        if self._waiting:
            logger.error("%s: its last %d bytes are lost", self._path, len(self._waiting))


class MetricLogger:
    """Opens the run's files in `output_dir`, and closes them at the end of the `with` block."""

    def __init__(
        self, args: CommonArgs, world: World, total_steps: int, checkpoint: Checkpoint | None = None
    ) -> None:
        self._is_main = world.is_main
        self._total = total_steps
        self._every = args.log_every
        self._first_step = checkpoint.step if checkpoint else 0
        # Seconds of earlier launches.
        self._before: float = checkpoint.progress[LOG][ELAPSED] if checkpoint else 0.0
        self._started = time.monotonic()
        if not self._is_main:
            return
        folder = _prepare_output(args, checkpoint)
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self._files = {name: JsonLines(folder / name) for name in JSON_LINES}
        purge = checkpoint.step + 1 if checkpoint else None
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        self._bar = tqdm(
            total=total_steps,
            initial=self._first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_main:
            return
        for file in self._files.values():
            file.close()
        self._write_board(lambda board: board.close())
        self._bar.close()

    def log(self, step: int, metrics: Metrics, *, always_show: bool = False) -> None:
        """Record the metrics of `step`, and log a line every --log_every steps."""
        if not self._is_main:
            return
        # JSON has no NaN.
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()
        }
        timing = {key: value for key, value in clean.items() if key.startswith(CLOCK)}
        kept = {key: value for key, value in clean.items() if key not in timing}
        self._files[METRICS].write({"step": step, **kept})
        self._files[TIMING].write({"step": step, "time": round(self._elapsed, 3), **timing})

        def add(board: Any) -> None:
            for name, value in metrics.items():
                board.add_scalar(name, value, step)

        self._write_board(add)
        self._bar.update(step - self._bar.n)
        if always_show or step % self._every == 0 or step in (1, self._total):
            self._show(step, metrics)

    def log_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append examples (prompt, response, score, ...) to samples.jsonl."""
        if not self._is_main:
            return
        for row in rows:
            self._files[SAMPLES].write({"step": step, **row})

    def state_dict(self) -> dict[str, Any]:
        """Sync the files and return their sizes, for a checkpoint."""
        if not self._is_main:
            return {}
        self._write_board(lambda board: board.flush())
        sizes = {name: file.sync() for name, file in self._files.items()}
        return {FILES: sizes, ELAPSED: self._elapsed}

    @property
    def _elapsed(self) -> float:
        return self._before + time.monotonic() - self._started

    def _write_board(self, change: Callable[[Any], None]) -> None:
        """Write to TensorBoard until an error: its writer cannot recover from a full disk."""
        if self._board is None:
            return
        try:
            change(self._board)
        except OSError as error:
            logger.error("TensorBoard's file cannot be written and ends here: %s", error)
            self._board = None

    def log_histogram(self, step: int, name: str, values: Any) -> None:
        """Write a distribution to TensorBoard."""
        if self._is_main:
            self._write_board(lambda board: board.add_histogram(name, values, step))

    def log_text(self, name: str, markdown: str) -> None:
        """Write text to TensorBoard."""
        if self._is_main:
            self._write_board(lambda board: board.add_text(name, markdown))

    def _show(self, step: int, metrics: Metrics) -> None:
        fields = [f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics]
        elapsed = time.monotonic() - self._started
        left = elapsed / max(step - self._first_step, 1) * max(self._total - step, 0)
        line = f"step {step}/{self._total}  {'  '.join(fields)}  left {left:.0f} s"
        if self._bar.disable:
            logger.info(line)
        else:
            self._bar.write(line, file=sys.stdout)


def _prepare_output(args: CommonArgs, checkpoint: Checkpoint | None) -> Path:
    """Make `output_dir`, write args.json, and remove what another run left there.

    A resumed run keeps its files up to `checkpoint`, and removes later checkpoints and lines.
    """
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if checkpoint is not None and checkpoint.is_in(folder):
            CheckpointStore(folder, keep=1).remove_newer(checkpoint.folder)
        else:
            _clear_output(folder)
        for marker in (COMPLETE_FILE, STOPPED_FILE):
            (folder / marker).unlink(missing_ok=True)
        for name in JSON_LINES:
            _truncate(folder / name, checkpoint)
        text = json.dumps(asdict(args), indent=2)
        (folder / "args.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir: {folder} cannot be written: {error.strerror}") from error
    return folder


def _clear_output(folder: Path) -> None:
    """Remove checkpoints and adapters of another run; the rename makes checkpoints go at once."""
    removed = folder / ".removed"
    shutil.rmtree(removed, ignore_errors=True)
    if (folder / CHECKPOINTS).is_dir():
        (folder / CHECKPOINTS).rename(removed)
    for adapter in (folder / "adapter", folder / "last/adapter", folder / "critic/adapter"):
        if (adapter / "adapter_config.json").is_file():
            shutil.rmtree(adapter)  # this run may have none
    shutil.rmtree(removed, ignore_errors=True)


def _truncate(file: Path, checkpoint: Checkpoint | None) -> None:
    """Cut the file to its size at the checkpoint; to nothing if the run starts from scratch."""
    size = checkpoint.progress[LOG][FILES][file.name] if checkpoint else 0
    source = checkpoint.output_dir / file.name if checkpoint else file
    kept = b""
    if size:
        with source.open("rb") as opened:
            kept = opened.read(size)
    if len(kept) != size:
        logger.warning("%s: lines before the checkpoint are missing", source)
    staging = file.with_suffix(".tmp")
    staging.write_bytes(kept)
    staging.replace(file)


def write_json(world: World, path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file on rank 0."""
    if world.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
