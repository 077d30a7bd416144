"""Where kidneys may lie: a coarse and cheap look at the whole scan.

A kidney is longer than the gaps between the thin windows that are looked at, and a coarse decoder
level is enough to see it. Arrays are (Z, Y, X) on the kidney stage's grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Box, Grid, Shape
from kitspipe.prediction.windows import window_starts

Coarse = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A patch (Z, Y, X) to probabilities (Z/sz, Y/sy, X/sx)."""

SEEN = 0.3
"""Probability from which on a coarse voxel may be kidney."""
MARGIN_MM = 10.0
"""Around what was seen: what a coarse map misses of a border."""
_SMALLEST_ML = 0.5
_BODY_HU = -300
_BODY_STEPS: Shape = (2, 4, 4)
_SKIN_MM = 20.0
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
        (first * step + round(_SKIN_MM / mm), last * step - round(_SKIN_MM / mm))
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


def search(
    look: Callable[[Box], NDArray[np.float32]],
    *,
    inside: Box,
    window: Shape,
    gap: int,
    scale: Shape,
    grid: Grid,
) -> tuple[Box, ...]:
    """Boxes around all that may be kidney, clipped to the scan.

    In Z half a gap is added, in the slice `MARGIN_MM`.

    Args:
        look: coarse probability in a box of `window`'s shape.
        inside: rows and columns that are looked at.
        window: of a look; in Z thin.
        gap: slices left out between two looks.
        scale: voxels of the scan per coarse voxel.
        grid: of the scan, at least `window` on every axis.

    Returns:
        Boxes that don't touch each other, none where nothing was seen.
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
    voxels = np.bincount(numbered[seen], minlength=count + 1)
    boxes = []
    for number in range(1, count + 1):
        if voxels[number] * coarse_ml >= _SMALLEST_ML:
            found = Box.around((numbered == number) & seen)
            if found is not None:
                boxes.append(_with_margin(_finer(found, scale), gap // 2, grid))
    return joined(boxes)


def joined(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes, those that overlap put together until none do."""
    apart: list[Box] = []
    for box in boxes:
        while True:
            other = next((b for b in apart if _overlap(b, box)), None)
            if other is None:
                break
            apart.remove(other)
            box = box.around_both(other)
        apart.append(box)
    return tuple(apart)


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


def _with_margin(box: Box, slices: int, grid: Grid) -> Box:
    y, x = (math.ceil(MARGIN_MM / mm) for mm in grid.spacing[1:])
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
    larger = Box(start=(z0 - slices, y0 - y, x0 - x), stop=(z1 + slices, y1 + y, x1 + x))
    return larger.clip(grid.shape)


def _finer(box: Box, scale: Shape) -> Box:
    return Box(
        start=tuple(a * s for a, s in zip(box.start, scale, strict=True)),  # type: ignore[arg-type]
        stop=tuple(b * s for b, s in zip(box.stop, scale, strict=True)),  # type: ignore[arg-type]
    )


def _overlap(a: Box, b: Box) -> bool:
    return all(
        max(p) < min(q)
        for p, q in zip(
            zip(a.start, b.start, strict=True), zip(a.stop, b.stop, strict=True), strict=True
        )
    )
