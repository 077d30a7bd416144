"""The kidneys of a label map: which pieces they are, on whose side, and how each one lies.

Points are mm in (Z, Y, X) of the scan's grid, counted from its first voxel's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation.outline import Mask
from kitspipe.imaging.volume import Box, Grid

Side = Literal["right", "left"]
Vector = NDArray[np.float64]

MINIMAL_KIDNEY_ML = 10.0
"""Smaller pieces are no kidneys. Source: KiTS23's second place, as in `preprocessing.rois`."""
MINIMAL_PARENCHYMA_ML = 1.0
"""A piece with less kidney tissue is a tumor or a cyst away from the kidneys."""

_HILUM_ANTERIOR = 0.59
"""How far the hilum looks forward, per unit; the rest is toward the middle. Mean direction from
the kidney's middle to its hollow side on 62 kidneys of KiTS23 with at most 30 ml of tumor: 36
degrees forward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Directions:
    """Unit vectors in array axes (Z, Y, X): the patient's, also where the grid is oblique."""

    superior: Vector
    posterior: Vector
    left: Vector

    @staticmethod
    def of(grid: Grid) -> Directions:
        """The patient's directions on a grid."""
        left, posterior, superior = np.asarray(grid.direction)
        return Directions(superior=superior, posterior=posterior, left=left)

    def hilum(self, side: Side) -> Vector:
        """Where a normally placed kidney's hilum looks: forward and toward the middle."""
        medial = self.left if side == "right" else -self.left
        direction = np.sqrt(1 - _HILUM_ANTERIOR**2) * medial - _HILUM_ANTERIOR * self.posterior
        return np.asarray(direction)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kidney:
    """One kidney with its masses.

    Args:
        side: the patient's side.
        side_is_certain: False where one kidney alone leaves it open.
        box: around the kidney and all tumors that are counted to it, on the scan's grid.
        own_box: around the connected piece only.
        parenchyma: (Z, Y, X) mask in `box`: all that is labelled kidney.
        tissue: its solid part, without thin rims (`contour.solid_tissue`).
        masses: tumors and cysts, likewise.
        center_mm: middle of the tissue.
        axis: unit vector along its longest extent, toward the head.
        reach_mm: lowest and highest place along the axis, from the middle.
    """

    side: Side
    side_is_certain: bool
    box: Box
    own_box: Box
    parenchyma: Mask
    tissue: Mask
    masses: Mask
    center_mm: Vector
    axis: Vector
    reach_mm: tuple[float, float]

    @property
    def organ(self) -> Mask:
        """Kidney, tumors and cysts."""
        return self.parenchyma | self.masses

    @property
    def length_mm(self) -> float:
        """Extent of the tissue along its axis."""
        return self.reach_mm[1] - self.reach_mm[0]

    def along(self, points: Vector) -> Vector:
        """Places (...) of points (..., 3) along the axis: 0 the lowest, 1 the highest."""
        low, high = self.reach_mm
        places: Vector = ((points - self.center_mm) @ self.axis - low) / (high - low)
        return places


def points_of(mask: Mask, box: Box, grid: Grid) -> Vector:
    """Centres (N, 3) in mm of the voxels of a mask that lies in `box`."""
    points: Vector = (np.argwhere(mask) + box.start) * np.asarray(grid.spacing)
    return points


def axis_of(points: Vector, spacing: Sequence[float], superior: Vector) -> Vector:
    """Unit vector along the longest extent of points (N, 3) in mm, toward the head.

    The first principal axis of the voxels, each with its own extent, so that one voxel has an
    axis too.
    """
    centered = points - points.mean(axis=0)
    spread = centered.T @ centered / len(points) + np.diag(np.square(spacing) / 12)
    axis = np.linalg.eigh(spread)[1][:, -1]
    return np.asarray(axis if axis @ superior >= 0 else -axis)


def are_beside(boxes: Sequence[Box]) -> bool:
    """Whether there are several kidneys and not all in the same columns, above each other."""
    if len(boxes) < 2:
        return False
    first, last = max(b.start[2] for b in boxes), min(b.stop[2] for b in boxes)
    return last - first <= min(b.shape[2] for b in boxes) / 2


def sides_of_several(centers_mm: Sequence[Vector], grid: Grid) -> list[Side]:
    """The patient's side of kidneys beside each other.

    The outermost two are one of each side wherever the middle of the scan lies; others go with
    the nearer of the two.
    """
    left = Directions.of(grid).left
    places = [float(center @ left) for center in centers_mm]
    middle = (min(places) + max(places)) / 2
    return ["left" if place > middle else "right" for place in places]


_WHOLE_BODY_MM = 260.0
"""A scan that is narrower may show one flank only; KiTS's narrowest is 224 mm, of a slim body."""
_OFF_MIDDLE_MM = 25.0
"""Kidneys of 40 KiTS23 cases lie 46 to 111 mm off the scan's middle, one pelvic kidney 15 mm."""


def side_alone(center_mm: Vector, hollow: Vector, grid: Grid) -> tuple[Side, bool]:
    """The patient's side of a kidney that has none beside it, and whether it is certain.

    By where it lies, if the scan is wide enough for a whole body and the kidney clearly off its
    middle, else by where its hollow side looks: toward the middle of the body.

    Args:
        center_mm: its middle.
        hollow: from its middle to that of its hollow, mm; zero where there is none.
        grid: the scan's.
    """
    left = Directions.of(grid).left
    middle = (np.asarray(grid.shape) - 1) / 2 * np.asarray(grid.spacing)
    offset = float((center_mm - middle) @ left)
    toward_left = float(hollow @ left)
    by_shape: Side | None = None
    if abs(toward_left) > 0.3 * float(np.linalg.norm(hollow)) > 0:
        by_shape = "right" if toward_left > 0 else "left"
    by_place: Side = "left" if offset > 0 else "right"
    is_wide = grid.extent_mm[2] >= _WHOLE_BODY_MM
    if is_wide and abs(offset) >= _OFF_MIDDLE_MM:
        return by_place, by_shape in (None, by_place) or abs(offset) >= 2 * _OFF_MIDDLE_MM
    return (by_shape, not is_wide) if by_shape is not None else (by_place, False)
