"""Find the checkpoint to resume from, and check that its run had the same settings."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime.checkpoint_store import FOLDER, CheckpointStore, find_damage, parse_step
from training.runtime.distributed import World
from training.runtime.publish import COMPLETE_FILE

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
RANKS = "ranks"
# Which rank holds and sums what: results differ only by rounding. Checkpoints, data, rollouts and
# schedules do not depend on it.
LAYOUT = (RANKS, "zero_stage", "offload_optimizer", "offload_param")
# Flags that do not change what is computed.
FREE_FLAGS = (
    *("output_dir", "local_rank", "timeout_minutes", "host_timeout_minutes", "data_cache"),
    *("resume", "allow_changed_settings", "save_every", "save_minutes"),
    *("keep_checkpoints", "keep_best", "best_metric", "max_skipped_steps"),
    *("log_every", "profile_step", "self_check", "dry_run", "dry_run_ranks"),
)

# Fingerprints: the files that make up a model; a stage's folder has logs as well.
MODEL = ("*.safetensors", "config.json", "scalar_model.json", "tokenizer*", "vocab*", "merges.txt",
         "*.jinja")  # fmt: skip
DATA = ("*",)
NAMES = ("_path", "_template", "_config", "_scratch")  # endings of flags that name files
WHOLE = 2**26  # bytes; larger files are sampled
SAMPLES, SAMPLE = 256, 2**16


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint: its folder and the content of its state.json."""

    folder: Path
    step: int
    progress: Mapping[str, Any]  # state of the loop, by the names given to `CheckpointSaver`
    world_size: int
    origin: str = ""  # the --resume FOLDER that its run started from

    @property
    def output_dir(self) -> Path:
        """The output_dir of the run that wrote it."""
        return self.folder.parents[1]

    def is_in(self, output_dir: str | Path) -> bool:
        """True if a run in this output_dir wrote it."""
        return self.output_dir.resolve() == Path(output_dir).resolve()


def find_checkpoint(args: CommonArgs, world: World) -> Checkpoint | None:
    """Return the checkpoint that --resume asks for; None to start from scratch.

    Rank 0 looks and all ranks agree. Raises `UserError` if the settings of its run were different,
    and if every checkpoint is damaged.
    """
    checkpoint: Checkpoint | None = None
    mistake = ""
    if world.is_main:
        try:
            folder = _find_folder(args)
            if folder is not None:
                state = _read_state(folder)
                _check_settings(args, world, state, folder)
                is_auto = args.resume == "auto"
                origin = str(state["origin"]) if is_auto else str(_resolve(args.resume))
                checkpoint = Checkpoint(
                    folder, state["step"], state["progress"], state["world_size"], origin
                )
        except UserError as error:
            mistake = str(error)
    checkpoint, mistake = world.broadcast((checkpoint, mistake))
    if mistake:
        raise UserError(mistake)
    if checkpoint is not None:
        logger.info("resuming after step %d: %s", checkpoint.step, checkpoint.folder)
    return checkpoint


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return state


def _resolve(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _find_folder(args: CommonArgs) -> Path | None:
    """Return the folder to resume from, after its checksums were verified."""
    if args.resume == "none":
        return None
    output = Path(args.output_dir)
    is_finished = (output / COMPLETE_FILE).is_file()
    if args.resume == "auto":  # the command of a finished run starts it from scratch
        return None if is_finished else _find_newest(output, flag="--output_dir")
    origin = _resolve(args.resume)
    if not is_finished:  # its run may have started from this --resume FOLDER, and been stopped
        newest, _ = CheckpointStore(output, keep=1).find_newest()
        if newest is not None and _read_state(newest)["origin"] == str(origin):
            return newest
    return _find_named(origin)


def _find_named(path: Path) -> Path:
    if (path / FOLDER).is_dir():  # an output_dir
        newest = _find_newest(path, flag="--resume")
        if newest is not None:
            return newest
    try:
        parse_step(path)
    except ValueError as error:
        raise UserError(
            f"--resume {path}: neither a run's output_dir with checkpoints nor one of them "
            "(checkpoints/step_000100); give one, auto or none"
        ) from error
    problem = find_damage(path)
    if problem:
        raise UserError(f"--resume {path}: {problem}; give another checkpoint, auto or none")
    return path


def _find_newest(output_dir: Path, *, flag: str) -> Path | None:
    newest, problems = CheckpointStore(output_dir, keep=1).find_newest()
    for problem in problems:
        logger.warning("skipped: %s", problem)
    if newest is None and problems:
        raise UserError(
            f"{flag} {output_dir}: no checkpoint is whole ({problems[0]}); "
            "pass --resume none to start over"
        )
    return newest


def _check_settings(args: CommonArgs, world: World, state: Mapping[str, Any], folder: Path) -> None:
    """Compare flags and input files with those of the checkpoint's run."""
    before, now = dict(state["settings"]), json.loads(json.dumps(asdict(args)))
    before[RANKS], now[RANKS] = state["world_size"], world.size
    inputs = compute_input_fingerprints(args)
    replaced = [name for name, digest in state["inputs"].items()
                if name in inputs and inputs[name] != digest]  # fmt: skip
    changed = [
        name
        for name in sorted(before.keys() | now.keys())
        if name not in (*FREE_FLAGS, *LAYOUT) and before.get(name) != now.get(name)
    ]
    layout = [name for name in LAYOUT if before.get(name) != now.get(name)]
    listed = ", ".join(
        [_format_change(name, before.get(name), now.get(name)) for name in changed]
        + [f"--{name} {now[name]} has other content" for name in replaced if name not in changed]
    )
    if listed and not args.allow_changed_settings:
        raise UserError(
            f"{folder} was written by a run with other settings: {listed}; run with the old ones, "
            "or pass --allow_changed_settings to resume with the new ones, or --resume none to "
            "start over"
        )
    if listed:
        logger.warning("resuming with changed settings: %s", listed)
    if layout:
        # Only stage 1 has the flag; -1 is the model's rate.
        has_dropout = bool(getattr(args, "dropout", 0.0))
        logger.warning(
            "resuming in another layout: %s; %s",
            ", ".join(_format_change(name, before.get(name), now.get(name)) for name in layout),
            "the same data and schedule, but dropout, if the model has any, is drawn differently"
            if has_dropout
            else "the same run within rounding, not to the last bit",
        )


def _format_change(name: str, before: Any, now: Any) -> str:
    shown = ["(none)" if value in ("", None, []) else json.dumps(value, ensure_ascii=False)
             for value in (before, now)]  # fmt: skip
    return f"{'' if name == RANKS else '--'}{name} {shown[0]} -> {shown[1]}"


def compute_input_fingerprints(args: CommonArgs) -> dict[str, str]:
    """Return a digest of the files per flag that names some; others are skipped."""
    digests = {}
    for name, value in asdict(args).items():
        is_model = name.endswith("model_name_or_path")
        if not value or not (is_model or name.endswith(NAMES)):
            continue
        paths = [Path(path) for path in (value if isinstance(value, list) else [value])]
        files = [file for path in paths for file in _list_files(path, MODEL if is_model else DATA)]
        if files:
            digests[name] = _compute_digest(files)
    return digests


def _list_files(path: Path, patterns: Iterable[str]) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})


def _compute_digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for index in range(SAMPLES):
                file.seek((size - SAMPLE) * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()
