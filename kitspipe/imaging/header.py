"""A file's own geometry, and the way from its axes to canonical ones and back.

A file's sizes, spacings and points are in SimpleITK's order (x, y, z), its arrays in the reverse
one. Canonical arrays are (Z, Y, X) as in `volume.py`.
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.volume import Grid, Matrix, Shape, Triple

# Where NIfTI-1 keeps its geometry: pixdim[0:4], xyzt_units, qform_code and sform_code,
# quaternion + offset + srow. Source: nifti1.h.
_PIXDIM, _UNITS = slice(76, 92), slice(123, 124)
_CODES, _TRANSFORMS = slice(252, 256), slice(256, 328)
NIFTI_HEADER_BYTES = 348
_SPACING_RANGE_MM = (0.01, 100.0)
FARTHEST_MM = 1e5

# The way a file axis runs -> (canonical array axis, sign).
_LETTERS = {"S": (0, 1), "I": (0, -1), "P": (1, 1), "A": (1, -1), "L": (2, 1), "R": (2, -1)}


@dataclass(frozen=True, kw_only=True, slots=True)
class NiftiGeometry:
    """What a NIfTI header says on geometry, as little-endian bytes.

    SimpleITK rounds this when it writes; put back it makes a mask lie on its CT bit for bit.
    """

    pixdim: bytes
    units: bytes
    codes: bytes
    transforms: bytes

    @staticmethod
    def of(raw: bytes) -> NiftiGeometry | None:
        """The geometry in the first 348 bytes of a file; None where they are no NIfTI-1 header."""
        if len(raw) < NIFTI_HEADER_BYTES or raw[344:347] != b"n+1":
            return None
        swapped = int.from_bytes(raw[:4], "little") != NIFTI_HEADER_BYTES

        def little(part: slice, dtype: str) -> bytes:
            values = np.frombuffer(raw[part], dtype)
            return values.byteswap().tobytes() if swapped else values.tobytes()

        return NiftiGeometry(
            pixdim=little(_PIXDIM, "u4"),
            units=raw[_UNITS],
            codes=little(_CODES, "u2"),
            transforms=little(_TRANSFORMS, "u4"),
        )

    def put_into(self, raw: bytes) -> bytes:
        """A header of this machine's byte order with its geometry replaced by this one."""

        def native(values: bytes, dtype: str) -> bytes:
            array = np.frombuffer(values, dtype)
            return array.byteswap().tobytes() if sys.byteorder == "big" else values

        patched = bytearray(raw)
        patched[_PIXDIM] = native(self.pixdim, "u4")
        patched[_UNITS] = self.units
        patched[_CODES] = native(self.codes, "u2")
        patched[_TRANSFORMS] = native(self.transforms, "u4")
        return bytes(patched)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Geometry of a file as the file has it.

    Args:
        size: voxels along the file's axes (i, j, k).
        spacing: mm along (i, j, k).
        origin: (x, y, z) mm in LPS of the first voxel's centre.
        direction: 3x3 row by row; column a is the unit vector in LPS along file axis a.
        suffix: the file's, `.nii.gz` for DICOM series.
        stored_dtype: numpy's name of the type on disk.
        nifti: what NIfTI-1 files need to be written back bit for bit.
        nrrd: the same for NRRD: the header's lines on geometry.
        doubts: what the file leaves open and was assumed, for the user to look at.

    Raises:
        ValueError: no grid (see `Grid`), or none that a patient has.
    """

    size: Shape
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...]
    suffix: str = ".nii.gz"
    stored_dtype: str = "int16"
    nifti: NiftiGeometry | None = None
    nrrd: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.grid  # noqa: B018  # no header without a grid
        # Resampling others would take any memory.
        low, high = _SPACING_RANGE_MM
        if not all(low <= spacing <= high for spacing in self.spacing):
            raise ValueError(f"spacing {self.spacing} mm is that of no CT")
        if not all(abs(place) <= FARTHEST_MM for place in self.origin):
            raise ValueError(f"origin {self.origin} mm is that of no CT")

    @property
    def grid(self) -> Grid:
        """The canonical grid: the file's axes permuted and turned, never resampled."""
        file_axes = _nearest_axes(self.direction)
        columns = np.asarray(self.direction).reshape(3, 3)
        origin = np.asarray(self.origin, float)
        direction = np.empty((3, 3))
        for axis, (file_axis, sign) in enumerate(file_axes):
            direction[:, axis] = sign * columns[:, file_axis]
            if sign < 0:
                length_mm = self.spacing[file_axis] * (self.size[file_axis] - 1)
                origin = origin + columns[:, file_axis] * length_mm
        z, y, x = (file_axis for file_axis, _ in file_axes)
        return Grid(
            shape=(self.size[z], self.size[y], self.size[x]),
            spacing=(self.spacing[z], self.spacing[y], self.spacing[x]),
            origin=_triple(origin),
            direction=_matrix(direction),
        )

    @property
    def axes(self) -> str:
        """Where the file's axes i, j, k run, nearest: `IPL` for KiTS, `LPS` for most CTs."""
        names = {place: letter for letter, place in _LETTERS.items()}
        letters = [""] * 3
        for axis, (file_axis, sign) in enumerate(_nearest_axes(self.direction)):
            letters[file_axis] = names[axis, sign]
        return "".join(letters)

    def to_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """The file's array (k, j, i) as (Z, Y, X); a view."""
        file_axes = _nearest_axes(self.direction)
        turned = array.transpose([2 - file_axis for file_axis, _ in file_axes])
        z, y, x = (slice(None, None, sign) for _, sign in file_axes)
        canonical: NDArray[Any] = turned[z, y, x]
        return canonical

    def from_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array (Z, Y, X) as the file has it, (k, j, i); a view, inverse of `to_canonical`."""
        file_axes = _nearest_axes(self.direction)
        z, y, x = (slice(None, None, sign) for _, sign in file_axes)
        turned: NDArray[Any] = array[z, y, x]
        order = np.argsort([2 - file_axis for file_axis, _ in file_axes])
        stored: NDArray[Any] = turned.transpose(order.tolist())
        return stored


def header_for(grid: Grid, axes: str = "LPS", suffix: str = ".nii.gz") -> Header:
    """The header of a new file with a canonical grid.

    Args:
        grid: canonical, oblique or not.
        axes: where the file's axes i, j, k run, a letter each: `IPL` has slices first, as KiTS.
        suffix: the file's.

    Raises:
        ValueError: the grid is not canonical, or `axes` doesn't name each axis once.
    """
    places = [_LETTERS.get(letter, (-1, 0)) for letter in axes]
    if sorted(axis for axis, _ in places) != [0, 1, 2]:
        raise ValueError(f"axes {axes!r} are not three of S/I, P/A, L/R")
    if not grid.is_canonical:
        raise ValueError("the grid's axes do not point to superior, posterior and left")
    columns = np.asarray(grid.direction)
    origin = np.asarray(grid.origin, float)
    direction = np.empty((3, 3))
    for file_axis, (axis, sign) in enumerate(places):
        direction[:, file_axis] = sign * columns[:, axis]
        if sign < 0:
            origin = origin + columns[:, axis] * (grid.spacing[axis] * (grid.shape[axis] - 1))
    i, j, k = (axis for axis, _ in places)
    return Header(
        size=(grid.shape[i], grid.shape[j], grid.shape[k]),
        spacing=(grid.spacing[i], grid.spacing[j], grid.spacing[k]),
        origin=_triple(origin),
        direction=tuple(map(float, direction.ravel())),
        suffix=suffix,
    )


def _nearest_axes(direction: tuple[float, ...]) -> tuple[tuple[int, int], ...]:
    """For Z, Y, X the file axis that runs nearest to it and its sign, each file axis once."""
    columns = np.asarray(direction).reshape(3, 3)
    order = max(
        itertools.permutations(range(3)),
        key=lambda axes: math.fsum(abs(columns[2 - z, a]) for z, a in enumerate(axes)),
    )
    return tuple((a, 1 if columns[2 - z, a] >= 0 else -1) for z, a in enumerate(order))


def _triple(values: NDArray[np.float64]) -> Triple:
    x, y, z = map(float, values)
    return (x, y, z)


def _matrix(values: NDArray[np.float64]) -> Matrix:
    return (_triple(values[0]), _triple(values[1]), _triple(values[2]))
