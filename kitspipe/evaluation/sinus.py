"""Where a kidney's sinus lies, approximated.

A mask says little of the sinus: those of KiTS fill it, vessels, fat and calices, all but its mouth.
So there are two parts. The mouth is the hollow in the convex hull of the tissue, in the middle of
the kidney's length, on the side of the hilum. The core is what lies deeper in the hull than
parenchyma is thick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation.contour import opened
from kitspipe.evaluation.kidneys import Directions, Kidney, Vector, points_of
from kitspipe.evaluation.outline import Mask, convex_hull
from kitspipe.imaging.components import components, dilate
from kitspipe.imaging.volume import Grid, Triple

_OPENING_MM = 2.0
"""Hollows thinner than twice this are folds of the surface, not the sinus."""
_MIDDLE = (0.2, 0.8)
"""The sinus's place along the kidney: in 62 kidneys of KiTS23 with at most 30 ml of tumor, 96 % of
the mouth lies between 0.32 and 0.64 (median), at most between 0.22 and 0.76."""
_BEHIND_CENTER_MM = 5.0
"""How far the sinus may reach away from the hilum, from the middle of the parenchyma."""
PARENCHYMA_MM = 20.0
"""Cortex and medulla are nowhere thicker, so what lies deeper is sinus. Assumed, not measured; with
15 mm, a usual thickness, 38 of 40 tumors of KiTS23 would touch the sinus."""
_LEAST_ML = 0.3
_NORMAL = 0.7


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sinus:
    """The approximated sinus of a kidney.

    Args:
        mouth: (Z, Y, X) in the kidney's box, the hollow at the hilum; empty where none was found.
        core: likewise, the middle of the kidney; empty in a small one.
        direction: unit vector from the middle of the tissue toward the hilum.
    """

    mouth: Mask
    core: Mask
    direction: Vector


def hollow_direction(tissue: Mask, organ: Mask, spacing: Triple) -> Vector:
    """From the middle of the tissue to that of the hollow in its hull, mm in (Z, Y, X).

    Zero where there is no hollow.
    """
    hull = convex_hull(tissue)
    if hull is None:
        return np.zeros(3)
    hollow = hull.mask(organ.shape) & ~organ
    largest = components(opened(hollow, _OPENING_MM, spacing))[0] == 1
    if not largest.any():
        return np.zeros(3)
    steps = np.argwhere(largest).mean(axis=0) - np.argwhere(tissue).mean(axis=0)
    return np.asarray(steps * spacing)


def find_sinus(kidney: Kidney, inside: Mask, grid: Grid) -> Sinus:
    """The mouth and the core of a kidney's sinus.

    Args:
        kidney: the kidney.
        inside: (Z, Y, X), the convex hull of its tissue.
        grid: the scan's.
    """
    expected = Directions.of(grid).hilum(kidney.side)
    mouth = _mouth(kidney, inside, expected, grid)
    deep = dilate(np.pad(inside, 1), -PARENCHYMA_MM, grid.spacing)[1:-1, 1:-1, 1:-1]
    core = _central(deep, kidney, grid)
    if not mouth.any():
        return Sinus(mouth=mouth, core=core, direction=expected)
    toward = points_of(mouth, kidney.box, grid).mean(axis=0) - kidney.center_mm
    toward -= (toward @ kidney.axis) * kidney.axis
    length = float(np.linalg.norm(toward))
    if length < 1e-6 or toward @ expected < _NORMAL * length:
        return Sinus(mouth=mouth, core=core, direction=expected)
    return Sinus(mouth=mouth, core=core, direction=toward / length)


def _mouth(kidney: Kidney, inside: Mask, expected: Vector, grid: Grid) -> Mask:
    """The largest central hollow on the side of the hilum; where there is none, on any side."""
    hollow = _central(opened(inside & ~kidney.organ, _OPENING_MM, grid.spacing), kidney, grid)
    toward = (points_of(hollow, kidney.box, grid) - kidney.center_mm) @ expected
    facing = _of(hollow, toward >= -_BEHIND_CENTER_MM)
    for part in (facing, hollow):
        mouth: Mask = components(part)[0] == 1
        if np.count_nonzero(mouth) * grid.voxel_ml >= _LEAST_ML:
            return mouth
    return np.zeros_like(hollow)


def _central(mask: Mask, kidney: Kidney, grid: Grid) -> Mask:
    """The part of a mask in the middle of the kidney's length."""
    along = kidney.along(points_of(mask, kidney.box, grid))
    return _of(mask, (along >= _MIDDLE[0]) & (along <= _MIDDLE[1]))


def _of(mask: Mask, chosen: NDArray[np.bool_]) -> Mask:
    """The voxels of a mask that are chosen, in C order."""
    part: Mask = np.zeros_like(mask)
    part[mask] = chosen
    return part
