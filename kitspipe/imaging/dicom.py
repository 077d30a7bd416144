"""DICOM series: a folder or a zip of slices, read to canonical arrays (Z, Y, X).

Slices lie where their ImagePositionPatient says, whatever their names and numbers are. What does
not stack to a regular grid is refused: a guess would put kidneys where there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.imaging import dicom_zip
from kitspipe.imaging.dicom_bytes import starts_as_dicom
from kitspipe.imaging.dicom_series import Slice, chosen_stack, read_slice, refuse_without_series
from kitspipe.imaging.header import Header
from kitspipe.imaging.scratch import temporary_folder
from kitspipe.imaging.values import to_hounsfield
from kitspipe.imaging.volume import Triple, Volume, contiguous

_SAME_PLACE_MM = 0.01
_STEP_TOLERANCE = (0.1, 0.01)  # mm + share of the step
_DRIFT_TOLERANCE = (0.1, 0.001)  # mm + share of the way along the normal
_MOST_LISTED = 8
_UID = re.compile(r"[0-9][0-9.]{0,63}")

sitk.ProcessObject_SetGlobalWarningDisplay(False)


def is_dicom(path: Path) -> bool:
    """Whether this is a folder that directly holds DICOM files, or a zip that holds some.

    A zip too damaged to tell counts as one, for `read_series` to refuse.
    """
    if path.is_dir():
        return any(starts_as_dicom(file) for file in _files(path))
    return path.is_file() and dicom_zip.holds_dicom(path)


def series_within(path: Path, uid: str) -> Path:
    """The path that stands for one CT series of a folder or zip, as if it were a file in there.

    Headers are read, no voxels.

    Raises:
        UserError: this is no UID, or none of a CT series in there; those that are there are named.
    """
    if not _UID.fullmatch(uid):
        raise UserError(
            "--series",
            found=f"{uid!r}",
            expected="a SeriesInstanceUID: digits and dots",
            remedy="run without --series: the series of the folder are then listed",
        )
    with _unpacked(path) as folder:
        refuse_without_series(_slices(folder, path), path, uid)
    return path / uid


def find_series(path: Path) -> tuple[Path, str | None] | None:
    """The DICOM folder or zip of a path and, where it is one of `series_within`, the UID.

    None where the path is neither.
    """
    if is_dicom(path):
        return path, None
    if _UID.fullmatch(path.name) and not path.exists() and is_dicom(path.parent):
        return path.parent, path.name
    return None


def read_series(path: Path, series: str | None = None) -> tuple[Volume, Header]:
    """A CT series as int16 HU (Z, Y, X), at least -1024, and the header of a file to go with it.

    Of several CT series that with the most slices is taken, and a warning says so.

    Args:
        path: a folder that directly holds the slices, or a zip with them at any depth.
        series: UID of the one to take.

    Raises:
        UserError: there is no such CT series, its slices have gaps, stand at one place, are not
            stacked at right angles (tilted gantry) or say nothing of their spacing or values, or
            the zip is damaged or unsafe.
    """
    with stacked_slices(path, series) as (header, ordered):
        array = np.empty(header.size[::-1], np.int16)
        for part, into in zip(ordered, array, strict=True):
            into[...] = _pixels(part, path)
    canonical = contiguous(header.to_canonical(array))
    return Volume(array=canonical, grid=header.grid), header


@contextmanager
def stacked_slices(path: Path, series: str | None) -> Iterator[tuple[Header, list[Slice]]]:
    """The slices that `read_series` reads, first to last along the header's third axis.

    Their files are there as long as the context lasts. Raises as `read_series` does.
    """
    with _unpacked(path) as folder:
        stack = chosen_stack([*_slices(folder, path)], path, series)
        _refuse_incomplete(stack, path)
        yield _stacked(stack, path)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _slices(folder: Path, path: Path) -> Iterator[Slice]:
    """What the files of a folder say about themselves; `path` as of `read_slice`."""
    return (found for file in _files(folder) if (found := read_slice(file, path)))


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or a temporary one with a zip's files."""
    if path.is_dir():
        yield path
        return
    with temporary_folder() as folder:
        dicom_zip.unpack(path, folder)
        yield folder


