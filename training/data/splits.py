"""Choose the rows to train on and to hold out: mix by weight, split by prompt.

Rows are numbered; a row's key is the 64-bit hash of its prompt (`contamination.hash_prompt`).
"""

import math
import random

import numpy as np
from numpy.typing import NDArray

from training.arguments.parsing import UserError
from training.draws import hash_key

Places = NDArray[np.int64]
Keys = NDArray[np.uint64]


def repeat_by_weight(count: int, weight: float, draw: random.Random) -> Places:
    """Repeat the `count` rows of a data path by its weight.

    2 takes each row twice, 0.5 a random half of the rows, 1.5 each row once and then half of them
    again. At least one row is taken.
    """
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(f"--data_weights must be positive, got {weight}")
    whole, part = divmod(max(round(weight * count), 1), count)
    extra = draw.sample(range(count), part)
    return np.concatenate([np.tile(np.arange(count), whole), np.array(sorted(extra), np.int64)])


def choose_held_out(keys: Keys, *, eval_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return a mask of the held-out rows; the hash of (seed, prompt) decides for each prompt.

    A prompt keeps its side when other rows are added. With two prompts or more neither side is
    empty, unless `eval_fraction` is 0: then nothing is held out.
    """
    if not 0 <= eval_fraction < 1:
        raise UserError(f"--eval_fraction must be at least 0 and below 1, got {eval_fraction}")
    prompts, prompt_of_row = np.unique(keys, return_inverse=True)
    if eval_fraction == 0 or len(prompts) < 2:  # one prompt cannot be on both sides
        return np.zeros(len(keys), bool)
    draws = _draw_uniform(prompts, seed)
    chosen = draws < eval_fraction
    if not chosen.any():
        chosen[draws.argmin()] = True
    elif chosen.all():
        chosen[draws.argmax()] = False
    return np.asarray(chosen[prompt_of_row], bool)


def _draw_uniform(prompts: Keys, seed: int) -> NDArray[np.float64]:
    """Draw a number in [0, 1) for each key: splitmix64's finalizer of key plus hashed seed."""
    mixed = prompts + np.uint64(hash_key(seed))  # all modulo 2**64
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
