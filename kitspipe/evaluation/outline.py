"""Outlines and convex hulls of masks, in voxel indices (Z, Y, X).

A mask's true border lies somewhere between the centres of its outermost voxels and those of the
next ones. The convex hull of the centres is too small and that of half a voxel more on every side
is too large: the farthest point of a border is the luckiest of many voxels. A quarter of a voxel
is right to 0.1 mm for ellipses and 0.3 mm long for discs (docs/benchmarks.md, Measurements).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

BEYOND_CENTRE = 0.25
"""How far the outline lies beyond the outermost voxels' centres within a slice, in voxels."""


def slice_outline(mask: NDArray[np.bool_]) -> Points:
    """Corners of the convex outline of a slice's mask, counterclockwise in (x, y).

    Args:
        mask: (Y, X). Empty: no points.

    Returns:
        (N, 2) indices in (Y, X), at least four where the mask is not empty.
    """
    reach = BEYOND_CENTRE
    ends = []
    for along in (0, 1):
        lines = np.flatnonzero(mask.any(axis=1 - along))
        if lines.size == 0:
            return np.zeros((0, 2))
        rows = mask[lines] if along == 0 else mask[:, lines].T
        first = rows.argmax(axis=1) - reach
        last = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1) + reach
        for end in (first, last):
            pair = (lines, end) if along == 0 else (end, lines)
            ends.append(np.stack(pair, axis=1).astype(float))
    points = np.concatenate(ends)
    # Qhull turns counterclockwise in the order of columns, here (Y, X); swapped, in (x, y).
    corners: Points = points[ConvexHull(points[:, ::-1]).vertices]
    return corners


def outlines(mask: Mask) -> dict[int, Points]:
    """The outline of every slice that is not empty, by slice.

    Args:
        mask: (Z, Y, X).
    """
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    return {int(z): slice_outline(mask[z]) for z in filled}


def surface_points(mask: Mask) -> Points:
    """Points that span the convex hull of a mask.

    They are the slices' outlines and, half a slice beyond the first and the last one, the middle
    of it: there a round body ends on average. Whole outlines moved out by half a slice would make
    a sphere of thick slices too long.

    Args:
        mask: (Z, Y, X). Empty: no points.

    Returns:
        (N, 3) indices in (Z, Y, X).
    """
    by_slice = outlines(mask)
    if not by_slice:
        return np.zeros((0, 3))
    points = [np.insert(corners, 0, z, axis=1) for z, corners in by_slice.items()]
    first, last = min(by_slice), max(by_slice)
    for z, step in ((first, -0.5), (last, 0.5)):
        points.append(np.array([[z + step, *np.argwhere(mask[z]).mean(axis=0)]]))
    return np.concatenate(points)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hull:
    """A convex hull in voxel indices.

    Args:
        corners: (N, 3) in (Z, Y, X).
        planes: (M, 4); a point p is inside where `planes[:, :3] @ p + planes[:, 3] <= 0`.
    """

    corners: Points
    planes: NDArray[np.float64]

    def mask(self, shape: tuple[int, ...]) -> Mask:
        """The voxels (Z, Y, X) of an array of this shape whose centres lie inside."""
        inside = np.zeros(shape, np.bool_)
        low = np.maximum(np.ceil(self.corners.min(axis=0)).astype(int), 0)
        high = np.minimum(np.floor(self.corners.max(axis=0)).astype(int) + 1, shape)
        if (low >= high).any():
            return inside
        rows, columns = np.arange(low[1], high[1]), np.arange(low[2], high[2])
        for z in range(low[0], high[0]):
            start, stop = self._row_ends(z, rows)
            inside[z, low[1] : high[1], low[2] : high[2]] = (columns >= start[:, None]) & (
                columns <= stop[:, None]
            )
        return inside

    def _row_ends(self, z: int, rows: NDArray[np.int_]) -> tuple[Points, Points]:
        """Where each row of a slice enters and leaves the hull; start > stop where it misses."""
        nz, ny, nx, offset = self.planes.T
        rest = (offset + nz * z)[:, None] + ny[:, None] * rows
        start, stop = np.full(rows.size, -np.inf), np.full(rows.size, np.inf)
        tiny = 1e-12
        up, down = nx > tiny, nx < -tiny
        if up.any():
            stop = (-rest[up] / nx[up, None]).min(axis=0)
        if down.any():
            start = (-rest[down] / nx[down, None]).max(axis=0)
        missed = (rest[~up & ~down] > 1e-9).any(axis=0)
        start[missed], stop[missed] = np.inf, -np.inf
        return start - 1e-9, stop + 1e-9


def convex_hull(mask: Mask) -> Hull | None:
    """The convex hull of a mask (Z, Y, X), through its outline; None for an empty mask."""
    points = surface_points(mask)
    if len(points) == 0:
        return None
    hull = ConvexHull(points)
    return Hull(corners=points[hull.vertices], planes=np.asarray(hull.equations))
