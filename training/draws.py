"""Seeded draws: every random choice has a key, so that no draw depends on another one.

A resumed run and every rank make the same draw from the same key. A key is its parts, joined. Two
separators are in use; changing the key of an existing draw changes the results of seeded runs.
"""

import hashlib
import random


def make_random(*parts: object, separator: str = " ") -> random.Random:
    """Build a generator that is seeded by a key, for instance ("epoch", seed, epoch)."""
    return random.Random(separator.join(map(str, parts)))


def hash_key(*parts: object) -> int:
    """Hash a key to 64 bits, to seed what takes a number."""
    key = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
