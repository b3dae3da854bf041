"""Parse flags into frozen dataclasses; every mistake is one line and exit status 2.

Nothing here or beside it imports torch or deepspeed: `--help` and a mistyped flag answer at once.
"""

import copy
import os
import sys
import time
from argparse import Action, ArgumentDefaultsHelpFormatter
from collections.abc import Sequence
from dataclasses import Field, field, fields
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any, NoReturn, TypeVar, get_type_hints

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
    """A mistake of the user in flags, files or data. Printed as one line; exit status 2."""


class GuardStop(Exception):  # noqa: N818 (no error of the program)
    """Stop of a run that would only get worse. Printed as one line; exit status 3.

    `weights_are_finite` is True if its state is worth saving.
    """

    weights_are_finite = False


def arg(default: Any, help: str, *, group: str = "", negative: str = "") -> Any:
    """Make a dataclass field with a default and the line that `--help` prints for it.

    `group` is a heading of `--help`: the fields that follow in the class are in it too, until
    another one. `negative` is the help of `--no_NAME`, for a flag that is true by default.
    """
    metadata = {"help": help, "group": group, "negative": negative}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def exit_with_user_error(program: str, message: str, *, status: int = USER_MISTAKE) -> NoReturn:
    """Print `message` as one line on stderr and exit, with status 2 unless another is given.

    Most mistakes are seen by every rank: rank 0 prints at once. The others wait a little and print
    only if nothing has ended them, for instance when a file is missing on their host alone.
    """
    # Tasks of srun parse their flags before RANK is set.
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if rank != "0":
        time.sleep(OTHER_RANKS_WAIT)
    line = " ".join(message.split())
    where = "" if rank == "0" else f" (rank {rank})"
    sys.stderr.write(f"{program}: error: {line}{where}\n")
    raise SystemExit(status)


def group_fields(cls: type) -> dict[str, list[Field[Any]]]:
    """Return the fields of a dataclass by heading of `--help`, the most specific class first."""
    known, groups = {spec.name: spec for spec in fields(cls)}, dict[str, list[Field[Any]]]()
    for base in cls.__mro__[:-1]:
        group = "flags"
        specs = {spec.name: spec for spec in fields(base)}
        for name in get_annotations(base):
            group = specs[name].metadata.get("group") or group
            if name in known:
                groups.setdefault(group, []).append(known.pop(name))
    return groups


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Shows each flag as it is typed, without its variant with hyphens."""

    def _format_action_invocation(self, action: Action) -> str:
        values = self._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
        name = "--help" if action.dest == "help" else action.option_strings[0]
        return f"{name} {values}".rstrip()

    def _get_help_string(self, action: Action) -> str | None:
        has_default = action.nargs != 0 and action.default not in ("", [], None)
        return super()._get_help_string(action) if has_default else action.help


class _OneLineParser(HfArgumentParser):
    """Prints errors as one line, without the usage, and the flags of `--help` in groups."""

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        types = get_type_hints(dtype)
        for title, specs in group_fields(dtype).items():
            section = self.add_argument_group(title)
            for spec in specs:
                plain = copy.copy(spec)
                plain.type = types[spec.name]
                plain.metadata = {"help": spec.metadata["help"]}  # type: ignore[assignment]
                self._parse_dataclass_field(section, plain)  # type: ignore[arg-type]
                negative = self._option_string_actions.get(f"--no_{spec.name}")
                if negative is not None:
                    negative.help = spec.metadata.get("negative") or f"Set --{spec.name} to false."

    def error(self, message: str) -> NoReturn:
        exit_with_user_error(self.prog, f"{message} (see --help)")


def parse_args(cls: type[T], argv: Sequence[str] | None = None, *, about: str = "") -> T:
    """Parse flags into `cls`; on a bad one print a single line and exit with status 2.

    `about` is the last line of `--help`.
    Called before torch is loaded, it also makes GNU's OpenMP spin only briefly while waiting. On a
    busy machine a spinning thread delays the one that it waits for (steps take 2 to 10 times as
    long), and sleeping at once costs a fifth on an idle one.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # A prefix of a flag is not that flag, and a stray `main.args` file is not a command line.
    parser = _OneLineParser(
        cls,  # type: ignore[arg-type]
        allow_abbrev=False,
        usage="%(prog)s [flags]",
        description=cls.__doc__,
        epilog=about,
        formatter_class=_HelpFormatter,
    )
    try:
        args, *_, unknown = parser.parse_args_into_dataclasses(
            [_expand_home(text) for text in (sys.argv[1:] if argv is None else argv)],
            return_remaining_strings=True,
            look_for_args_file=False,
        )
    except UserError as error:
        parser.error(str(error))
    for word in unknown:
        if (flag := word.split("=")[0]) in REMOVED:
            parser.error(f"{flag}: {REMOVED[flag]}")
    if unknown:
        names = [flag.name for flag in fields(args)]
        words = [word[2:].split("=")[0].replace("-", "_") for word in unknown if word[:2] == "--"]
        meant = [f"--{name}" for word in words for name in get_close_matches(word, names, n=1)]
        suggestion = f"; did you mean {' '.join(meant)}?" if meant else ""
        parser.error(f"unknown flags: {' '.join(unknown)}{suggestion}")
    return args


def _expand_home(text: str) -> str:
    """Expand `~/`, which shells leave as it is in `--flag=~/path`."""
    name, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    return name + equals + (os.path.expanduser(value) if value.startswith("~/") else value)


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def add_first_flag(flag: str, words: Sequence[str]) -> list[str]:
    """Put `flag` before the first word of a command line, unless that is a flag."""
    is_bare = bool(words) and not words[0].startswith("-")
    return [flag, *words] if is_bare else list(words)
