"""Count what a newcomer meets first: names, docstrings, wording, sizes. Fails over a limit.

python .ci/check_style.py             the counts beside their limits
python .ci/check_style.py --list      also every place that is counted against one
python .ci/check_style.py --list training/data     those below one folder
"""

import argparse
import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERBS = frozenset((ROOT / ".ci" / "verbs.txt").read_text(encoding="utf-8").split())
PROGRAMS = ("training/", "step1_sft/", "step2_reward/", "step3_ppo/", "examples/", "benchmarks/")
# A docstring says what the thing does; these begin a riddle about it.
RIDDLES = ("What ", "Whether ", "The same ")
# Words of a dialect that no engineer of the field writes; CONTRIBUTING.md has the plain ones.
DIALECT = re.compile(
    r"\b(anew|go(?:es|ne|ing)? on|went on|stands?|lies?|(?:is|are|was) said|mend(?:s|ed|ing)?"
    r"|reckon(?:s|ed|ing)?)\b",
    re.IGNORECASE,
)
# These files quote the words, or must spell them.
QUOTING = {".ci/check_style.py", "CONTRIBUTING.md", "LICENSE", "tests/stages/test_help.py"}
NOT_A_CHOICE = {"main", "forward", "backward"}  # what a program and torch call them
PPO_STEP = (
    "training/trainers/ppo/update.py",
    "training/trainers/ppo/rollout.py",
    "training/trainers/ppo/experience.py",
    "training/trainers/ppo/learners.py",
    "training/objectives/ppo.py",
    "training/objectives/kl.py",
)


@dataclass
class Count:
    """A figure, the least or most that it may be, and the places that count against it."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None
    places: list[str] = field(default_factory=list)

    def is_good(self) -> bool:
        is_high_enough = self.least is None or self.value >= self.least
        return is_high_enough and (self.most is None or self.value <= self.most)

    def __str__(self) -> str:
        limit = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{'ok' if self.is_good() else 'FAIL':4} {self.name}: {self.value:.4g} ({limit})"


def list_files(*suffixes: str) -> list[str]:
    """Paths of tracked and new files with one of these suffixes."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = [name for name in listing.split("\0") if name.endswith(suffixes)]
    return sorted(name for name in names if (ROOT / name).is_file())


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def walk_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def count_verbs(trees: dict[str, ast.Module]) -> Count:
    """Share of functions whose name begins with a verb; properties and dunders left out."""
    total, places = 0, []
    for name, tree in trees.items():
        if not name.startswith("training/"):
            continue
        for function in walk_functions(tree):
            is_dunder = function.name.startswith("__")
            if is_dunder or is_property(function) or function.name in NOT_A_CHOICE:
                continue
            total += 1
            if function.name.lstrip("_").split("_")[0] not in VERBS:
                places.append(f"{name}:{function.lineno}: {function.name}")
    share = 100 * (1 - len(places) / total)
    return Count("function names that begin with a verb, %", share, least=65, places=places)


def count_riddles(trees: dict[str, ast.Module]) -> Count:
    """Docstrings that begin with a noun clause instead of what the thing does."""
    places = []
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for name, tree in trees.items():
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text and text.startswith(RIDDLES):
                places.append(f"{name}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}")
    return Count("docstrings that begin with What, Whether, The same", len(places), most=5,
                 places=places)  # fmt: skip


