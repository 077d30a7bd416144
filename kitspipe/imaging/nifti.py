"""Voxels of NIfTI-1 files, read to the last byte: a truncated or corrupt file is an error.

Arrays are in the file's order (k, j, i).
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.header import NIFTI_HEADER_BYTES
from kitspipe.imaging.volume import Shape

# datatype -> numpy's. Source: nifti1.h, DT_*.
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_CHUNK_BYTES = 1 << 22


def read_voxels(path: Path, size: Shape) -> NDArray[Any]:
    """The values (k, j, i) of a NIfTI-1 file, in its own type or, where it scales them, float32.

    Args:
        path: `.nii` or `.nii.gz`; the checksum of the latter is verified.
        size: voxels along the file's axes (i, j, k).

    Raises:
        OSError, EOFError, zlib.error: the file is cut short or corrupt.
        ValueError: it has values of a type that is no CT's or mask's (complex, RGB).
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        raw = file.read(NIFTI_HEADER_BYTES)
        order = "<" if struct.unpack("<i", raw[:4])[0] == NIFTI_HEADER_BYTES else ">"
        (code,) = struct.unpack(f"{order}h", raw[70:72])
        offset, slope, intercept = struct.unpack(f"{order}3f", raw[108:120])
        if code not in _DTYPES:
            raise ValueError(f"values of NIfTI type {code}, which are not single numbers")
        stored = np.empty(size[::-1], np.dtype(order + _DTYPES[code]))
        _fill(cast("IO[bytes]", file), int(offset) - NIFTI_HEADER_BYTES, stored)
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if not np.isfinite([slope, intercept]).all() or slope == 0 or (slope, intercept) == (1, 0):
        return native
    scaled = np.empty(native.shape, np.float32)
    for k, values in enumerate(native):
        scaled[k] = values * float(slope) + float(intercept)
    return scaled


def _fill(file: IO[bytes], skipped: int, stored: NDArray[Any]) -> None:
    """Read past the header's extensions, then all voxels, then to the end for the checksum."""
    file.read(max(0, skipped))
    place = memoryview(stored.reshape(-1).view(np.uint8).data)
    while place:
        count = file.readinto(place[:_CHUNK_BYTES])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"the file ends {len(place)} bytes before its last voxel")
        place = place[count:]
    while file.read(_CHUNK_BYTES):
        pass
