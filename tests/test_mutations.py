"""Each fault of tests/mutations still has its place in the code, and its test."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutations.all_mutations import MUTATIONS
from tests.mutations.mutation import Mutation

ROOT = Path(__file__).resolve().parents[1]
by_name = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)


@by_name
def test_the_old_text_occurs_once_and_the_new_one_is_code(mutation: Mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    ast.parse(text.replace(mutation.old, mutation.new))


@by_name
def test_its_test_exists(mutation: Mutation):
    file, _, name = mutation.test.partition("::")
    assert name.partition("[")[0] in list_tests(ROOT / file)


def test_there_are_at_least_60_with_distinct_names():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 60


@cache
def list_tests(file: Path) -> set[str]:
    """Names of the test functions of a file, after "Class::" where they are in a class."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {
        f"{owner.name}::{node.name}"
        for owner in classes
        for node in owner.body
        if isinstance(node, ast.FunctionDef)
    }
    return functions | methods
