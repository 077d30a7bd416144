"""Where a kidney's sinus lies, its contour without the tumor, and how near a tumor is.

A mask of kidney tissue says nothing of the sinus, so it is approximated: the hollow middle of the
tissue's convex hull, toward the hilum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from kitspipe.evaluation.kidneys import Directions, Kidney, Vector, points_of
from kitspipe.evaluation.outline import Mask, convex_hull
from kitspipe.imaging.components import components, dilate
from kitspipe.imaging.volume import Box, Grid, Triple

_OPENING_MM = 2.0
"""Hollows thinner than twice this are folds of the surface, not the sinus."""
_MIDDLE = (0.2, 0.8)
"""The sinus's place along the kidney: in KiTS23's kidneys without a large tumor, 95 % of the
hollow lies between 0.22 and 0.80."""
_BEHIND_CENTER_MM = 5.0
"""How far the sinus may reach away from the hilum, from the middle of the parenchyma."""
_LEAST_ML = 0.3
_NORMAL = 0.7


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sinus:
    """The approximated sinus of a kidney.

    Args:
        mask: (Z, Y, X) in the kidney's box; empty where none was found.
        direction: unit vector from the middle of the parenchyma toward the hilum.
    """

    mask: Mask
    direction: Vector


def inside_contour(kidney: Kidney) -> Mask:
    """The voxels of the kidney's box inside the convex hull of its parenchyma."""
    shape = kidney.box.shape
    hull = convex_hull(kidney.parenchyma)
    return np.zeros(shape, np.bool_) if hull is None else hull.mask(shape)


def hollow_direction(parenchyma: Mask, masses: Mask, spacing: Triple) -> Vector:
    """From the middle of the parenchyma to that of the hollow in its hull, mm in (Z, Y, X)."""
    hull = convex_hull(parenchyma)
    if hull is None:
        return np.zeros(3)
    hollow = hull.mask(parenchyma.shape) & ~(parenchyma | masses)
    largest = components(_opened(hollow, spacing))[0] == 1
    if not largest.any():
        return np.zeros(3)
    steps = np.argwhere(largest).mean(axis=0) - np.argwhere(parenchyma).mean(axis=0)
    return np.asarray(steps * spacing)


def find_sinus(kidney: Kidney, inside: Mask, grid: Grid) -> Sinus:
    """The largest hollow in the middle of the kidney's length, on the side of the hilum.

    Args:
        kidney: the kidney.
        inside: its contour, as `inside_contour` gives it.
        grid: the scan's.
    """
    expected = Directions.of(grid).hilum(kidney.side)
    hollow = _opened(inside & ~kidney.organ, grid.spacing)
    places = np.argwhere(hollow)
    points = points_of(hollow, kidney.box, grid)
    along = kidney.along(points)
    kept = (along >= _MIDDLE[0]) & (along <= _MIDDLE[1])
    facing = (points - kidney.center_mm) @ expected >= -_BEHIND_CENTER_MM
    for chosen in (kept & facing, kept):
        mask = np.zeros_like(hollow)
        mask[tuple(places[chosen].T)] = True
        mask = components(mask)[0] == 1
        if np.count_nonzero(mask) * grid.voxel_ml >= _LEAST_ML:
            break
    else:
        return Sinus(mask=np.zeros_like(hollow), direction=expected)
    toward = points_of(mask, kidney.box, grid).mean(axis=0) - kidney.center_mm
    toward -= (toward @ kidney.axis) * kidney.axis
    length = float(np.linalg.norm(toward))
    if length < 1e-6 or toward @ expected < _NORMAL * length:
        return Sinus(mask=mask, direction=expected)
    return Sinus(mask=mask, direction=toward / length)


def gap_mm(a: Mask, b: Mask, spacing: Triple) -> float:
    """Shortest distance between the voxels of two masks, from border to border.

    Args:
        a: (Z, Y, X), not empty.
        b: likewise.
        spacing: mm in (Z, Y, X).

    Returns 0 for voxels that touch, also by an edge or corner; infinite if one mask is empty.
    """
    if not (a.any() and b.any()):
        return float("inf")
    spaced = np.asarray(spacing)
    border, other = np.argwhere(_border(a)), np.argwhere(_border(b))
    _, nearest = cKDTree(other * spaced).query(border * spaced)
    steps = np.maximum(np.abs(other[nearest] - border) - 1, 0) * spaced
    return float(np.sqrt((steps**2).sum(axis=1)).min())


def _border(mask: Mask) -> Mask:
    """The voxels of a mask with a face to one outside of it, or to the end of the array."""
    box = Box.around(mask)
    border = np.zeros_like(mask)
    if box is not None:
        part = mask[box.slices]
        border[box.slices] = part & ~ndimage.binary_erosion(part)
    return border


def contact_area_mm2(mask: Mask, other: Mask, spacing: Triple) -> float:
    """Area of the surface between two masks (Z, Y, X) in mm2.

    Every voxel face between them counts with its area, projected onto the surface, whose normal is
    the gradient of the smoothed mask: staircases of any direction get a plane's area.

    Source: Lenoir 1996; Coeurjolly et al. 2003, Multigrid convergence and surface area estimation.
    """
    box = Box.around(mask)
    if box is None:
        return 0.0
    margin = 5
    slices = tuple(
        slice(max(0, a - margin), b + margin) for a, b in zip(box.start, box.stop, strict=True)
    )
    mask, other = mask[slices], other[slices]
    soft = ndimage.gaussian_filter(np.pad(mask, 1, mode="edge").astype(np.float32), _SMOOTH_VOXELS)
    total = 0.0
    for axis in range(3):
        front, back = [slice(None)] * 3, [slice(None)] * 3
        front[axis], back[axis] = slice(None, -1), slice(1, None)
        f, b = tuple(front), tuple(back)
        faces = np.argwhere((mask[f] & other[b]) | (other[f] & mask[b])) + 1
        if len(faces) == 0:
            continue
        normal = _normals(soft, faces, axis, spacing)
        area = spacing[0] * spacing[1] * spacing[2] / spacing[axis]
        total += area * float(np.abs(normal[:, axis]).sum())
    return total


_SMOOTH_VOXELS = 1.3


def _normals(
    soft: NDArray[np.float32], faces: NDArray[np.int_], axis: int, spacing: Triple
) -> NDArray[np.float64]:
    """Unit normals (N, 3) at the faces behind the voxels `faces` (N, 3) along an axis.

    One and the same difference along each axis, so that none is preferred.
    """
    steps = np.eye(3, dtype=int)
    gradient = np.zeros((len(faces), 3))
    for k, step in enumerate(steps):
        for place in (faces, faces + steps[axis]):
            gradient[:, k] += soft[tuple((place + step).T)] - soft[tuple((place - step).T)]
    gradient /= spacing
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    return np.asarray(gradient / np.maximum(length, 1e-12))


def _opened(mask: Mask, spacing: Triple) -> Mask:
    """The mask without what is thinner than twice the opening's radius."""
    padded = np.pad(mask, 1)
    opened = dilate(dilate(padded, -_OPENING_MM, spacing), _OPENING_MM, spacing)
    return opened[1:-1, 1:-1, 1:-1]
