"""Volumes in patient space: Grid, Box, Volume.

Axes: Z inferior to superior, Y anterior to posterior, X right to left. Array indices, shapes,
spacings and boxes are in (Z, Y, X); points in space are (x, y, z) mm in LPS, as DICOM has them.
Voxel (0, 0, 0) has its centre at the origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

V = TypeVar("V", bound=np.generic)

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Matrix = tuple[Triple, Triple, Triple]

# Columns are the array axes (Z, Y, X) in LPS: superior, posterior, left.
CANONICAL_DIRECTION: Matrix = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
MINIMAL_HU = -1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where the voxels of an array lie in the patient.

    Args:
        shape: voxels in (Z, Y, X).
        spacing: mm between voxel centres in (Z, Y, X).
        origin: (x, y, z) mm in LPS of the first voxel's centre.
        direction: 3x3; column k is the unit vector in LPS along array axis k.

    Raises:
        ValueError: a shape below 1, a spacing that is not finite and positive, or columns
            that are not orthonormal to 1e-4.
    """

    shape: Shape
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    direction: Matrix = CANONICAL_DIRECTION

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(n < 1 for n in self.shape):
            raise ValueError(f"shape {self.shape} is not three positive numbers")
        if not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"spacing {self.spacing} is not finite and positive")
        if not all(math.isfinite(value) for value in self.origin):
            raise ValueError(f"origin {self.origin} is not finite")
        axes = np.asarray(self.direction, float)
        if not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=1e-4):
            raise ValueError(f"direction {self.direction} is not orthonormal: the grid is sheared")

    @property
    def is_canonical(self) -> bool:
        """Whether the axes point nearest to superior, posterior and left."""
        axes = np.asarray(self.direction)
        return bool(
            (np.abs(axes).argmax(axis=0) == (2, 1, 0)).all()
            and (axes[(2, 1, 0), (0, 1, 2)] > 0).all()
        )

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return math.prod(self.spacing) / 1000

    @property
    def extent_mm(self) -> Triple:
        """Outer size in (Z, Y, X), from border to border of the outermost voxels."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return (z, y, x)

    def to_world(self, index: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
        """Points in (x, y, z) mm LPS of the voxel indices (..., 3) in (Z, Y, X)."""
        steps = np.asarray(index, float) * self.spacing
        points: NDArray[np.float64] = steps @ np.asarray(self.direction).T + self.origin
        return points

    def to_index(self, point: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
        """Fractional voxel indices (Z, Y, X) of the points (..., 3) in (x, y, z) mm LPS."""
        inverse = np.linalg.inv(np.asarray(self.direction))
        indices: NDArray[np.float64] = (
            (np.asarray(point, float) - self.origin) @ inverse.T / self.spacing
        )
        return indices

    def close_to(self, other: Grid, atol_mm: float = 0.01) -> bool:
        """Whether both have one shape and all corners lie within `atol_mm` of each other."""
        if self.shape != other.shape:
            return False
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in self.shape)), axis=-1)
        return bool(np.abs(self.to_world(corners) - other.to_world(corners)).max() <= atol_mm)

    def crop(self, box: Box) -> Grid:
        """The grid of the voxels in `box`, which may reach over the border."""
        x, y, z = map(float, self.to_world(box.start))
        return replace(self, shape=box.shape, origin=(x, y, z))

    def within(self, part: Grid) -> Box | None:
        """The voxels whose centres lie within the borders of another grid of the same axes.

        None where there are none.
        """
        ends = np.array([(-0.5, -0.5, -0.5), np.asarray(part.shape) - 0.5])
        low, high = self.to_index(part.to_world(ends))
        start = np.maximum(0, np.ceil(low - 1e-6)).astype(int)
        stop = np.minimum(self.shape, np.floor(high + 1e-6).astype(int) + 1)
        if not (start < stop).all():
            return None
        (z0, y0, x0), (z1, y1, x1) = start.tolist(), stop.tolist()
        return Box(start=(z0, y0, x0), stop=(z1, y1, x1))

    def with_spacing(self, spacing: Triple) -> Grid:
        """The grid of another spacing over the same extent, borders aligned.

        The number of voxels is rounded, at least one; the middle of the extent stays in place.
        """
        shape = tuple(
            max(1, round(extent / s)) for extent, s in zip(self.extent_mm, spacing, strict=True)
        )
        middle = (np.asarray(self.shape) - 1) / 2
        half = (np.asarray(shape) - 1) / 2 * spacing
        origin = self.to_world(middle) - half @ np.asarray(self.direction).T
        x, y, z = map(float, origin)
        return Grid(
            shape=(shape[0], shape[1], shape[2]),
            spacing=spacing,
            origin=(x, y, z),
            direction=self.direction,
        )

    def refined(self, factors: Shape) -> Grid:
        """The grid with every voxel cut into `factors` parts in (Z, Y, X)."""
        spacing = tuple(s / f for s, f in zip(self.spacing, factors, strict=True))
        first = (np.asarray(factors, float) ** -1 - 1) / 2
        x, y, z = map(float, self.to_world(first))
        return Grid(
            shape=tuple(n * f for n, f in zip(self.shape, factors, strict=True)),  # type: ignore[arg-type]
            spacing=spacing,  # type: ignore[arg-type]
            origin=(x, y, z),
            direction=self.direction,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A block of voxels, half open, in (Z, Y, X).

    Raises:
        ValueError: start is not below stop on every axis.
    """

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        if not all(a < b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box from {self.start} to {self.stop} is empty")

    @property
    def shape(self) -> Shape:
        """Voxels in (Z, Y, X)."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return (z, y, x)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """An index for arrays (Z, Y, X); the box must lie inside."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return (z, y, x)

    def clip(self, shape: Shape) -> Box:
        """The part of the box inside an array of this shape.

        Raises:
            ValueError: the box lies outside.
        """
        return Box(
            start=tuple(max(0, a) for a in self.start),  # type: ignore[arg-type]
            stop=tuple(min(n, b) for n, b in zip(shape, self.stop, strict=True)),  # type: ignore[arg-type]
        )

    def dilate(self, margin_mm: float, grid: Grid) -> Box:
        """The box with `margin_mm` more on every side, rounded up to voxels; may reach outside."""
        voxels = [math.ceil(margin_mm / s - 1e-9) for s in grid.spacing]
        return Box(
            start=tuple(a - v for a, v in zip(self.start, voxels, strict=True)),  # type: ignore[arg-type]
            stop=tuple(b + v for b, v in zip(self.stop, voxels, strict=True)),  # type: ignore[arg-type]
        )

    def shifted(self, by: Shape) -> Box:
        """The box moved by so many voxels."""
        return Box(
            start=tuple(a + d for a, d in zip(self.start, by, strict=True)),  # type: ignore[arg-type]
            stop=tuple(b + d for b, d in zip(self.stop, by, strict=True)),  # type: ignore[arg-type]
        )

    def around_both(self, other: Box) -> Box:
        """The smallest box that holds this and another one."""
        return Box(
            start=tuple(map(min, self.start, other.start)),  # type: ignore[arg-type]
            stop=tuple(map(max, self.stop, other.stop)),  # type: ignore[arg-type]
        )

    def overlap(self, other: Box) -> Box:
        """What this and another one have in common; they must meet."""
        return Box(
            start=tuple(map(max, self.start, other.start)),  # type: ignore[arg-type]
            stop=tuple(map(min, self.stop, other.stop)),  # type: ignore[arg-type]
        )

    @staticmethod
    def around(mask: NDArray[np.bool_]) -> Box | None:
        """The smallest box that holds all True of a mask (Z, Y, X); None for an empty mask."""
        rows: NDArray[np.bool_] = np.any(mask, axis=2)
        if not rows.any():
            return None
        z0, z1 = _bounds(rows.any(axis=1))
        y0, y1 = _bounds(rows.any(axis=0))
        x0, x1 = _bounds(mask[z0:z1, y0:y1].any(axis=(0, 1)))
        return Box(start=(z0, y0, x0), stop=(z1, y1, x1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volume:
    """An array and where it lies.

    Args:
        array: (Z, Y, X); CT is int16 HU >= -1024, labels uint8, a mask bool. Made read-only.
        grid: its place; same shape.

    Raises:
        ValueError: shapes differ, or an int16 array has values below -1024.
    """

    array: NDArray[np.generic]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise ValueError(f"array {self.array.shape} does not fill the grid {self.grid.shape}")
        if self.array.dtype == np.int16 and self.array.size and self.array.min() < MINIMAL_HU:
            raise ValueError(f"HU below {MINIMAL_HU}")
        self.array.flags.writeable = False

    def crop(self, box: Box) -> Volume:
        """The voxels in `box`, which must lie inside; a view."""
        return Volume(array=self.array[box.slices], grid=self.grid.crop(box))


def contiguous(array: NDArray[V]) -> NDArray[V]:
    """The array (Z, Y, X) with X next to each other in memory; itself where it is so already.

    Goes through planes (Z, X), which fit a cache: half of numpy's time for slices-first files.
    """
    if array.flags.c_contiguous:
        return array
    copy = np.empty(array.shape, array.dtype)
    for y in range(array.shape[1]):
        copy[:, y] = array[:, y]
    return copy


def _bounds(where: ArrayLike) -> tuple[int, int]:
    """The first True of a line and one beyond the last; there must be one."""
    places = np.flatnonzero(where)
    return int(places[0]), int(places[-1]) + 1
