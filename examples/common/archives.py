"""Reading text out of package files without unpacking or running anything."""

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from training.arguments.parsing import UserError


def read_tar_member(archive: tarfile.TarFile, path: Path, ending: str) -> bytes:
    """The first regular file whose name ends so; `path` is the archive's, for the message.

    It is read, never unpacked; a name that leads out of the archive is a sign of a forged one.
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
    """A member to be read; `path` is the archive's, for the message."""
    try:
        return package.open(member)  # type: ignore[return-value]  # typeshed says IO[bytes]
    except KeyError:
        raise UserError(f"{path}: has no {member}; delete the file and run this again") from None


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())
