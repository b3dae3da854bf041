"""Which checkpoint a run goes on from, and whether its flags let it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime.checkpoint_store import FOLDER, CheckpointStore, damage, step_of
from training.runtime.distributed import World
from training.runtime.fingerprint import compute_input_fingerprints
from training.runtime.publish import COMPLETE_FILE

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
RANKS = "ranks"
# Where state lies and who adds up what: the same sums in another order. A checkpoint knows nothing
# of it, nor do data, draws of a rollout and schedules.
LAYOUT = (RANKS, "zero_stage", "offload_optimizer", "offload_param")
# Flags that change nothing of what is computed.
FREE_FLAGS = (
    "output_dir",
    "log_every",
    "profile_step",
    "timeout_minutes",
    "host_timeout_minutes",
    "local_rank",
    "resume",
    "allow_changed_settings",
    "self_check",
    "dry_run",
    "dry_run_ranks",
    "data_cache",
    "max_skipped_steps",
    "save_every",
    "save_minutes",
    "keep_checkpoints",
    "keep_best",
    "best_metric",
)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, and what its state.json says."""

    folder: Path
    step: int
    progress: Mapping[str, Any]  # of the loop: what `CheckpointSaver.save` was given
    world_size: int
    origin: str = ""  # the folder of a --resume FOLDER that this run began from

    @property
    def output_dir(self) -> Path:
        """Of the run that wrote it."""
        return self.folder.parents[1]

    def is_in(self, output_dir: str | Path) -> bool:
        """Whether it is of that folder's run."""
        return self.output_dir.resolve() == Path(output_dir).resolve()


def find_checkpoint(args: CommonArgs, world: World) -> Checkpoint | None:
    """What --resume says to go on from; None to start anew. Rank 0 looks, all ranks agree.

    Raises `UserError` for flags that are not those of its run, and where no checkpoint is whole.
    """
    found: Checkpoint | None = None
    mistake = ""
    if world.is_main:
        try:
            found = _find(args, world)
        except UserError as error:
            mistake = str(error)
    found, mistake = world.broadcast((found, mistake))
    if mistake:
        raise UserError(mistake)
    if found is not None:
        logger.info("going on after step %d: %s", found.step, found.folder)
    return found


def _find(args: CommonArgs, world: World) -> Checkpoint | None:
    folder = _folder(args)
    if folder is None:
        return None
    state = _state(folder)
    _check_settings(args, world, state, folder)
    return Checkpoint(
        folder, state["step"], state["progress"], state["world_size"], _origin(args, state)
    )


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return state


def _origin(args: CommonArgs, state: Mapping[str, Any]) -> str:
    if args.resume == "auto":
        return str(state["origin"])
    return str(Path(args.resume).expanduser().resolve())


def _folder(args: CommonArgs) -> Path | None:
    """The folder to go on from, every file of it checked."""
    if args.resume == "none":
        return None
    if args.resume != "auto":
        return _own(args) or _named(Path(args.resume).expanduser().resolve())
    if (Path(args.output_dir) / COMPLETE_FILE).is_file():
        return None  # it is finished; the same command makes it anew
    return _newest(Path(args.output_dir), flag="--output_dir")


def _own(args: CommonArgs) -> Path | None:
    """The newest of this output_dir, where its unfinished run began from the same --resume."""
    output = Path(args.output_dir)
    if (output / COMPLETE_FILE).is_file():
        return None
    found = CheckpointStore(output, keep=1).newest().folder
    origin = str(Path(args.resume).expanduser().resolve())
    return found if found is not None and _state(found)["origin"] == origin else None


def _named(path: Path) -> Path:
    if (path / FOLDER).is_dir():  # an output_dir
        found = _newest(path, flag="--resume")
        if found is not None:
            return found
    try:
        step_of(path)
    except ValueError as error:
        raise UserError(
            f"--resume {path}: neither a run's output_dir with checkpoints nor one of them "
            "(checkpoints/step_000100); give one, auto or none"
        ) from error
    problem = damage(path)
    if problem:
        raise UserError(f"--resume {path}: {problem}; give another checkpoint, auto or none")
    return path


def _newest(output_dir: Path, *, flag: str) -> Path | None:
    found = CheckpointStore(output_dir, keep=1).newest()
    for problem in found.problems:
        logger.warning("passed over: %s", problem)
    if found.folder is None and found.problems:
        raise UserError(
            f"{flag} {output_dir}: no checkpoint is whole ({found.problems[0]}); "
            "pass --resume none to start anew"
        )
    return found.folder


def _check_settings(args: CommonArgs, world: World, state: Mapping[str, Any], folder: Path) -> None:
    """The flags that count are those of the run that wrote the checkpoint."""
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
        [_change(name, before.get(name), now.get(name)) for name in changed]
        + [f"--{name} {now[name]} has other content" for name in replaced if name not in changed]
    )
    if listed and not args.allow_changed_settings:
        raise UserError(
            f"{folder} was written by a run with other settings: {listed}; run with the old ones, "
            "or pass --allow_changed_settings to go on with the new ones, or --resume none to "
            "start anew"
        )
    if listed:
        logger.warning("going on with changed settings: %s", listed)
    if layout:
        logger.warning(
            "going on in another layout: %s; %s",
            ", ".join(_change(name, before.get(name), now.get(name)) for name in layout),
            _what_holds(args),
        )


def _what_holds(args: CommonArgs) -> str:
    """Of a run that goes on in another layout: what it has in common with one left alone."""
    if getattr(args, "dropout", 0.0):  # stage 1's alone; -1 is the model's own
        return "the same data and schedule, but dropout, if the model has any, draws anew"
    return "the same run within rounding, not to the last bit"


def _change(name: str, before: Any, now: Any) -> str:
    return f"{'' if name == RANKS else '--'}{name} {_show(before)} -> {_show(now)}"


def _show(value: Any) -> str:
    return "(none)" if value in ("", None, []) else json.dumps(value, ensure_ascii=False)
