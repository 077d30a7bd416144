"""NIfTI files: headers that contradict themselves, and voxels read to the last byte.

SimpleITK takes what can't be for a default, truncated or corrupt files for whole ones, and no
NIfTI-2. Arrays are in the file's order (k, j, i).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from kitspipe.imaging.header import FARTHEST_MM, NIFTI_HEADER_BYTES
from kitspipe.imaging.packed import Packing, chunks, fill, require_room
from kitspipe.imaging.volume import Shape

# datatype -> numpy's. Source: nifti1.h, DT_*.
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
FIRST_VOXEL_BYTE = 352
# Field of NIfTI-2: its place and type there, and in NIfTI-1. Source: nifti1.h and nifti2.h.
_FIELDS = (
    (12, "i2", 1, 70, "i2"),  # datatype
    (14, "i2", 1, 72, "i2"),  # bitpix
    (16, "i8", 8, 40, "i2"),  # dim
    (104, "f8", 8, 76, "f4"),  # pixdim
    (168, "i8", 1, 108, "f4"),  # vox_offset
    (176, "f8", 2, 112, "f4"),  # scl_slope, scl_inter
    (344, "i4", 2, 252, "i2"),  # qform_code, sform_code
    (352, "f8", 18, 256, "f4"),  # quatern, qoffset, srow
    (500, "i4", 1, 123, "u1"),  # xyzt_units
)
_NIFTI2_HEADER_BYTES = 540
# Over 300 mm this moves a voxel by 0.3 mm, less than half of one.
_MOST_SHEAR = _SPACING_TOLERANCE = 1e-3


def read_header_bytes(path: Path) -> bytes:
    """The header of a file as one of NIfTI-1: its first 348 bytes, fewer where it is shorter.

    Raises:
        OSError, EOFError, zlib.error: it is no file, or no gzip.
        ValueError: a NIfTI-2 header with what NIfTI-1 has no room for.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        raw = bytes(file.read(_NIFTI2_HEADER_BYTES))
    if raw[4:7] != b"n+2":
        return raw[:NIFTI_HEADER_BYTES]
    if len(raw) < _NIFTI2_HEADER_BYTES:
        raise ValueError("the file ends within its header")
    return _as_nifti_1(raw)


def is_nifti_2(path: Path) -> bool:
    """Whether a file with a sound header has one of NIfTI-2."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        return bytes(file.read(7))[4:] == b"n+2"


def _as_nifti_1(raw: bytes) -> bytes:
    order = next((o for o in "<>" if struct.unpack(f"{o}i", raw[:4]) == (len(raw),)), None)
    if order is None:
        raise ValueError("no NIfTI-2 header, though it says so")
    header = bytearray(NIFTI_HEADER_BYTES)
    header[:4] = struct.pack(f"{order}i", NIFTI_HEADER_BYTES)
    header[344:] = b"n+1\0"
    for place, kind, count, place_1, kind_1 in _FIELDS:
        values = np.frombuffer(raw, order + kind, count, place)
        # Coordinates are rounded; what is beyond float32 is infinite, and refused later.
        with np.errstate(over="ignore", invalid="ignore"):
            values_1 = values.astype(order + kind_1)
        if kind[0] == "i" and not np.array_equal(values_1, values):
            raise ValueError(f"a NIfTI-2 header with {_listed(values)}, too large for a scan")
        header[place_1 : place_1 + values_1.nbytes] = values_1.tobytes()
    return bytes(header)


def doubts(raw: bytes) -> tuple[str, ...]:
    """What a header leaves open and was assumed, for the user to look at.

    Args:
        raw: as `read_header_bytes` gives it; empty for other formats.
    """
    if not raw or max(struct.unpack(f"{_byte_order(raw)}2h", raw[252:256])) > 0:
        return ()
    return (
        "neither qform nor sform says how the patient lies; its axes were taken to run to the "
        "left, the back and the head (LPS, as SimpleITK does; nibabel takes LAS, the NIfTI "
        "standard RAS)",
    )


def refuse_contradictions(raw: bytes) -> None:
    """Raise where a header can't be right, but SimpleITK would make something of it.

    Args:
        raw: as `read_header_bytes` gives it.

    Raises:
        ValueError: no NIfTI header, impossible sizes, types or places, or an sform that is
            sheared or has another spacing than pixdim.
    """
    if len(raw) < NIFTI_HEADER_BYTES:
        raise ValueError("the file ends within its header")
    order = _byte_order(raw)
    sizes = struct.unpack(f"{order}8h", raw[40:56])
    if not 1 <= sizes[0] <= 7 or min(sizes[1 : sizes[0] + 1]) < 1:
        raise ValueError(f"a NIfTI header of impossible size, dim {sizes}")
    code, bits = struct.unpack(f"{order}2h", raw[70:74])
    if code in _DTYPES and bits not in (0, 8 * np.dtype(_DTYPES[code]).itemsize):
        raise ValueError(f"a NIfTI header with {bits} bits for values of type {code}")
    (offset,) = struct.unpack(f"{order}f", raw[108:112])
    if not (FIRST_VOXEL_BYTE <= offset < 1 << 31 and offset == int(offset)):
        raise ValueError(f"a NIfTI header with voxels from byte {offset:g} on")
    slope, intercept = struct.unpack(f"{order}2f", raw[112:120])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(intercept):
        raise ValueError(f"a NIfTI header with an intercept, scl_inter, of {intercept:g}")
    spacing = np.array(struct.unpack(f"{order}3f", raw[80:92]))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"a NIfTI header with a spacing, pixdim, of {_listed(spacing)}")
    qform_code, sform_code = struct.unpack(f"{order}2h", raw[252:256])
    if sform_code > 0:
        _refuse_odd_sform(np.array(struct.unpack(f"{order}12f", raw[280:328])), spacing)
    elif qform_code > 0:
        _refuse_odd_qform(np.array(struct.unpack(f"{order}6f", raw[256:280])))


def _byte_order(raw: bytes) -> str:
    for order in "<>":
        (header_bytes,) = struct.unpack(f"{order}i", raw[:4])
        if header_bytes == NIFTI_HEADER_BYTES and raw[344:348] == b"n+1\0":
            return order
    raise ValueError("no NIfTI header of one file with its voxels (n+1)")


def _refuse_odd_sform(rows: NDArray[np.float64], spacing: NDArray[np.float64]) -> None:
    """Raise where SimpleITK would take the qform or pixdim in the sform's place."""
    # SimpleITK silently takes the qform where the sform's offsets are too large.
    if not (np.isfinite(rows).all() and np.abs(rows).max() <= FARTHEST_MM):
        raise ValueError(f"a NIfTI header with an sform of {_listed(rows)} mm")
    axes = rows.reshape(3, 4)[:, :3]
    lengths = np.sqrt((axes**2).sum(axis=0))
    cosines = axes.T @ axes / np.outer(lengths, lengths).clip(1e-6)
    if np.abs(cosines[np.triu_indices(3, 1)]).max() > _MOST_SHEAR:
        raise ValueError("an sform that is not orthonormal")
    if not np.allclose(lengths, spacing, rtol=_SPACING_TOLERANCE, atol=0):
        raise ValueError(
            f"a NIfTI header with two spacings, pixdim {_listed(spacing)} mm "
            f"and sform {_listed(lengths)} mm"
        )


