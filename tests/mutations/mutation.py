"""One fault, and the test that notices it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old`, which occurs once in `file`, is replaced by `new`; then `test` must fail."""

    name: str
    property: str  # what the code does without the fault
    file: str
    old: str
    new: str
    test: str  # a node id of pytest, without parameters or with those of one case