def read_prose(name: str) -> Iterator[tuple[int, str]]:
    """(line, text) of a file's prose: all of a paper; comments, strings and names of code."""
    text = read(name)
    if not name.endswith(".py"):
        yield from enumerate(text.splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in {"COMMENT", "STRING", "FSTRING_MIDDLE"}:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
        elif kind == "NAME" and "_" in token.string:
            yield token.start[0], token.string.replace("_", " ")


def count_dialect() -> Count:
    """Words of the dialect in code and papers."""
    places = []
    for name in list_files(".py", ".md", ".sh", ".sbatch", ".html", ".toml"):
        if name in QUOTING:
            continue
        for line, text in read_prose(name):
            places += [f"{name}:{line}: {match[0]}" for match in DIALECT.finditer(text)]
    return Count("words of the dialect", len(places), most=5, places=places)


def count_sizes(trees: dict[str, ast.Module]) -> list[Count]:
    """Files, functions and programs that are longer than a reader takes in at once."""
    files, functions, mains = [], [], []
    for name, tree in trees.items():
        lines = len(read(name).splitlines())
        files += [f"{name}: {lines}"] if lines > 300 else []
        if name.endswith("/main.py"):
            mains += [f"{name}: {lines}"] if lines > 60 else []
        for function in walk_functions(tree):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > 50:
                functions.append(f"{name}:{function.lineno}: {function.name} {length}")
    return [
        Count("files of more than 300 lines", len(files), most=0, places=files),
        Count("functions of more than 50 lines", len(functions), most=0, places=functions),
        Count("main.py of more than 60 lines", len(mains), most=0, places=mains),
    ]


def count_untyped(trees: dict[str, ast.Module]) -> Count:
    """Arguments without a type in the package and the programs."""
    places = []
    for name, tree in trees.items():
        if not name.startswith(PROGRAMS):
            continue
        for function in walk_functions(tree):
            given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            places += [
                f"{name}:{function.lineno}: {function.name}({arg.arg})"
                for arg in given
                if arg.annotation is None and arg.arg not in {"self", "cls"}
            ]
    return Count("arguments without a type", len(places), most=0, places=places)


def count_readme() -> list[Count]:
    """Length, sentences and links of the first page."""
    counts = []
    for name in ("README.md", "README.zh-CN.md"):
        text = read(name)
        counts += [
            Count(f"{name}, lines", len(text.splitlines()), most=130),
            Count(f"{name}, links", len(re.findall(r"(?<!!)\[[^\]]+\]\([^)]+\)", text)), least=15),
        ]
    words = [len(sentence.split()) for sentence in split_sentences(read("README.md"))]
    return [*counts, Count("README.md, median words of a sentence", statistics.median(words),
                           most=14)]  # fmt: skip


def split_sentences(text: str) -> list[str]:
    """Sentences of a paper's paragraphs and bullets; no headings, tables, code or pictures."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    lines = [
        "" if line.startswith(("    ", "#", "|", "![", "<!--")) else line.strip()
        for line in text.splitlines()
    ]
    blocks = re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )", "\n".join(lines))
    sentences = []
    for block in blocks:
        plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", block.replace("\n", " "))
        sentences += [
            s for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*])", plain) if len(s.split()) > 2
        ]
    return sentences


def count_package(trees: dict[str, ast.Module]) -> list[Count]:
    """The size of the package, of one PPO step's algorithm, and of ARCHITECTURE.md."""
    package = sum(len(read(name).splitlines()) for name in trees if name.startswith("training/"))
    step = sum(len(read(name).splitlines()) for name in PPO_STEP)
    words = len(read("ARCHITECTURE.md").split())
    return [
        Count("lines of training/", package, most=20_365),
        Count(f"lines of a PPO step's algorithm, {len(PPO_STEP)} files", step, most=700),
        Count("ARCHITECTURE.md, words", words, most=1800),
    ]


def collect_counts() -> list[Count]:
    names = list_files(".py")
    trees = {name: ast.parse(read(name), filename=name) for name in names}
    return [
        count_verbs(trees),
        count_riddles(trees),
        count_dialect(),
        *count_sizes(trees),
        count_untyped(trees),
        *count_readme(),
        *count_package(trees),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", nargs="?", const="", metavar="FOLDER",
                        help="print the places counted, of one folder if given")  # fmt: skip
    below = parser.parse_args().list
    counts = collect_counts()
    for count in counts:
        print(count)
        for place in count.places if below is not None else []:
            if place.startswith(below):
                print(f"       {place}")
    return 0 if all(count.is_good() for count in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
