"""Where things are when nobody says: the cache, the example, the repository."""

import os
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE_CONFIG = REPOSITORY / "examples" / "movie_reviews" / "gpt2_tiny.json"
QUICKSTART_BASE = REPOSITORY / "output" / "quickstart" / "base"


_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # of a model that can be downloaded


def is_local(path: str) -> bool:
    """True if a model's path can only be a local folder, not a name to download."""
    place = Path(path).expanduser()
    is_in_folder = place.parent != Path() and place.parent.is_dir()
    is_name = _NAME.fullmatch(path) is not None and not path.startswith("output")
    return place.exists() or is_in_folder or not is_name


def not_there(path: str) -> str:
    """Format the rest of an error about a model's path that does not exist."""
    named = "" if is_local(path) else ", and nothing of that name could be downloaded"
    return f"{path}: there is no such folder{named}"


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
    """Format the command that prepares an example, in a shell without an active environment too."""
    return f"{sys.executable} examples/{example}/prepare.py"
