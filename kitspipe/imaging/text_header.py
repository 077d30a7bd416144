"""NRRD and MetaImage: headers checked before SimpleITK sees them, voxels read to the last byte.

SimpleITK replaces what it can't parse by defaults, crashes on some damaged headers, and fills up
voxels that are not there. Arrays are in the file's order (k, j, i).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.packed import Packing, read_packed

Fields = Mapping[str, str]

_LONGEST_HEADER_BYTES = 1 << 24
_MOST_DIMENSIONS = 10

# Source: MetaIO's metaTypes.h, MET_LONG being 4 bytes wide; NRRD0005 definition, section 5.
_META_DTYPES = {
    "MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2",
    "MET_UINT": "u4", "MET_INT": "i4", "MET_ULONG": "u4", "MET_LONG": "i4",
    "MET_ULONG_LONG": "u8", "MET_LONG_LONG": "i8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NRRD_DTYPES = {
    name: dtype
    for dtype, names in {
        "i1": "signed char, int8, int8_t",
        "u1": "uchar, unsigned char, uint8, uint8_t",
        "i2": "short, short int, signed short, signed short int, int16, int16_t",
        "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
        "i4": "int, signed int, int32, int32_t",
        "u4": "uint, unsigned int, uint32, uint32_t",
        "i8": "longlong, long long, long long int, signed long long, signed long long int, "
        "int64, int64_t",
        "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(", ")
}
_NRRD_PACKINGS: Mapping[str, Packing] = {
    "raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Where and how a file keeps its voxels.

    Args:
        file: it, or the data file that it names.
        offset: bytes before the voxels, -1: they end the file.
        packing: how they are compressed.
        size: along the file's axes, the first one fastest.
        spacing: mm along the same axes; empty where it is not a 3D file.
        dtype: with byte order.
    """

    file: Path
    offset: int
    packing: Packing
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    dtype: np.dtype[Any]


def read_stored(path: Path) -> Stored:
    """What the header of a `.nrrd`, `.mha` or `.mhd` says of its voxels.

    Raises:
        OSError: a file can't be opened.
        ValueError: a field is missing or means nothing.
    """
    with path.open("rb") as file:
        return _nrrd(path, file) if path.name.lower().endswith(".nrrd") else _meta(path, file)


def read_voxels(path: Path) -> NDArray[Any]:
    """The values (k, j, i) of such a file, in its own type.

    Raises:
        OSError, EOFError, zlib.error: the file is cut short or corrupt.
        ValueError: header and voxels contradict each other.
    """
    stored = read_stored(path)
    values = read_packed(
        stored.file, stored.offset, stored.packing, stored.size[::-1], stored.dtype
    )
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _meta(path: Path, file: IO[bytes]) -> Stored:
    fields = _meta_fields(file)
    dimensions = _whole(fields, "NDims", least=1, most=_MOST_DIMENSIONS)
    size = _sizes(fields, "DimSize", dimensions)
    spacing_key = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    spacing = tuple(_finite(fields, spacing_key, dimensions))
    _require(min(spacing) > 0, spacing_key, fields)
    for key in ("Offset", "Position", "Origin"):
        if key in fields:
            _finite(fields, key, dimensions)
    for key in ("TransformMatrix", "Rotation", "Orientation"):
        if key in fields:
            _finite(fields, key, dimensions**2)
    if "ElementNumberOfChannels" in fields:
        _whole(fields, "ElementNumberOfChannels", least=1, most=99)
    _refuse_scaled(fields)
    _require(_flag(fields, "BinaryData", default=True), "BinaryData", fields)
    kind = fields.get("ElementType", "none").removesuffix("_ARRAY")
    _require(kind in _META_DTYPES, "ElementType", fields)
    is_big = _flag(fields, "BinaryDataByteOrderMSB", default=False) or _flag(
        fields, "ElementByteOrderMSB", default=False
    )
    data, offset = _meta_data(path, fields, file.tell())
    is_packed = _flag(fields, "CompressedData", default=False)
    if is_packed and "CompressedDataSize" in fields:
        there = data.stat().st_size - offset
        _whole(fields, "CompressedDataSize", least=there, most=there)
    return Stored(
        file=data,
        offset=offset,
        packing="zlib" if is_packed else "raw",
        size=size,
        spacing=spacing if dimensions == 3 else (),
        dtype=np.dtype((">" if is_big else "<") + _META_DTYPES[kind]),
    )


