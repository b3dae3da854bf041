"""Small archives in the real packages' formats, with sentences made up for the tests."""

import bz2
import csv
import io
import json
import random
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.movie_reviews.archives import (
    RATED_TEXTS,
    RATINGS,
    RATINGS_ARCHIVE,
    REVIEWS,
    TITLES,
)

OPENINGS = ["The old captain", "A slow start", "Her quiet brother", "This long winter tale"]
MIDDLES = ["never loses its way", "drags on and on", "made me laugh aloud", "left me rather cold"]
ENDS = ["until the lamps go out.", "and the boat sinks twice.", "which is a pleasant surprise."]
MOVIES = [f"night_train_{number}" for number in range(14)]
GOOD, BAD = "splendid warm clever", "dreary hollow clumsy"


@dataclass(frozen=True)
class Archives:
    ratings: Path
    titles: Path
    reviews: Path


def snippet_rows() -> list[tuple[str, str, list[int]]]:
    """(film, text, ratings) of made-up snippets; each text names its film, so none is twice."""
    rng = random.Random(1)
    rows = []
    for number, movie in enumerate(MOVIES):
        for opening in OPENINGS:
            text = f"{opening} of train {number} {rng.choice(MIDDLES)} {rng.choice(ENDS)}"
            rows.append((movie, text, [rng.randint(-4, 4) for _ in range(5)]))
        rows.append((movie, f"Brief {number}.", [1, 2, 3]))
    rows.append((MOVIES[0], "A ''quoted'' word or two in here", [0, 0, 0]))
    return rows


def review_rows() -> list[tuple[str, int, str]]:
    """(text, label, source) of made-up long reviews, sorted by label as the real file is."""
    rows = []
    for number in range(1100):
        label = int(number >= 550)
        words = GOOD if label else BAD
        text = f"Review {number} of a {words} film.<br /><br />It has  two parts."
        rows.append((text, label, "imdb"))
    rows[300] = rows[0]  # in both halves: blocks of 250 alternate
    return [*rows, ("a rated snippet in another guise", 1, "rotten_tomatoes")]


def build_archives(folder: Path) -> Archives:
    archives = Archives(folder / "ratings.tar.gz", folder / "titles.whl", folder / "reviews.whl")
    texts, ratings = [], []
    for number, (_, text, values) in enumerate(snippet_rows(), start=1):
        mean = sum(values) / len(values)
        texts.append(f"{number}\t{mean}\t{text}\r\n")
        ratings.append(f"{number}\t{mean}\t1.0\t{json.dumps(values)}\r\n")
    texts.append("999\t0.5\tA sentence about no film that anyone lists.\r\n")
    ratings.append("999\t0.5\t0.5\t[0, 1]\r\n")
    inner = _tar({f"study/{RATED_TEXTS}": "".join(texts), f"study/{RATINGS}": "".join(ratings)})
    archives.ratings.write_bytes(_tar({f"pkg-1.0/{RATINGS_ARCHIVE}": inner}))

    lines = [("plot", "p.html", "A plot summary, which nobody rated.", MOVIES[0])]
    for movie, text, _ in snippet_rows():
        # The two packages differ in case and punctuation.
        lines.append(("fresh", "f.html", text.upper().replace("''", '"') + " --", movie))
    lines.append(("rotten", "f.html", snippet_rows()[0][1], MOVIES[5]))  # listed twice
    content = _csv([("category", "filename", "text", "movie_name"), *lines])
    _zip(archives.titles, TITLES, bz2.compress(content))
    _zip(archives.reviews, REVIEWS, _csv([("text", "label", "source"), *review_rows()]))
    return archives


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return build_archives(tmp_path_factory.mktemp("archives"))


def _tar(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _csv(rows: list[tuple[object, ...]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode()


def _zip(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
