"""Check last newline, trailing space, JSON syntax and size: of files given, or of all of git's."""

import json
import subprocess
import sys
from pathlib import Path

MAX_BYTES = 500_000
# Files where space at the end of a line may mean something, or that are taken over as they are.
VERBATIM = {".csv", ".tsv", ".txt", ".diff", ".patch"}


def complaints(path: Path) -> list[str]:
    """What is wrong with one file, in words."""
    data = path.read_bytes()
    found = []
    if len(data) > MAX_BYTES:
        found.append(f"{len(data)} bytes, more than {MAX_BYTES}")
    if b"\0" in data:
        return found  # a picture or the like
    if data and not data.endswith(b"\n"):
        found.append("no newline at the end")
    if data.endswith(b"\n\n"):
        found.append("empty lines at the end")
    if path.suffix not in VERBATIM:
        lines = enumerate(data.splitlines(), start=1)
        found += [f"space at the end of line {n}" for n, line in lines if line != line.rstrip()]
    if path.suffix == ".json":
        try:
            json.loads(data)
        except ValueError as error:
            found.append(f"not JSON: {error}")
    return found


def files_of_git() -> list[str]:
    """Tracked and not ignored files; none outside a git tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        print("check_files: not a git tree, nothing checked", file=sys.stderr)
        return []
    return [name for name in listing.split("\0") if name]


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:] or files_of_git()]
    found = [f"{path}: {text}" for path in paths if path.is_file() for text in complaints(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