def _refuse_odd_qform(values: NDArray[np.float64]) -> None:
    """Raise where the quaternion (b, c, d) is longer than 1, or the offsets are no place."""
    is_turn = float((values[:3] ** 2).sum()) <= 1 + _MOST_SHEAR
    if not (is_turn and np.abs(values[3:]).max() <= FARTHEST_MM):
        raise ValueError(f"a NIfTI header with a qform of {_listed(values)}")


def with_size(raw: bytes, size: Shape) -> bytes:
    """A header of this machine's byte order, of a volume of so many voxels along (i, j, k)."""
    return raw[:42] + struct.pack("=3h", *size) + raw[48:]


def read_voxels(path: Path, size: Shape) -> NDArray[Any]:
    """The values (k, j, i) of a file, in its own type or, where it scales them, float32.

    As `read_slabs`, in one piece.
    """
    [(_, whole)] = read_slabs(path, size, size[2])
    return whole


def read_slabs(path: Path, size: Shape, slices: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """The values of a file some slices at a time: the first one's number, and (k, j, i).

    They are in the file's own type or, where it scales them, float32. Whether the file can hold
    them is looked at before the first one is asked for; other errors may come last.

    Args:
        path: `.nii` or `.nii.gz`; the checksum of the latter is verified.
        size: voxels along the file's axes (i, j, k).
        slices: of the file's last axis, k, at once.

    Raises:
        OSError, EOFError, zlib.error, IsalError: the file is cut short or corrupt.
        ValueError: it has values of a type that is no CT's or mask's (complex, RGB), or goes on
            after its last voxel.
    """
    is_packed = path.name.lower().endswith(".gz")
    packing: Packing = "gzip" if is_packed else "raw"
    raw = read_header_bytes(path)
    order = _byte_order(raw)
    (code,) = struct.unpack(f"{order}h", raw[70:72])
    offset, slope, intercept = struct.unpack(f"{order}3f", raw[108:120])
    if code not in _DTYPES:
        raise ValueError(f"values of NIfTI type {code}, which are not single numbers")
    dtype = np.dtype(order + _DTYPES[code])
    voxel_bytes = int(np.prod(size, dtype=np.int64)) * dtype.itemsize
    require_room(path, int(offset), packing, voxel_bytes + int(offset) * is_packed)
    is_scaled = np.isfinite([slope, intercept]).all() and slope != 0
    is_scaled = is_scaled and (slope, intercept) != (1, 0)

    def read() -> Iterator[tuple[int, NDArray[Any]]]:
        with igzip.open(path, "rb") if is_packed else path.open("rb") as opened:
            file = cast("IO[bytes]", opened)
            # Past the header's extensions.
            file.seek(int(offset))
            parts = chunks(file)
            for first in range(0, size[2], slices):
                last = min(first + slices, size[2])
                stored = np.empty((last - first, size[1], size[0]), dtype)
                parts = fill(stored, parts, is_last=last == size[2])
                native = stored.astype(dtype.newbyteorder("="), copy=False)
                yield first, _scaled(native, slope, intercept) if is_scaled else native

    return read()


def _scaled(values: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    scaled = np.empty(values.shape, np.float32)
    # What is beyond float32 is infinite, and ends as the largest HU.
    with np.errstate(over="ignore", invalid="ignore"):
        for k, plane in enumerate(values):
            scaled[k] = plane * float(slope) + float(intercept)
    return scaled


def _listed(values: NDArray[Any]) -> str:
    return " x ".join(f"{value:g}" for value in values)
