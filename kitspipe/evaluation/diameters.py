"""Diameters of a mask as radiology measures them: in axial slices, and in space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from kitspipe.evaluation.outline import Mask, Points, outlines, surface_points
from kitspipe.imaging.volume import Triple


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AxialDiameters:
    """The largest diameter in an axial slice and the one across it.

    Args:
        z: the slice.
        largest_mm: longest line between two points of the slice's convex outline.
        perpendicular_mm: longest line across it at a right angle, within the same outline.
        largest_ends: (2, 2) its ends, voxel indices in (Y, X).
        perpendicular_ends: (2, 2) likewise.

    Source: WHO handbook 1979 (product of perpendicular diameters), RECIST 1.1 (longest diameter
    in the plane of the scan).
    """

    z: int
    largest_mm: float
    perpendicular_mm: float
    largest_ends: Points
    perpendicular_ends: Points


def axial_diameters(mask: Mask, spacing: Triple) -> AxialDiameters:
    """The diameters in the slice where the largest is longest; the first of equal slices.

    Args:
        mask: (Z, Y, X), not empty.
        spacing: mm in (Z, Y, X).

    Raises:
        ValueError: the mask is empty.
    """
    by_slice = outlines(mask)
    if not by_slice:
        raise ValueError("an empty mask has no diameter")
    in_plane = np.asarray(spacing[1:])
    corners = {z: points * in_plane for z, points in by_slice.items()}
    lengths = {z: float(pdist(points).max()) for z, points in corners.items()}
    z = max(lengths, key=lambda key: lengths[key])
    ends, across = _longest_and_across(corners[z])
    return AxialDiameters(
        z=z,
        largest_mm=lengths[z],
        perpendicular_mm=float(np.linalg.norm(across[1] - across[0])),
        largest_ends=ends / in_plane,
        perpendicular_ends=across / in_plane,
    )


def largest_diameter_mm(mask: Mask, spacing: Triple) -> float:
    """The longest line in mm between two points of the convex hull of a mask (Z, Y, X).

    Never below the largest axial diameter. Empty: 0.
    """
    points = surface_points(mask) * spacing
    if len(points) == 0:
        return 0.0
    return float(pdist(points[ConvexHull(points).vertices]).max())


def sphere_diameter_mm(volume_ml: float) -> float:
    """Diameter in mm of a sphere of this volume."""
    return float(np.cbrt(6000 * volume_ml / math.pi))


def _longest_and_across(corners: Points) -> tuple[Points, Points]:
    """Ends (2, 2) of the longest line in a convex polygon and of the longest at a right angle.

    Args:
        corners: (N, 2) in mm, in order around the polygon.
    """
    distances = squareform(pdist(corners))
    a, b = np.unravel_index(distances.argmax(), distances.shape)
    ends = corners[[a, b]]
    along = (ends[1] - ends[0]) / distances[a, b]
    across = np.array([-along[1], along[0]])
    s, t = corners @ along, corners @ across
    order = np.roll(np.arange(len(corners)), -int(s.argmin()))
    turn = int(np.flatnonzero(order == s.argmax())[0])
    one, other = order[: turn + 1], np.append(order[turn:], order[0])[::-1]
    # The polygon's width changes linearly between corners, so it is widest at one of them.
    t_one, t_other = _at(s, s[one], t[one]), _at(s, s[other], t[other])
    widest = int(np.abs(t_one - t_other).argmax())
    where = [s[widest] * along + level[widest] * across for level in (t_one, t_other)]
    return ends, np.stack(where)


def _at(
    s: NDArray[np.float64], chain_s: NDArray[np.float64], chain_t: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Height of a chain of corners, ordered along s, over the places s."""
    return np.interp(s, chain_s, chain_t)
