"""Voxels in files, compressed or not: exactly as many as the header says, or an error."""

from __future__ import annotations

import bz2
import gzip
import itertools
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["raw", "gzip", "zlib", "bzip2"]

_CHUNK_BYTES = 1 << 22
# What a byte can unpack to at most. Source: zlib's and bzip2's documentation.
_MOST_EXPANDED = {"raw": 1, "gzip": 1032, "zlib": 1032, "bzip2": 1 << 16}


def require_room(file: Path, offset: int, packing: Packing, needed_bytes: int) -> None:
    """Do nothing where the file may hold this many bytes; asked before memory is taken for them.

    Raises:
        EOFError: it is too short for them.
    """
    there = file.stat().st_size if packing != "raw" else file.stat().st_size - max(0, offset)
    if needed_bytes > max(0, there) * _MOST_EXPANDED[packing]:
        raise EOFError(
            f"the header declares {needed_bytes} bytes of voxels, the file has {max(0, there)}"
        )


def read_packed(
    file: Path, offset: int, packing: Packing, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The values, slowest axis first.

    Args:
        file: where they are.
        offset: bytes before them, unpacked ones for `gzip`ped NIfTI only; -1: they end the file.
        packing: how they are compressed.
        shape: of the array.
        dtype: with byte order.

    Raises:
        OSError, EOFError, zlib.error: cut short or corrupt.
        ValueError: the file goes on for a row or more.
    """
    needed = math.prod(shape) * dtype.itemsize
    require_room(file, offset, packing, needed)
    if offset < 0:
        offset = file.stat().st_size - needed
    values = np.empty(shape, dtype)
    with file.open("rb") as opened:
        opened.seek(offset)
        fill(values, _unpacked(opened, packing))
    return values


def fill(values: NDArray[Any], parts: Iterator[bytes], *, is_last: bool = True) -> Iterator[bytes]:
    """Put bytes into an array, all of it; what comes behind.

    Args:
        values: contiguous.
        parts: the bytes.
        is_last: whether nothing more may come; then they are read to their end, so that checksums
            are checked.

    Raises:
        EOFError: there are too few.
        ValueError: there are too many by a row or more: header and voxels contradict each other.
    """
    place = memoryview(values.reshape(-1).view(np.uint8).data)
    more = 0
    for part in parts:
        taken = min(len(part), len(place))
        place[:taken] = part[:taken]
        place = place[taken:]
        if not is_last and not place:
            return itertools.chain([part[taken:]], parts)
        more += len(part) - taken
    if place:
        raise EOFError(f"the file ends {len(place)} bytes before its last voxel")
    if more >= values.shape[-1] * values.itemsize:
        raise ValueError(f"the file goes on for {more} bytes after its last voxel")
    return parts


def chunks(opened: IO[bytes]) -> Iterator[bytes]:
    """What is left of a file, in parts."""
    while part := opened.read(_CHUNK_BYTES):
        yield part


def _unpacked(opened: IO[bytes], packing: Packing) -> Iterator[bytes]:
    if packing == "zlib":
        return _inflated(opened)
    if packing == "gzip":
        return chunks(gzip.GzipFile(fileobj=opened))  # type: ignore[arg-type]
    return chunks(bz2.BZ2File(opened) if packing == "bzip2" else opened)


def _inflated(opened: IO[bytes]) -> Iterator[bytes]:
    """A zlib or gzip stream, which has to end."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    for packed in chunks(opened):
        part = stream.decompress(packed, _CHUNK_BYTES)
        yield part
        while stream.unconsumed_tail:
            yield stream.decompress(stream.unconsumed_tail, _CHUNK_BYTES)
    if not stream.eof:
        raise EOFError("the file ends within its compressed voxels")
