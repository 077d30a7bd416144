"""From grid to grid: CT, probabilities and labels, arrays (Z, Y, X).

Grids that share their axes are resampled axis by axis. A slice of the target is made at a time, so
that beside the source and the result only a few slices are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kitspipe.imaging.volume import MINIMAL_HU, Box, Grid, Volume

_Plane = NDArray[np.float32]

_SHARED_AXES = 1e-4  # Like `Grid`'s own tolerance: 0.05 voxels at the far end of 512.
_COINCIDES = 1e-4  # voxels
_ANTIALIAS_ABOVE = 2.0


def resample_image(volume: Volume, grid: Grid) -> Volume:
    """A CT on another grid: int16 HU, trilinear, rounded; -1024 beyond the scan's border.

    An axis whose voxels become more than twice as long is smoothed by a triangle as wide as the
    new voxels on each side, against aliasing. The border is half a voxel from the outermost
    centres, which count unchanged up to there.

    Raises:
        ValueError: the grids' axes have different directions.
    """
    axes = _axes(volume.grid, grid)
    resampled = np.empty(grid.shape, np.int16)
    for plane, into in zip(_planes(volume.array, axes, MINIMAL_HU), resampled, strict=True):
        into[...] = np.rint(plane)
    return Volume(array=resampled, grid=grid)


def resample_linear(
    array: NDArray[Any], source: Grid, target: Grid, *, fill: float = 0.0
) -> NDArray[np.float32]:
    """An array on another grid, float32, as `resample_image` does it.

    Args:
        array: (Z, Y, X), of any real type; probabilities stay in [0, 1].
        source: the array's grid.
        target: the result's.
        fill: the value beyond the source's border.

    Raises:
        ValueError: the grids' axes have different directions.
    """
    resampled = np.empty(target.shape, np.float32)
    for plane, into in zip(_planes(array, _axes(source, target), fill), resampled, strict=True):
        into[...] = plane
    return resampled


def resample_labels(volume: Volume, grid: Grid) -> Volume:
    """A label map on another grid: uint8, for each voxel the label that covers most of it.

    Coverage is a label's own mask resampled as `resample_linear` does. Of equal ones the higher
    label wins, so that thin kidney and tumor are not lost to the background.

    Raises:
        ValueError: the grids' axes have different directions.
    """
    labels, axes = volume.array, _axes(volume.grid, grid)
    whole = np.zeros(grid.shape, np.uint8)
    box = Box.around(labels != 0)
    if box is None:
        return Volume(array=whole, grid=grid)
    reached = [
        axis.reached(start, stop)
        for axis, start, stop in zip(axes, box.start, box.stop, strict=True)
    ]
    axes = tuple(axis.part(*part) for axis, part in zip(axes, reached, strict=True))
    values = [int(v) for v in np.flatnonzero(np.bincount(labels[box.slices].ravel())) if v]
    coverages = [_planes(labels == value, axes, 0) for value in values]
    inner = np.zeros(tuple(stop - start for start, stop in reached), np.uint8)
    for into, *planes in zip(inner, *coverages, strict=True):
        largest = 1 - np.sum(planes, axis=0)
        for value, plane in zip(values, planes, strict=True):
            wins = plane >= largest - 1e-6
            into[wins] = value
            np.maximum(largest, plane, out=largest)
    whole[tuple(slice(*part) for part in reached)] = inner
    return Volume(array=whole, grid=grid)


def slices_used(source: Grid, target: Grid) -> NDArray[np.bool_]:
    """Which slices of the source take part in what `resample_linear` makes, (Z,).

    Raises:
        ValueError: the grids' axes have different directions.
    """
    axis = _axes(source, target)[0]
    used = np.zeros(source.shape[0], np.bool_)
    slices = axis.first[:, None] + np.arange(axis.weights.shape[1])
    used[slices[(axis.weights > 0) & axis.inside[:, None]]] = True
    return used


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Axis:
    """How the target's samples along an axis are made of the source's.

    Args:
        first: first source sample that takes part, per target sample.
        weights: (target, taps) weights of it and its followers; they sum to 1.
        inside: whether the target sample lies within the source's border.
        n_source: samples of the source.
    """

    first: NDArray[np.intp]
    weights: NDArray[np.float32]
    inside: NDArray[np.bool_]
    n_source: int

    @property
    def is_pick(self) -> bool:
        """Whether every sample is one of the source's."""
        return int(self.weights.shape[1]) == 1

    @property
    def ratio(self) -> float:
        """Samples out per sample in."""
        return self.first.size / self.n_source

    def part(self, start: int, stop: int) -> _Axis:
        """The target samples from start to stop."""
        return _Axis(
            first=self.first[start:stop],
            weights=self.weights[start:stop],
            inside=self.inside[start:stop],
            n_source=self.n_source,
        )

    def reached(self, start: int, stop: int) -> tuple[int, int]:
        """First target sample, and that behind the last, made of source samples start to stop.

        Always one at least.
        """
        last = self.first + self.weights.shape[1] - 1
        reached = np.flatnonzero((last >= start) & (self.first < stop))
        return (int(reached[0]), int(reached[-1]) + 1) if reached.size else (0, 1)

    def matrix(self) -> sparse.csr_array:
        """The weights as a sparse (target, source) matrix."""
        n_target, taps = self.weights.shape
        columns = self.first[:, None] + np.arange(taps)
        rows = np.arange(0, n_target * taps + 1, taps)
        return sparse.csr_array(
            (self.weights.ravel(), columns.ravel(), rows), shape=(n_target, self.n_source)
        )


