"""Smooth random fields in mm, the same whatever the grid: lumpy surfaces, lumpy tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.volume import Triple

Field = NDArray[np.float32]


class SmoothNoise:
    """Gaussian noise of mean 0 and standard deviation 1 everywhere, correlated over a distance.

    Random numbers on a lattice, between them cubic B-splines: cheap at any resolution, by slab,
    and no voxel depends on the grid it is asked on.

    Args:
        rng: where the numbers are drawn from.
        start_mm: (Z, Y, X) of the corner from which positions are meant.
        extent_mm: (Z, Y, X) that the field covers; beyond it is constant.
        scale_mm: distance of lattice points; the correlation falls to a half at about this one.
    """

    def __init__(
        self, rng: np.random.Generator, start_mm: Triple, extent_mm: Triple, scale_mm: float
    ) -> None:
        shape = [int(np.ceil(extent / scale_mm)) + 4 for extent in extent_mm]
        self._lattice = rng.standard_normal(shape, dtype=np.float32)
        self._start_mm, self._scale_mm = start_mm, scale_mm

    def at(self, z: Field, y: Field, x: Field) -> Field:
        """Values (len(z), len(y), len(x)) where three axes in mm cross."""
        field = self._lattice
        for axis, positions in enumerate((z, y, x)):
            weights = self._weights(positions, axis)
            field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
        return field

    def _weights(self, positions: Field, axis: int) -> Field:
        """B-spline weights (positions, lattice points), rows of length 1 so that the sd is 1."""
        n = self._lattice.shape[axis]
        along = (np.ravel(positions) - self._start_mm[axis]) / self._scale_mm
        distance = np.abs(np.clip(along, 0, n - 4)[:, None] + 1 - np.arange(n))
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.maximum(2 - distance, 0) ** 3 / 6
        weights = np.where(distance < 1, near, far)
        unit: Field = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
        return unit
