"""Where kidneys may lie: a coarse and cheap look at the whole scan.

A kidney is longer than the gaps between the thin windows that are looked at, and a coarse decoder
level is enough to see it. Arrays are (Z, Y, X) on the kidney stage's grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Box, Grid, Shape
from kitspipe.prediction.windows import window_starts

SEEN = 0.3
"""Probability from which on a coarse voxel may be kidney."""
MARGIN_MM = 10.0
"""Around what was seen: what a coarse map misses of a border."""
_SMALLEST_ML = 0.5
_BODY_HU = -300
_BODY_STEPS: Shape = (2, 4, 4)
SKIN_MM = 20.0
"""No kidney lies within this of the patient's left, right, front and back."""


def body_box(hu: NDArray[np.int16], grid: Grid) -> Box:
    """The part of the slices in which a kidney can lie, all slices; the whole where no body is.

    Args:
        hu: (Z, Y, X) HU.
        grid: its place.
    """
    z, y, x = _BODY_STEPS
    numbered, count = components(hu[::z, ::y, ::x] > _BODY_HU)
    box = Box.around(numbered == 1) if count else None
    whole = Box(start=(0, 0, 0), stop=grid.shape)
    if box is None:
        return whole
    inner = [
        (first * step + round(SKIN_MM / mm), last * step - round(SKIN_MM / mm))
        for first, last, step, mm in zip(
            box.start[1:], box.stop[1:], _BODY_STEPS[1:], grid.spacing[1:], strict=True
        )
    ]
    if not all(first < last for first, last in inner):
        return whole
    (y0, y1), (x0, x1) = inner
    return Box(start=(0, y0, x0), stop=(grid.shape[0], y1, x1)).clip(grid.shape)


def thin_depth(patch: int, divisor: int) -> int:
    """Slices of a thin window: a quarter of the plan's, at least what the network can take."""
    return max(divisor, patch // 4 // divisor * divisor)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Possible:
    """Where there may be kidney.

    Args:
        mask: (Z, Y, X) on coarse voxels that start with the scan's first voxel.
        scale: voxels of the scan per coarse voxel.
        shape: of the scan.
    """

    mask: NDArray[np.bool_]
    scale: Shape
    shape: Shape

    @property
    def box(self) -> Box | None:
        """The voxels of the scan in which it lies; None where there is nothing."""
        box = Box.around(self.mask)
        return None if box is None else _finer(box, self.scale).clip(self.shape)

    def only(self, boxes: Iterable[Box]) -> Possible:
        """Some boxes of the scan instead."""
        mask = np.zeros_like(self.mask)
        for box in boxes:
            slices = (
                slice(a // s, -(-b // s))
                for a, b, s in zip(box.start, box.stop, self.scale, strict=True)
            )
            mask[tuple(slices)] = True
        return Possible(mask=mask, scale=self.scale, shape=self.shape)


def search(
    look: Callable[[Box], NDArray[np.float32]],
    *,
    inside: Box,
    window: Shape,
    gap: int,
    scale: Shape,
    grid: Grid,
) -> Possible:
    """Where there may be kidney: what was seen, half a gap above and below, a margin in the slice.

    Args:
        look: coarse probability in a box of `window`'s shape.
        inside: rows and columns that are looked at.
        window: of a look; in Z thin.
        gap: slices left out between two looks.
        scale: voxels of the scan per coarse voxel.
        grid: of the scan, at least `window` on every axis.
    """
    shape = grid.shape
    starts = _spread(shape[0], window[0], gap)
    seen = np.zeros([-(-n // s) for n, s in zip(shape, scale, strict=True)], np.bool_)
    in_gaps = np.zeros_like(seen)
    for index, first in enumerate(starts):
        places = in_plane_starts(inside, shape, window)
        plane = _look_at_slices(first, places, look, window=window, scale=scale, into=seen)
        # Between two windows nobody looked: there a kidney goes on as it ends.
        before = starts[index - 1] + window[0] if index else 0
        after = starts[index + 1] if index + 1 < len(starts) else shape[0]
        in_gaps[before // scale[0] : -(-after // scale[0])] |= plane
    coarse_ml = grid.voxel_ml * math.prod(scale)
    numbered, count = components(seen | in_gaps)
    voxels = np.bincount(numbered[seen], minlength=count + 1) * coarse_ml
    voxels[0] = 0
    mask = seen & (voxels >= _SMALLEST_ML)[numbered]
    reach = [-(-gap // (2 * scale[0]))] + [
        math.ceil(MARGIN_MM / (mm * s)) for mm, s in zip(grid.spacing[1:], scale[1:], strict=True)
    ]
    if mask.any():
        mask = ndimage.maximum_filter(mask, [2 * n + 1 for n in reach], mode="constant")
    return Possible(mask=mask, scale=scale, shape=shape)


def in_plane_starts(inside: Box, shape: Shape, window: Shape) -> Iterator[tuple[int, int]]:
    """First rows and columns of the fewest windows over a box, each within the scan."""
    axes = []
    for axis in (1, 2):
        first, last, size = inside.start[axis], inside.stop[axis], window[axis]
        if last - first <= size:
            axes.append([min(max(0, (first + last - size) // 2), shape[axis] - size)])
        else:
            axes.append([first + s for s in window_starts(last - first, size, size)])
    yield from product(*axes)


def _look_at_slices(
    first: int,
    places: Iterable[tuple[int, int]],
    look: Callable[[Box], NDArray[np.float32]],
    *,
    window: Shape,
    scale: Shape,
    into: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Mark what is seen in thin windows at one height; whether it is, per row and column."""
    depth, height, width = window
    plane = np.zeros(into.shape[1:], np.bool_)
    for row, column in places:
        box = Box(start=(first, row, column), stop=(first + depth, row + height, column + width))
        found = look(box) >= SEEN
        # To whole coarse voxels: half of one more or less is within the margin.
        z, y, x = (
            slice(start // s, start // s + n)
            for start, s, n in zip(box.start, scale, found.shape, strict=True)
        )
        part = into[z, y, x]
        part |= found[tuple(slice(0, n) for n in part.shape)]
        plane[y, x] |= part.any(axis=0)
    return plane


def _spread(length: int, window: int, gap: int) -> list[int]:
    """First slices of windows at most `gap` apart, both ends seen."""
    count = 1 + math.ceil((length - window) / (window + gap))
    return [round(s) for s in np.linspace(0, length - window, count)]


def _finer(box: Box, scale: Shape) -> Box:
    return Box(
        start=tuple(a * s for a, s in zip(box.start, scale, strict=True)),  # type: ignore[arg-type]
        stop=tuple(b * s for b, s in zip(box.stop, scale, strict=True)),  # type: ignore[arg-type]
    )
