"""Keys of random draws: fixed, since a changed key changes the results of seeded runs."""

import random

import pytest

from training.draws import hash_key, make_random


@pytest.mark.parametrize(
    ("parts", "separator", "key"),
    [
        (("epoch", 3, 1), " ", "epoch 3 1"),
        (("prompts", 0, 2), " ", "prompts 0 2"),
        (("pairs", "5 7"), " ", "pairs 5 7"),
        ((3, 1, 0), ":", "3:1:0"),
        ((3, "shuffle", 4), ":", "3:shuffle:4"),
    ],
)
def test_a_key_is_its_parts_joined(parts, separator, key):
    assert make_random(*parts, separator=separator).random() == random.Random(key).random()


def test_a_hashed_key_is_the_head_of_its_sha256():
    assert hash_key(1, 2, 3) == hash_key("1:2:3")
    assert hash_key("abc") == 0xBA7816BF8F01CFEA  # FIPS 180-2, appendix B.1