def _meta_fields(file: IO[bytes]) -> dict[str, str]:
    """Fields up to that which names the data, always the last."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = file.readline(_LONGEST_HEADER_BYTES)
        if not line or file.tell() > _LONGEST_HEADER_BYTES:
            raise ValueError("a header without ElementDataFile")
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals and key.strip():
            raise ValueError(f"a header with the line {key.strip()[:60]!r}")
        fields[key.strip()] = value.strip()
    return fields


def _meta_data(path: Path, fields: Fields, header_bytes: int) -> tuple[Path, int]:
    name = fields["ElementDataFile"]
    skipped = _whole(fields, "HeaderSize", least=-1) if "HeaderSize" in fields else 0
    if name.upper() == "LOCAL":
        _require(skipped < 1, "HeaderSize", fields)
        return path, header_bytes if skipped == 0 else -1
    return _data_file(path, name), skipped


def _refuse_scaled(fields: Fields) -> None:
    # SimpleITK hands out the values without this.
    for key, none in (
        ("ElementToIntensityFunctionSlope", 1),
        ("ElementToIntensityFunctionOffset", 0),
    ):
        if key in fields:
            _require(_finite(fields, key, 1)[0] == none, key, fields)


def _nrrd(path: Path, file: IO[bytes]) -> Stored:
    fields = _nrrd_fields(file)
    dimensions = _whole(fields, "dimension", least=1, most=_MOST_DIMENSIONS)
    size = _sizes(fields, "sizes", dimensions)
    _require("space directions" in fields or "spacings" in fields, "space directions", fields)
    packing = fields.get("encoding", "").lower()
    _require(packing in _NRRD_PACKINGS, "encoding", fields)
    kind = fields.get("type", "").lower()
    _require(kind in _NRRD_DTYPES, "type", fields)
    order = fields.get("endian", "little" if _NRRD_DTYPES[kind][1] == "1" else "").lower()
    _require(order in ("little", "big"), "endian", fields)
    for key in ("line skip", "lineskip"):
        _require(fields.get(key, "0") == "0", key, fields)
    name = fields.get("data file", fields.get("datafile"))
    key = "byteskip" if "byteskip" in fields else "byte skip"
    skipped = _whole(fields, key, least=-1) if key in fields else 0
    start = file.tell() if name is None else 0
    return Stored(
        file=path if name is None else _data_file(path, name),
        offset=-1 if skipped < 0 else start + skipped,
        packing=_NRRD_PACKINGS[packing],
        size=size,
        spacing=_nrrd_spacing(fields) if dimensions == 3 else (),
        dtype=np.dtype((">" if order == "big" else "<") + _NRRD_DTYPES[kind]),
    )


def _nrrd_fields(file: IO[bytes]) -> dict[str, str]:
    """Fields up to the empty line."""
    if not file.readline(99).startswith(b"NRRD000"):
        raise ValueError("no NRRD header")
    fields: dict[str, str] = {}
    while line := file.readline(_LONGEST_HEADER_BYTES).rstrip(b"\r\n"):
        if file.tell() > _LONGEST_HEADER_BYTES:
            raise ValueError("a header without end")
        key, is_field, value = line.decode("latin-1").partition(": ")
        if is_field and not key.startswith("#"):
            fields[key.strip().lower()] = value.strip()
    return fields


def _nrrd_spacing(fields: Fields) -> tuple[float, ...]:
    """Of a 3D file, whose geometry has to be finite."""
    numbers = {}
    for key, count in (("space directions", 9), ("space origin", 3), ("spacings", 3)):
        if key in fields:
            plain = fields[key].translate(str.maketrans("(),", "   "))
            _require(len(plain.split()) == count, key, fields)
            numbers[key] = _finite({key: plain}, key, count)
    if "spacings" in numbers:
        return tuple(numbers["spacings"])
    vectors = numbers["space directions"]
    return tuple(math.hypot(*vectors[axis : axis + 3]) for axis in (0, 3, 6))


def _data_file(path: Path, name: str) -> Path:
    file = path.parent / name
    if not name or not file.is_file():
        raise ValueError(f"voxels in another file, {name!r}, and that is no single file beside it")
    return file


def _sizes(fields: Fields, key: str, count: int) -> tuple[int, ...]:
    parts = fields.get(key, "").split()
    is_sound = len(parts) == count and all(part.isdecimal() and int(part) for part in parts)
    _require(is_sound, key, fields)
    return tuple(map(int, parts))


def _whole(fields: Fields, key: str, *, least: int, most: int = 1 << 62) -> int:
    try:
        number = int(fields.get(key, ""))
    except ValueError:
        number = least - 1
    _require(least <= number <= most, key, fields)
    return number


def _finite(fields: Fields, key: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in fields.get(key, "").split()]
    except ValueError:
        numbers = []
    _require(len(numbers) == count and all(map(math.isfinite, numbers)), key, fields)
    return numbers


def _flag(fields: Fields, key: str, *, default: bool) -> bool:
    said = fields.get(key, str(default)).lower()
    _require(said in ("true", "false", "1", "0"), key, fields)
    return said in ("true", "1")


def _require(is_sound: bool, key: str, fields: Fields) -> None:
    if not is_sound:
        said = f"{fields[key][:60]!r}" if key in fields else "nothing"
        raise ValueError(f"a header that says {said} for {key!r}")
