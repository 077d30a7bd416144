"""Zips of DICOM slices: looked into and unpacked, or refused where they are damaged or unsafe."""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kitspipe.errors import UserError
from kitspipe.imaging.dicom_bytes import START_BYTES, is_dicom_start

_MOST_UNPACKED_BYTES = 8 << 30  # A CT of 3000 slices of 512 x 512 has 1.5 GiB.
_MEMBER_START = b"PK\x03\x04"
_MOST_COUNTED = 1 << 16
_MOST_END_BYTES = 22 + (1 << 16)  # with its comment
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,  # A password is asked for; as NotImplementedError: another version or method.
)


def holds_dicom(path: Path) -> bool:
    """Whether a file is a zip with DICOM files, or one too damaged to tell."""
    with path.open("rb") as opened:
        if opened.read(len(_MEMBER_START)) != _MEMBER_START and not zipfile.is_zipfile(path):
            return False
    try:
        with _opened(path) as archive:
            return _first_dicom_member(archive) is not None
    except UserError:
        return True


def first_dicom_file(path: Path) -> bytes | None:
    """The content of the first DICOM file in a zip; None where there is none without password.

    Raises:
        UserError: the zip is damaged.
    """
    with _opened(path) as archive:
        member = _first_dicom_member(archive)
        return None if member is None else archive.read(member)


def unpack(path: Path, folder: Path) -> None:
    """All files of a zip, at any depth, in a folder under plain numbers.

    Raises:
        UserError: the zip is damaged, asks for a password, leads out or is no single study.
    """
    with _opened(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        _refuse_unsafe(members, path)
        for number, member in enumerate(members):
            with archive.open(member) as packed, (folder / f"{number:06d}").open("wb") as file:
                shutil.copyfileobj(packed, file)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from; what damage of it raises meanwhile is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            _require_all_members(archive, path)
            yield archive
    except (*_DAMAGED, OSError) as error:
        # Errors of disks have another number; bzip2 gives none, offsets before the file this one.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            path,
            found=f"a zip that can't be unpacked: {error}",
            expected="a whole zip without password",
            remedy="pack or download the series again, or unpack it and name the folder",
        ) from None


def _first_dicom_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """By its first bytes, no more of it is unpacked."""
    for member in archive.infolist():
        if not (member.is_dir() or member.flag_bits & 1):
            with archive.open(member) as packed:
                if is_dicom_start(packed.read(START_BYTES)):
                    return member
    return None


def _require_all_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise BadZipFile where the index holds other members than its end says.

    A damaged length in it hides those that follow, which zipfile does not notice. Source: APPNOTE
    4.3.16.
    """
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - _MOST_END_BYTES))
        tail = opened.read()
    [count] = struct.unpack_from("<H", tail, tail.rfind(b"PK\x05\x06") + 10)
    found = len(archive.infolist())
    # Of more, only the lower bits are there, or all are set.
    if count not in (found % _MOST_COUNTED, _MOST_COUNTED - 1):
        raise zipfile.BadZipFile(f"an index of {found} files instead of {count}")


def _refuse_unsafe(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        leads_out = parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]
        if leads_out or stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(
                path,
                found=f"the member {member.filename!r}, which leads out of the archive",
                expected="DICOM slices at paths inside the archive",
                remedy="don't trust this zip; pack the series again",
            )
    total = sum(member.file_size for member in members)
    if total > _MOST_UNPACKED_BYTES:
        raise UserError(
            path,
            found=f"{total / 2**30:.1f} GiB of unpacked files",
            expected=f"one study, at most {_MOST_UNPACKED_BYTES >> 30} GiB",
            remedy="unpack the zip and name the folder of one series",
        )