def _axes(source: Grid, target: Grid) -> tuple[_Axis, ...]:
    if not np.allclose(source.direction, target.direction, rtol=0, atol=_SHARED_AXES):
        raise ValueError(f"axes differ: {source.direction} and {target.direction}")
    offsets = source.to_index(target.origin)
    return tuple(
        _axis(
            float(offset) + np.arange(n_target, dtype=float) * (target_mm / source_mm),
            n_source,
            target_mm / source_mm,
        )
        for offset, n_target, target_mm, n_source, source_mm in zip(
            offsets, target.shape, target.spacing, source.shape, source.spacing, strict=True
        )
    )


def _axis(positions: NDArray[np.float64], n_source: int, step: float) -> _Axis:
    """The operator for target samples at these source indices, `step` apart."""
    inside = (positions >= -0.5 - _COINCIDES) & (positions <= n_source - 0.5 + _COINCIDES)
    nearest = np.rint(positions)
    if step <= _ANTIALIAS_ABOVE and np.abs(positions - nearest).max() < _COINCIDES:
        first = np.clip(nearest, 0, n_source - 1).astype(np.intp)
        weights = np.ones((positions.size, 1), np.float32)
        return _Axis(first=first, weights=weights, inside=inside, n_source=n_source)
    centre = np.clip(positions, 0, n_source - 1)
    half_width = step if step > _ANTIALIAS_ABOVE else 1.0
    taps = min(n_source, int(np.ceil(2 * half_width)))
    first = np.floor(centre - half_width).astype(np.intp) + 1
    first = np.clip(first, 0, n_source - taps)
    distance = np.abs(first[:, None] + np.arange(taps) - centre[:, None])
    triangle = np.maximum(0, 1 - distance / half_width)
    weights = (triangle / triangle.sum(axis=1, keepdims=True)).astype(np.float32)
    return _Axis(first=first, weights=weights, inside=inside, n_source=n_source)


def _planes(array: NDArray[Any], axes: tuple[_Axis, ...], fill: float) -> Iterator[_Plane]:
    """The target's slices from the first to the last."""
    z, y, x = axes
    in_plane = _InPlane(y, x, fill)
    outside = np.full((y.first.size, x.first.size), fill, np.float32)
    if z.is_pick or z.ratio < 1:
        for first, weights, inside in zip(z.first, z.weights, z.inside, strict=True):
            yield in_plane(_mixed(array[first:], weights)) if inside else outside
        return
    done: dict[int, _Plane] = {}
    for first, weights, inside in zip(z.first, z.weights, z.inside, strict=True):
        if not inside:
            yield outside
            continue
        needed = range(first, first + weights.size)
        done = {
            k: done[k] if k in done else in_plane(_mixed(array[k:], weights[:0])) for k in needed
        }
        yield _mixed(list(done.values()), weights)


def _mixed(planes: Sequence[_Plane] | NDArray[Any], weights: NDArray[np.float32]) -> _Plane:
    """The weighted sum of the first planes; the first one itself where there are no weights."""
    if weights.size <= 1:
        return np.asarray(planes[0], np.float32)
    mixed: _Plane = np.multiply(planes[0], weights[0], dtype=np.float32)
    for plane, weight in zip(planes[1:], weights[1:], strict=False):
        if weight:
            mixed += np.multiply(plane, weight, dtype=np.float32)
    return mixed


class _InPlane:
    """Resamples slices (Y, X), the axis that shrinks more first."""

    def __init__(self, y: _Axis, x: _Axis, fill: float) -> None:
        self._y, self._x, self._fill = y, x, fill
        self._rows = None if y.is_pick else y.matrix()
        self._columns = None if x.is_pick else x.matrix()
        self._rows_first = y.ratio <= x.ratio
        self._outside = not (y.inside.all() and x.inside.all())

    def __call__(self, plane: _Plane) -> _Plane:
        steps = (self._along_y, self._along_x)
        for step in steps if self._rows_first else steps[::-1]:
            plane = step(plane)
        if self._outside:
            plane = plane.copy()
            plane[~self._y.inside] = self._fill
            plane[:, ~self._x.inside] = self._fill
        return plane

    def _along_y(self, plane: _Plane) -> _Plane:
        if self._rows is None:
            return _picked(plane, self._y.first, axis=0)
        resampled: _Plane = self._rows @ plane
        return resampled

    def _along_x(self, plane: _Plane) -> _Plane:
        if self._columns is None:
            return _picked(plane, self._x.first, axis=1)
        resampled: _Plane = (self._columns @ np.ascontiguousarray(plane.T)).T
        return resampled


def _picked(plane: _Plane, first: NDArray[np.intp], axis: int) -> _Plane:
    if first.size == plane.shape[axis] and (first == np.arange(first.size)).all():
        return plane
    return plane.take(first, axis=axis)
