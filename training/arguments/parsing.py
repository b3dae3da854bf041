"""Flags to frozen dataclasses: one line and exit status 2 for whatever the user got wrong.

Nothing here or beside it imports torch or deepspeed: `--help` and a mistyped flag answer at once.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from transformers.hf_argparser import HfArgumentParser

T = TypeVar("T")

# Flags that are gone, and what replaces them.
REMOVED = {
    "--data_size_curve": "the curve is a program of its own now: "
    "python step2_reward/data_size_curve.py --shares 0.1 0.3 1 -- FLAGS OF STAGE 2",
}

USER_MISTAKE = 2  # exit status
GUARD_STOP = 3  # exit status: a guard stopped the run, or a check of --self_check failed
OTHER_RANKS_WAIT = 5.0  # seconds; launchers look for a dead rank every second
INTERRUPTED = 130  # exit status after Ctrl-C, as shells count


class UserError(ValueError):
    """Something the user can mend: flags, files or data. Printed as one line; exit status 2."""


class GuardStop(Exception):  # noqa: N818 (no error of the program)
    """A run that must not go on as it is. Printed as one line; exit status 3.

    `weights_are_finite` says whether its state is worth saving.
    """

    weights_are_finite = False


def arg(default: Any, help: str) -> Any:
    """A dataclass field with a default and the line that `--help` prints for it."""
    metadata = {"help": help}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def exit_with_user_error(program: str, message: str, *, status: int = USER_MISTAKE) -> NoReturn:
    """Print `message` as one line on stderr and exit, with status 2 unless another is given.

    Most mistakes are seen by every rank: the first one speaks, and the others only if nobody has
    ended them a little later, as when a file is missing on their host alone.
    """
    # Tasks of srun parse their flags before they are told their rank.
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if rank != "0":
        time.sleep(OTHER_RANKS_WAIT)
    line = " ".join(message.split())
    where = "" if rank == "0" else f" (rank {rank})"
    sys.stderr.write(f"{program}: error: {line}{where}\n")
    raise SystemExit(status)


class _OneLineParser(HfArgumentParser):
    """argparse prints the whole usage before an error; with 60 flags that buries the error."""

    def error(self, message: str) -> NoReturn:
        exit_with_user_error(self.prog, f"{message} (see --help)")


def parse_args(cls: type[T], argv: Sequence[str] | None = None, *, about: str = "") -> T:
    """Parse flags into `cls`; on a bad one print a single line and exit with status 2.

    `about` stands at the end of `--help`.
    Called before torch is loaded, it also tells GNU's OpenMP to spin only briefly where it would
    spin for milliseconds: beside other busy programs a spinning thread holds up the very one that
    it waits for (2 to 10 times the time a step), and sleeping at once costs a fifth when idle.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # A prefix of a flag is not that flag, and a stray `main.args` file is not a command line.
    parser = _OneLineParser(cls, allow_abbrev=False)  # type: ignore[arg-type]
    parser.epilog = about
    try:
        args, *_, unknown = parser.parse_args_into_dataclasses(
            [_at_home(text) for text in (sys.argv[1:] if argv is None else argv)],
            return_remaining_strings=True,
            look_for_args_file=False,
        )
    except UserError as error:
        parser.error(str(error))
    for word in unknown:
        if (flag := word.split("=")[0]) in REMOVED:
            parser.error(f"{flag}: {REMOVED[flag]}")
    if unknown:
        meant = _meant(unknown, [flag.name for flag in fields(args)])
        suggestion = f"; did you mean {' '.join(meant)}?" if meant else ""
        parser.error(f"unknown flags: {' '.join(unknown)}{suggestion}")
    return args


def _meant(unknown: Sequence[str], names: Sequence[str]) -> list[str]:
    """For each word that looks like a flag the one most like it, if one is."""
    words = [word[2:].split("=")[0].replace("-", "_") for word in unknown if word[:2] == "--"]
    return [f"--{name}" for word in words for name in get_close_matches(word, names, n=1)]


def _at_home(text: str) -> str:
    """The argument with `~/` written out; shells leave it as it is in `--flag=~/path`."""
    name, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    return name + equals + (os.path.expanduser(value) if value.startswith("~/") else value)


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def with_flag(flag: str, words: Sequence[str]) -> list[str]:
    """The command line with `flag` before its first word, if that stands there without one."""
    is_bare = bool(words) and not words[0].startswith("-")
    return [flag, *words] if is_bare else list(words)
