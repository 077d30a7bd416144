"""A patient's name in DICOM files, and texts without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from kitspipe.imaging.dicom import find_series
from kitspipe.imaging.dicom_bytes import starts_as_dicom
from kitspipe.imaging.dicom_zip import first_dicom_file
from kitspipe.imaging.scratch import temporary_folder

_NAME_TAG = "0010|0010"
_SHORTEST_PART = 3


def patient_name(path: Path) -> str | None:
    """The PatientName of a DICOM folder or zip, parts apart by a blank.

    None where the path is another kind of file, or none is told; all of a series have one name,
    so a single file is read.
    """
    series = find_series(path)
    if series is None:
        return None
    with _first_dicom_file(series[0]) as file:
        if file is None:
            return None
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
            raw = reader.GetMetaData(_NAME_TAG) if reader.HasMetaDataKey(_NAME_TAG) else ""
        except (RuntimeError, UnicodeDecodeError):
            return None
    # Family, given and middle name, prefix, suffix; other scripts. Source: DICOM PS3.5 6.2.1.
    return " ".join(re.split(r"[\^=\s\0]+", raw)).strip() or None


def without_name(text: str, name: str | None) -> str:
    """The text with each part of the name taken out, whatever its case.

    Parts of one or two letters stay: they are in too many words.
    """
    for part in sorted((name or "").split(), key=len, reverse=True):
        if len(part) >= _SHORTEST_PART:
            text = re.sub(re.escape(part), "…", text, flags=re.IGNORECASE)
    return text


@contextmanager
def _first_dicom_file(path: Path) -> Iterator[Path | None]:
    if path.is_dir():
        files = (file for file in sorted(path.iterdir()) if file.is_file())
        yield next((file for file in files if starts_as_dicom(file)), None)
        return
    content = first_dicom_file(path)
    if content is None:
        yield None
        return
    with temporary_folder() as folder:
        file = folder / "slice"
        file.write_bytes(content)
        yield file
