"""Probabilities as files: uint8, 255 is certain, cropped; one NIfTI file per class.

A file holds the box of the scan's own voxels in which a class is anywhere possible, with origin and
axes that place it on the scan; outside, the probability is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_labels, write_labels
from kitspipe.imaging.header import Header, header_for
from kitspipe.imaging.resample import resample_linear
from kitspipe.imaging.volume import Box, Grid, Volume

CERTAIN = 255
_SLICES_AT_ONCE = 16
_OFF_GRID_VOXELS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageProbability:
    """What a stage's networks say of a class, on their own voxels.

    Args:
        name: kidney, tumor or cyst.
        array: (Z, Y, X) in [0, 1].
        grid: its place; axes as the scan's.
    """

    name: str
    array: NDArray[np.float32]
    grid: Grid


def on_scan(maps: Sequence[StageProbability], grid: Grid) -> Volume:
    """A class's maps on the scan's voxels, the highest where they overlap, uint8, cropped.

    Args:
        maps: of one class, one per region; empty gives a single voxel of 0.
        grid: the scan's.
    """
    places = [(found, box) for found in maps if (box := _reached(found, grid)) is not None]
    if not places:
        corner = Box(start=(0, 0, 0), stop=(1, 1, 1))
        return Volume(array=np.zeros(corner.shape, np.uint8), grid=grid.crop(corner))
    start = np.min([box.start for _, box in places], axis=0).tolist()
    stop = np.max([box.stop for _, box in places], axis=0).tolist()
    whole = np.zeros(Box(start=tuple(start), stop=tuple(stop)).shape, np.uint8)
    for found, box in places:
        for first in range(box.start[0], box.stop[0], _SLICES_AT_ONCE):
            last = min(first + _SLICES_AT_ONCE, box.stop[0])
            slab = Box(start=(first, *box.start[1:]), stop=(last, *box.stop[1:]))
            values = resample_linear(found.array, found.grid, grid.crop(slab))
            inside = tuple(
                slice(a - s, b - s) for a, b, s in zip(slab.start, slab.stop, start, strict=True)
            )
            scaled = np.rint(values * CERTAIN).astype(np.uint8)
            np.maximum(whole[inside], scaled, out=whole[inside])
    used = Box.around(whole > 0) or Box(start=(0, 0, 0), stop=(1, 1, 1))
    place = Box(
        start=tuple(a + s for a, s in zip(used.start, start, strict=True)),
        stop=tuple(b + s for b, s in zip(used.stop, start, strict=True)),
    )
    return Volume(array=whole[used.slices], grid=grid.crop(place))


def write_probabilities(path: Path, probability: Volume, header: Header) -> None:
    """Write a cropped map; its axes run in the file as those of the scan do."""
    write_labels(path, probability, header_for(probability.grid, axes=header.axes))


def read_probabilities(path: Path, grid: Grid) -> NDArray[np.float32]:
    """A class's probability on all voxels of its scan.

    Args:
        path: `probabilities/CASE_CLASS.nii.gz`, written by kitspipe_predict.
        grid: the scan's, `read_image(scan)[0].grid`.

    Returns:
        (Z, Y, X) float32 in [0, 1], off by at most 1/510.

    Raises:
        UserError: the file can't be read, or belongs to a scan with other voxels.
    """
    cropped, _ = read_labels(path)
    corner = grid.to_index(cropped.grid.origin)
    start = np.rint(corner).astype(int)
    stop = start + cropped.grid.shape
    is_inside = bool((start >= 0).all() and (stop <= grid.shape).all())
    box = Box(start=tuple(start.tolist()), stop=tuple(stop.tolist()))
    if not is_inside or not grid.crop(box).close_to(
        cropped.grid, _OFF_GRID_VOXELS * min(grid.spacing)
    ):
        raise UserError(
            path,
            found=f"probabilities of voxels that start at {np.round(corner, 2).tolist()} (Z, Y, X)",
            expected=f"a part of the scan's {grid.shape} voxels",
            remedy="give the scan that they were predicted from",
        )
    whole = np.zeros(grid.shape, np.float32)
    whole[box.slices] = cropped.array / np.float32(CERTAIN)
    return whole


def _reached(found: StageProbability, grid: Grid) -> Box | None:
    """The scan's voxels that a map may say something of; None where it is 0 everywhere."""
    box = Box.around(found.array >= 0.5 / CERTAIN)  # What rounds to 1.
    if box is None:
        return None
    # A voxel more on each side, towards which interpolation fades.
    ends = np.array([np.array(box.start) - 1.0, np.array(box.stop, float)])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
    places = grid.to_index(found.grid.to_world(corners))
    low, high = np.floor(places.min(axis=0)), np.ceil(places.max(axis=0)) + 1
    start = np.clip(low, 0, np.array(grid.shape) - 1).astype(int)
    stop = np.clip(high, start + 1, grid.shape).astype(int)
    return Box(start=tuple(start.tolist()), stop=tuple(stop.tolist()))
