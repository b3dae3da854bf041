"""Where things are when nobody says: the cache, the example, the repository."""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE_CONFIG = REPOSITORY / "examples" / "movie_reviews" / "gpt2_tiny.json"
QUICKSTART_BASE = REPOSITORY / "output" / "quickstart" / "base"


def cache_dir() -> Path:
    """Where downloads and prepared examples live: $CLASSIC_RLHF_CACHE, or under ~/.cache."""
    own, shared = os.environ.get("CLASSIC_RLHF_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return Path(shared or "~/.cache").expanduser() / "classic-rlhf"


def example_tokenizer() -> Path:
    """The tokenizer that preparing the embedded example makes."""
    return cache_dir() / "movie_reviews" / "tokenizer"


def prepare_command(example: str) -> str:
    """What prepares an embedded example, in a shell without an active environment as well."""
    return f"{sys.executable} examples/{example}/prepare.py"