def _refuse_incomplete(stack: Sequence[Slice], path: Path) -> None:
    """Raise for slices whose spacing or HU would be guessed."""
    for part in stack:
        is_spaced = len(part.pixel_spacing) == 2 and np.allclose(part.pixel_spacing, part.spacing)
        if not (is_spaced and part.has_rescale):
            what = "RescaleIntercept" if is_spaced else "PixelSpacing"
            raise UserError(
                path,
                found=f"slices without a usable {what}, such as {part.file.name}",
                expected="CT slices that say how large their pixels are and what HU they stand for",
                remedy="export the series again, with all of its attributes",
            )


def _stacked(stack: Sequence[Slice], path: Path) -> tuple[Header, list[Slice]]:
    """The grid of the slices, and the slices along its normal."""
    first = stack[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    # Not of length zero; what else is wrong with the directions, Header refuses.
    normal /= max(float(np.linalg.norm(normal)), 1e-6)
    places = np.array([part.position for part in stack])
    along = places @ normal
    order = np.argsort(along, kind="stable")
    along, places = along[order], places[order]
    _refuse_irregular(along, path)
    _refuse_drift(places - places[0] - np.outer(along - along[0], normal), along, path)
    step_mm = float(along[-1] - along[0]) / (len(stack) - 1)
    try:
        header = Header(
            size=(first.size[0], first.size[1], len(stack)),
            spacing=(first.spacing[0], first.spacing[1], step_mm),
            origin=_triple(places[0]),
            direction=tuple(map(float, np.stack([row, column, normal], axis=1).ravel())),
        )
    except ValueError as error:
        raise UserError(
            path,
            found=str(error),
            expected="slices with rows and columns at right angles",
            remedy="export the series again",
        ) from None
    return header, [stack[i] for i in order]


def _refuse_irregular(along: NDArray[np.float64], path: Path) -> None:
    """Raise where sorted positions in mm are not evenly spaced."""
    steps = np.diff(along)
    twice = steps < _SAME_PLACE_MM
    step_mm = float(np.median(steps[~twice])) if not twice.all() else 0.0
    absolute, relative = _STEP_TOLERANCE
    uneven = ~twice & (np.abs(steps - step_mm) > absolute + relative * step_mm)
    found = []
    if twice.any():
        found.append(
            f"more than one slice at {_listed([f'{p:.2f}' for p in along[:-1][twice]])} mm"
        )
    if uneven.any():
        gaps = [
            f"{steps[i]:.2f} mm between {along[i]:.2f} and {along[i + 1]:.2f}"
            for i in np.flatnonzero(uneven)
        ]
        found.append(
            f"gaps from {steps[~twice].min():.2f} to {steps.max():.2f} mm: {_listed(gaps)}"
        )
    if found:
        raise UserError(
            path,
            found=f"{along.size} slices from {along[0]:.2f} to {along[-1]:.2f} mm, "
            + "; ".join(found),
            expected="evenly spaced slices, none missing and none twice",
            remedy="export the whole series again; leave one phase or reconstruction in the folder",
        )


def _refuse_drift(drift: NDArray[np.float64], along: NDArray[np.float64], path: Path) -> None:
    """Raise where slices are shifted against each other within their plane."""
    absolute, relative = _DRIFT_TOLERANCE
    shifts_mm = np.linalg.norm(drift, axis=1)
    if (shifts_mm > absolute + relative * (along - along[0])).any():
        raise UserError(
            path,
            found=f"slices shifted in their plane by up to {shifts_mm.max():.1f} mm "
            "(tilted gantry)",
            expected="slices stacked at right angles",
            remedy="correct the gantry tilt (dcm2niix does) and name the NIfTI file it writes",
        )


def _pixels(part: Slice, path: Path) -> NDArray[np.int16]:
    try:
        image = sitk.ReadImage(str(part.file), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise UserError(
            path if path.is_file() else part.file,
            found=f"a slice that can't be read: {str(error).strip().splitlines()[-1]}",
            expected="an undamaged DICOM slice",
            remedy="export the series again",
        ) from None
    pixels = sitk.GetArrayFromImage(image)
    return to_hounsfield(pixels.reshape(part.size[::-1]))


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_LISTED
    return ", ".join(texts[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _triple(values: NDArray[np.float64]) -> Triple:
    x, y, z = map(float, values)
    return (x, y, z)
