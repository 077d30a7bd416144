"""One volume under another name: a link or copy where its bytes are right, else written anew."""

from __future__ import annotations

import filecmp
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from kitspipe.dataset.volume_files import suffix_of
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import find_series
from kitspipe.imaging.formats import read_header
from kitspipe.workspace import replacing, temporary_beside

PACKED = ".nii.gz"
_GZIP_LEVEL = 3


def bring(
    origin: Path,
    place: Path,
    *,
    copy: bool,
    rewrite: Callable[[Path, Path], None],
    is_right: bool = True,
    also_from: Path | None = None,
) -> bool:
    """Whether `place` had to be written: as a link or copy where the bytes are right.

    Args:
        origin: a volume file, or a DICOM series as `imaging.formats.read_image` takes it.
        place: the `.nii.gz` to be.
        copy: copies in the place of links.
        rewrite: writes the second path from the first, where the bytes are not right.
        is_right: whether the values may stay as they are.
        also_from: a second file that the values follow from.

    Raises:
        UserError: the origin can't be read, or something else stands under the name.
    """
    is_series = find_series(origin) is not None
    if not is_series:
        read_header(origin)
    if is_series or not is_right or suffix_of(origin).lower() not in (PACKED, ".nii"):
        return _rewritten(origin, place, rewrite, also_from)
    if suffix_of(origin).lower() == ".nii":
        return _rewritten(origin, place, _pack, None)
    whole = origin.resolve()
    if place.is_symlink() and (not place.exists() or place.resolve() == whole):
        if place.exists() and not copy:
            return False
    elif place.exists():
        if not filecmp.cmp(whole, place, shallow=True) and not filecmp.cmp(
            whole, place, shallow=False
        ):
            raise in_the_way(place)
        return False
    with replacing(place) as temporary:
        if copy or not _linked(temporary, whole, place):
            shutil.copy2(whole, temporary)
    return True


def _linked(temporary: Path, whole: Path, place: Path) -> bool:
    try:
        temporary.symlink_to(os.path.relpath(whole, place.parent.resolve()))
    except (OSError, NotImplementedError):
        return False
    return True


def _rewritten(
    origin: Path, place: Path, rewrite: Callable[[Path, Path], None], also_from: Path | None
) -> bool:
    """Whether `place` had to be written; it gets its origin's time, by which it is known again."""
    newest = max(_newest(origin), also_from.stat().st_mtime_ns if also_from else 0)
    if not place.exists():
        with replacing(place) as temporary:
            rewrite(origin, temporary)
            os.utime(temporary, ns=(newest, newest))
        return True
    if place.is_symlink() or place.stat().st_mtime_ns != newest:
        again = temporary_beside(place.with_name(f"again.{place.name}"))
        try:
            rewrite(origin, again)
            if not filecmp.cmp(again, place, shallow=False):
                raise in_the_way(place)
        finally:
            again.unlink(missing_ok=True)
    return False


def _newest(origin: Path) -> int:
    """Time of the last change of a file, or of the files of a DICOM folder."""
    series = find_series(origin)
    path = series[0] if series else origin
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    return max(file.stat().st_mtime_ns for file in files)


def _pack(origin: Path, place: Path) -> None:
    with (
        origin.open("rb") as plain,
        place.open("wb") as stream,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)


def in_the_way(place: Path) -> UserError:
    """What to tell where something else has the name."""
    return UserError(
        place,
        found="another file than would be written there",
        expected="no such file, or the same",
        remedy="take it away, or choose another folder with -o",
    )
