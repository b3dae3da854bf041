"""Prove that each fault is noticed. Exit status 1 if one survives.

The tree is copied; each fault is put into the copy, its test is run, the file is restored. Each
test must pass in the unchanged copy, and fail with the fault by an assertion: not because the code
can no longer be imported.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.all_mutations import MUTATIONS
from tests.mutations.mutation import Mutation

ROOT = Path(__file__).resolve().parents[2]
REWRITTEN = "ignore::pytest.PytestAssertRewriteWarning"  # of libraries that are imported already
IGNORED = shutil.ignore_patterns(".git", ".venv", "output", "__pycache__", ".*_cache")


@dataclass(frozen=True)
class Verdict:
    """How the tests ended: passed, an assertion that failed, or in words what else happened."""

    outcome: str
    seconds: float


class Outcome:
    """A plugin of pytest: the first failure of a session, or that there was none."""

    def __init__(self) -> None:
        self.passed = 0
        self.failure = ""

    def pytest_runtest_makereport(self, item, call) -> None:
        import pytest

        if call.excinfo is None:
            self.passed += call.when == "call"
            return
        if call.excinfo.errisinstance(pytest.skip.Exception) or self.failure:
            return
        is_assertion = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        self.failure = "assertion" if is_assertion else f"{call.excinfo.typename} in {item.nodeid}"

    def __str__(self) -> str:
        return self.failure or ("passed" if self.passed else "no test ran")


def import_libraries() -> None:
    """Import what takes seconds once, before the processes of the tests are forked off."""
    import datasets  # noqa: F401
    import deepspeed  # noqa: F401
    import hypothesis.strategies  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    torch.set_num_threads(1)


def run_tests(tree: Path, tests: list[str]) -> str:
    """Run tests of a tree in a forked process, which imports the project from there."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(tree, tests, sender))
    process.start()
    sender.close()
    try:
        outcome: str = receiver.recv()
    except EOFError:
        outcome = "the process died"
    process.join()
    return outcome


def _run(tree: Path, tests: list[str], sender) -> None:
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
    ours = {"tests", "training", "examples", "benchmarks"}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    import pytest

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    outcome = Outcome()
    flags = f"-q -x -W {REWRITTEN} -p no:cacheprovider -p no:xdist --timeout 60".split()
    status = pytest.main([*flags, f"--basetemp={tree}.tmp", *tests], plugins=[outcome])
    is_run = status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    sender.send(str(outcome) if is_run else f"pytest ended with {status!r}")
    os._exit(0)


@contextmanager
def mutated(tree: Path, mutation: Mutation) -> Iterator[None]:
    file = tree / mutation.file
    original = file.read_text(encoding="utf-8")
    assert original.count(mutation.old) == 1, f"{mutation.name}: {mutation.file} has changed"
    file.write_text(original.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(original, encoding="utf-8")


_tree: Path  # of a worker


def start_worker(folder: str) -> None:
    global _tree
    _tree = Path(tempfile.mkdtemp(dir=folder)) / "tree"
    shutil.copytree(ROOT, _tree, ignore=IGNORED)
    import_libraries()


def check_unchanged(tests: list[str]) -> Verdict:
    start = time.monotonic()
    outcome = run_tests(_tree, tests)
    return Verdict(outcome, time.monotonic() - start)


def check(mutation: Mutation) -> Verdict:
    start = time.monotonic()
    with mutated(_tree, mutation):
        outcome = run_tests(_tree, [mutation.test])
    return Verdict(outcome, time.monotonic() - start)


def format_row(mutation: Mutation, verdict: Verdict) -> str:
    is_caught = verdict.outcome == "assertion"
    result = f"caught by {mutation.test}" if is_caught else f"SURVIVED: {verdict.outcome}"
    return f"{mutation.name} | {mutation.property} | {result} | {verdict.seconds:.1f} s"


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", default="", help="the name of one mutation")
    parser.add_argument("--jobs", type=int, default=2, help="processes that run tests")
    return parser.parse_args()


def main() -> int:
    flags = parse_flags()
    mutations = [m for m in MUTATIONS if flags.only in ("", m.name)]
    if not mutations:
        sys.exit(f"no mutation is named {flags.only!r}")
    tests = list(dict.fromkeys(mutation.test for mutation in mutations))
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(
            flags.jobs, multiprocessing.get_context("spawn"), start_worker, (folder,)
        ) as pool,
    ):
        halves = [half for n in range(flags.jobs) if (half := tests[n :: flags.jobs])]
        for verdict in pool.map(check_unchanged, halves):
            if verdict.outcome != "passed":
                print(f"without a fault: {verdict.outcome}")
                return 1
        survived = 0
        for mutation, verdict in zip(mutations, pool.map(check, mutations), strict=True):
            print(format_row(mutation, verdict), flush=True)
            survived += verdict.outcome != "assertion"
    caught = len(mutations) - survived
    print(f"{caught} of {len(mutations)} caught in {time.monotonic() - start:.0f} s")
    return 1 if survived else 0
