"""Resampling of planes that are all moved alike: places and weights are computed once.

Arrays are (..., Y, X).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kitspipe.training.changes import Change

V = TypeVar("V", bound=np.generic)

Indices = NDArray[np.intp]


def moved_image(array: NDArray[np.float32], change: Change) -> NDArray[np.float32]:
    """The patch (..., Y, X), bilinear, from an array over the box that was read.

    Args:
        array: (Z, Y, X) or (1, Z, Y, X) float32 over `change.read`.
        change: what was drawn.
    """
    if not change.parameters.warps:
        return _flipped(_middle(array, change, (1, 1)), change)
    rows, columns = _places(change, (1, 1), array.shape)
    corners = _corners(rows, columns, array.shape[-1])
    planes, result = _planes(array, change, (1, 1))
    part = np.empty(result.shape[1], np.float32)
    for plane, warped in zip(planes, result, strict=True):
        warped[:] = 0
        for index, weight in corners:
            # "clip" because the default checks and copies; no index is out of range.
            np.take(plane, index, out=part, mode="clip")
            np.multiply(part, weight, out=part)
            np.add(warped, part, out=warped)
    return _flipped_in_z(_unflattened(result, array, change, (1, 1)), change)


def moved_target(
    array: NDArray[np.uint8], change: Change, refinement: tuple[int, int]
) -> NDArray[np.uint8]:
    """The patch's target (..., Y*ry, X*rx), nearest, from an array over the box that was read.

    Args:
        array: (..., Y*ry, X*rx) over `change.read`.
        change: what was drawn.
        refinement: (ry, rx).
    """
    if not change.parameters.warps:
        return _flipped(_middle(array, change, refinement), change)
    rows, columns = (
        np.rint(axis).astype(np.intp) for axis in _places(change, refinement, array.shape)
    )
    index = rows * array.shape[-1] + columns
    planes, result = _planes(array, change, refinement)
    for plane, warped in zip(planes, result, strict=True):
        np.take(plane, index, out=warped, mode="clip")
    return _flipped_in_z(_unflattened(result, array, change, refinement), change)


def _places(
    change: Change, refinement: tuple[int, int], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Where each voxel of a plane comes from: (2, voxels), kept inside what was read."""
    height, width = _size(change, refinement)
    matrix, offset = change.mapping(refinement)
    places = (
        matrix[:, 0, None, None] * np.arange(height)[:, None]
        + matrix[:, 1, None, None] * np.arange(width)
        + offset[:, None, None]
    ).reshape(2, -1)
    last = np.array(shape[-2:])[:, None] - 1
    inside: NDArray[np.float64] = np.clip(places, 0, last, out=places)
    return inside


def _corners(
    rows: NDArray[np.float64], columns: NDArray[np.float64], width: int
) -> list[tuple[Indices, NDArray[np.float32]]]:
    """The four voxels around each place, in a flat plane, and what each counts.

    The last row and column have no neighbour beyond; theirs counts 0 and is clipped by `take`.
    """
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    first = top * width + left
    return [
        (first, (1 - down) * (1 - right)),
        (first + 1, (1 - down) * right),
        (first + width, down * (1 - right)),
        (first + width + 1, down * right),
    ]


def _planes(
    array: NDArray[V], change: Change, refinement: tuple[int, int]
) -> tuple[NDArray[V], NDArray[V]]:
    planes = array.reshape(-1, array.shape[-2] * array.shape[-1])
    height, width = _size(change, refinement)
    return planes, np.empty((len(planes), height * width), array.dtype)


def _unflattened(
    result: NDArray[V], array: NDArray[Any], change: Change, refinement: tuple[int, int]
) -> NDArray[V]:
    return result.reshape(*array.shape[:-2], *_size(change, refinement))


def _size(change: Change, refinement: tuple[int, int]) -> tuple[int, int]:
    return change.patch.shape[1] * refinement[0], change.patch.shape[2] * refinement[1]


def _middle(array: NDArray[V], change: Change, refinement: tuple[int, int]) -> NDArray[V]:
    """The patch without what was read around it."""
    top, left = (
        (patch - read) * fine
        for patch, read, fine in zip(
            change.patch.start[1:], change.read.start[1:], refinement, strict=True
        )
    )
    height, width = _size(change, refinement)
    return array[..., top : top + height, left : left + width]


def _flipped(array: NDArray[V], change: Change) -> NDArray[V]:
    return np.flip(array, tuple(-axis for axis in change.parameters.mirrored))


def _flipped_in_z(array: NDArray[V], change: Change) -> NDArray[V]:
    return np.flip(array, -3) if 3 in change.parameters.mirrored else array
