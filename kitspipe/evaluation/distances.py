"""Distances between the surfaces of two masks: Surface Dice, 95 % Hausdorff.

Surface elements sit on the voxels' corners and weigh as much as the marching-cubes triangles
there, as in the package surface-distance, which the KiTS challenges use. Its distance maps are
not needed: most elements have the other surface so near that trying the nearest corners, nearest
first, finds it; the few others look it up in a tree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from surface_distance import lookup_tables

from kitspipe.imaging.volume import Box, Triple

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

STEPWISE_MM = 4.0
"""How far corners are tried one by one; a choice of speed only (beyond, the tree is faster)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surface:
    """The surface elements of one mask, and how far the other mask's surface is.

    Args:
        border: (Z, Y, X) corners that are surface, one more per axis than voxels of the box.
        areas: mm² of each element, in C order.
        near_mm: distance of each to the other surface; infinite beyond `reach_mm`.
    """

    border: Mask
    areas: Floats
    near_mm: Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfacePair:
    """Both surfaces of two masks that are not empty.

    Args:
        a: of the first mask.
        b: of the second mask.
        spacing: mm in (Z, Y, X).
        reach_mm: up to here `near_mm` is complete.
    """

    a: Surface
    b: Surface
    spacing: Triple
    reach_mm: float

    @staticmethod
    def between(a: Mask, b: Mask, *, spacing: Triple, reach_mm: float) -> SurfacePair | None:
        """The surfaces of two (Z, Y, X) masks of one shape; None where one is empty."""
        box = Box.around(a | b)
        if box is None or not (a.any() and b.any()):
            return None
        table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        codes = [_corner_codes(mask[box.slices]) for mask in (a, b)]
        borders = [(code != 0) & (code != 255) for code in codes]
        surfaces = [
            Surface(
                border=own,
                areas=table[code[own]],
                near_mm=_distances_within(own, other, spacing=spacing, reach_mm=reach_mm),
            )
            for own, other, code in zip(borders, reversed(borders), codes, strict=True)
        ]
        return SurfacePair(a=surfaces[0], b=surfaces[1], spacing=spacing, reach_mm=reach_mm)

    def dice(self, tolerance_mm: float) -> float:
        """Share of both areas within the tolerance, which is at most `reach_mm`."""
        sides = (self.a, self.b)
        overlap = sum(float(s.areas[s.near_mm <= tolerance_mm].sum()) for s in sides)
        return overlap / sum(float(s.areas.sum()) for s in sides)

    def hausdorff_mm(self, percent: float) -> float:
        """The larger of the two directed percentiles of distance, each by area."""
        return max(
            _directed(self.a, self.b, percent, self.spacing),
            _directed(self.b, self.a, percent, self.spacing),
        )


def surface_dice(a: Mask, b: Mask, *, spacing: Triple, tolerance_mm: float) -> float:
    """Share of both surfaces' area that lies within a tolerance of the other surface, [0, 1].

    Equal to `compute_surface_dice_at_tolerance` of the package surface-distance.

    Args:
        a: (Z, Y, X) mask. Both masks empty: NaN; one empty: 0.
        b: mask of the same shape.
        spacing: mm in (Z, Y, X).
        tolerance_mm: largest distance that counts as overlap.

    Raises:
        ValueError: shapes differ.

    Source: Nikolov et al. 2018, arXiv 1809.04430; the official KiTS21 and KiTS23 evaluation.
    """
    check_shapes(a, b)
    pair = SurfacePair.between(a, b, spacing=spacing, reach_mm=tolerance_mm)
    if pair is None:
        return 0.0 if a.any() or b.any() else math.nan
    return pair.dice(tolerance_mm)


def hausdorff(a: Mask, b: Mask, *, spacing: Triple, percent: float = 95) -> float:
    """Hausdorff distance in mm that disregards the farthest part of each surface's area.

    The larger of two directed distances: within it lie `percent` % of one surface's area from the
    other surface. Equal to `compute_robust_hausdorff` of the package surface-distance.

    Args:
        a: (Z, Y, X) mask. Both masks empty: NaN; one empty: infinite.
        b: mask of the same shape.
        spacing: mm in (Z, Y, X).
        percent: 100 is the plain Hausdorff distance.

    Raises:
        ValueError: shapes differ.

    Source: Nikolov et al. 2018, arXiv 1809.04430.
    """
    check_shapes(a, b)
    pair = SurfacePair.between(a, b, spacing=spacing, reach_mm=STEPWISE_MM)
    if pair is None:
        return math.inf if a.any() or b.any() else math.nan
    return pair.hausdorff_mm(percent)


def check_shapes(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    """Two arrays have to have one shape.

    Raises:
        ValueError: they don't.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")


def _corner_codes(mask: Mask) -> NDArray[np.uint8]:
    """Which of the 8 voxels around each voxel corner are in the mask, a bit each.

    Args:
        mask: (Z, Y, X); outside of it is background.

    Returns one more element than `mask` per axis; 0 and 255 are no surface.
    """
    padded = np.pad(mask.view(np.uint8), 1)
    z, y, x = (n + 1 for n in mask.shape)
    codes = np.zeros((z, y, x), np.uint8)
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    for (dz, dy, dx), bit in np.ndenumerate(kernel):
        codes |= padded[dz : dz + z, dy : dy + y, dx : dx + x] * np.uint8(bit)
    return codes


def _distances_within(border: Mask, other: Mask, *, spacing: Triple, reach_mm: float) -> Floats:
    """Distance in mm of each element of `border` (C order) to `other`; infinite beyond reach."""
    reach = [int(reach_mm / s + 1e-9) for s in spacing]
    padded = np.pad(other, [(r, r) for r in reach])
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    steps = steps.reshape(-1, 3)
    lengths_mm = np.sqrt(((steps * spacing) ** 2).sum(axis=1))
    nearest_first = np.argsort(lengths_mm, kind="stable")
    nearest_first = nearest_first[lengths_mm[nearest_first] <= reach_mm]
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    places = (np.argwhere(border) + reach) @ strides
    found = np.full(len(places), math.inf)
    open_ones = np.arange(len(places))
    occupied = padded.ravel()
    for step, length_mm in zip(
        steps[nearest_first] @ strides, lengths_mm[nearest_first], strict=True
    ):
        hit = occupied[places[open_ones] + step]
        found[open_ones[hit]] = length_mm
        open_ones = open_ones[~hit]
    return found


def _directed(own: Surface, other: Surface, percent: float, spacing: Triple) -> float:
    distances = own.near_mm
    is_far = np.isinf(distances)
    # Elements beyond reach are the last ones: where enough lie before them, they don't matter.
    if own.areas[~is_far].sum() < own.areas.sum() * percent / 100 or percent >= 100:
        tree = cKDTree(
            np.argwhere(other.border) * spacing, balanced_tree=False, compact_nodes=False
        )
        places = np.argwhere(own.border)[is_far] * spacing
        distances = distances.copy()
        distances[is_far] = tree.query(places)[0]
    order = np.lexsort((own.areas, distances))
    covered = np.cumsum(own.areas[order]) / own.areas.sum()
    place = min(int(np.searchsorted(covered, percent / 100)), len(order) - 1)
    return float(distances[order[place]])
