"""Write the pages of docs/ that are made from the code: the file map and the flags.

python .ci/make_pages.py     after a module, its docstring or a flag has changed
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.arguments.annotation import AnnotationArgs, PullArgs, PushArgs
from training.arguments.chat import ChatArgs
from training.arguments.collect import CollectArgs
from training.arguments.common import CommonArgs
from training.arguments.data_size_curve import DataSizeCurveArgs
from training.arguments.evaluate import EvaluateArgs
from training.arguments.inspection import InspectArgs
from training.arguments.parsing import group_fields
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.self_check import SelfCheckArgs
from training.arguments.sft import SFTArgs

MADE = "<!-- made by `python .ci/make_pages.py`; do not edit -->\n\n"
PROGRAMS: dict[str, tuple[str, type]] = {
    "Stage 1, SFT": ("bash step1_sft/run.sh", SFTArgs),
    "Stage 2, reward model": ("bash step2_reward/run.sh", RewardArgs),
    "Data-size curve": ("python step2_reward/data_size_curve.py", DataSizeCurveArgs),
    "Stage 3, PPO": ("bash step3_ppo/run.sh", PPOArgs),
    "Evaluation": ("python step3_ppo/evaluate.py", EvaluateArgs),
    "Chat": ("python step3_ppo/chat.py", ChatArgs),
    "Tasks for annotators": ("bash step2_reward/collect.sh", CollectArgs),
    "Annotations to comparisons": ("python -m training.data.annotation EXPORT", AnnotationArgs),
    "Tasks to Label Studio": ("python -m training.data.annotation push TASKS", PushArgs),
    "Annotations from Label Studio": ("python -m training.data.annotation pull", PullArgs),
    "Data inspection": ("python -m training.data.inspect PATH", InspectArgs),
    "Self-check": ("python -m training.self_check", SelfCheckArgs),
}
SET_BY_LAUNCHER = {"local_rank"}


def make_pages() -> dict[Path, str]:
    """The text of each generated page, by its path."""
    return {
        ROOT / "docs" / "file_map.md": make_file_map(),
        ROOT / "docs" / "flags.md": make_flags_page(),
    }


def make_file_map() -> str:
    """One line per module of training/ and per program, from the module docstrings."""
    text = MADE + (
        "# File map\n\nOne line per file, from the top of each module. `ARCHITECTURE.md` names "
        "ten files to read first, and says how the folders depend on each other.\n"
    )
    for folder in sorted(list_folders(), key=lambda path: (path.parts[0] == "training", path)):
        modules = [path for path in sorted((ROOT / folder).glob("*.py")) if path.stat().st_size]
        if modules:
            text += f"\n## {folder.as_posix()}\n\n| file | purpose |\n| --- | --- |\n"
        for path in modules:
            link = f"[{path.name}](../{path.relative_to(ROOT).as_posix()})"
            text += f"| {link} | {read_summary(path)} |\n"
    return text


def list_folders() -> set[Path]:
    tops = ("step1_sft", "step2_reward", "step3_ppo", "training")
    files = [path for top in tops for path in (ROOT / top).rglob("*.py")]
    return {path.parent.relative_to(ROOT) for path in files}


def read_summary(path: Path) -> str:
    """The first paragraph of a module's docstring, as one line of a table."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|").replace("<", "&lt;")


def make_flags_page() -> str:
    """Every flag of every program, with its default and its help."""
    text = MADE + (
        "# Flags\n\nThe page lists what each program prints with `--help`. A boolean flag takes "
        "`true` or `false`; alone it means `true`. Flags with several values take them separated "
        "by spaces.\n\n## All three stages\n\n"
    )
    text += format_tables(CommonArgs, {})
    common = {field.name: field for field in fields(CommonArgs)}
    for title, (command, cls) in PROGRAMS.items():
        text += f"\n## {title}\n\n`{command}`\n\n"
        is_stage = issubclass(cls, CommonArgs)
        text += "Also takes the flags of [all three stages](#all-three-stages).\n\n" * is_stage
        text += format_tables(cls, common if is_stage else {})
    return text


def is_same(field: Field[Any], common: dict[str, Field[Any]]) -> bool:
    """True where a stage takes a shared flag as it is, with the shared default."""
    shared = common.get(field.name)
    return shared is not None and format_row(shared) == format_row(field)


def format_tables(cls: type, common: dict[str, Field[Any]]) -> str:
    """One table per group of flags, less those that are in `common`."""
    tables = []
    for group, members in group_fields(cls).items():
        rows = [
            format_row(field)
            for field in members
            if field.name not in SET_BY_LAUNCHER and not is_same(field, common)
        ]
        if rows:
            title = f"**{group[0].upper()}{group[1:]}**\n\n"
            tables.append(
                f"{title}| flag | default | meaning |\n| --- | --- | --- |\n{''.join(rows)}"
            )
    return "\n".join(tables)


def format_row(field: Field[Any]) -> str:
    choices = " ".join(f"`{choice}`" for choice in list_choices(field.type))
    meaning = field.metadata["help"].replace("|", "\\|").replace("<", "&lt;")
    values = f" Values: {choices}." if choices else ""
    return f"| `--{field.name}` | {format_default(field)} | {meaning}{values} |\n"


def list_choices(kind: Any) -> Iterator[Any]:
    """The values of a Literal; nothing for other types."""
    if "Literal" in str(kind):
        yield from get_args(kind)


def format_default(field: Field[Any]) -> str:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`" if default != "" else ""


def main() -> None:
    for path, text in make_pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
