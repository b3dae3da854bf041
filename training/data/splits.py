"""Splits records into a training and a held-out part without sharing a prompt between them."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from training.arguments.parsing import UserError

R = TypeVar("R")


def split_by_prompt(
    records: Sequence[R], key: Callable[[R], str], *, eval_fraction: float, seed: int
) -> tuple[list[R], list[R]]:
    """(training, held-out): a prompt goes where the hash of (seed, prompt) sends it.

    A prompt keeps its side when other rows are added. With two prompts or more neither side is
    empty, unless `eval_fraction` is 0: then nothing is held out.
    """
    if not 0 <= eval_fraction < 1:
        raise UserError(f"--eval_fraction must be at least 0 and below 1, got {eval_fraction}")
    keys = [key(record) for record in records]
    places = {prompt: _place(seed, prompt) for prompt in keys}
    held_out = {prompt for prompt, place in places.items() if place < eval_fraction}
    if eval_fraction > 0 and len(places) >= 2:
        if not held_out:
            held_out = {min(places, key=places.__getitem__)}
        elif len(held_out) == len(places):
            held_out.remove(max(places, key=places.__getitem__))
    elif len(places) == 1:
        held_out = set()  # one prompt cannot be on both sides, and training needs it
    train = [record for record, prompt in zip(records, keys, strict=True) if prompt not in held_out]
    held = [record for record, prompt in zip(records, keys, strict=True) if prompt in held_out]
    return train, held


def _place(seed: int, prompt: str) -> float:
    """A number in [0, 1) that is fixed by the seed and the prompt."""
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
