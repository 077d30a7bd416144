"""How near two masks are, and the area where they touch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from kitspipe.evaluation.outline import Mask
from kitspipe.imaging.volume import Box, Triple

_SMOOTH_VOXELS = 1.3
"""Standard deviation of the smoothing that normals come from. With it spheres of 12 to 80 mm have
their area to 1 % on voxels of 1 x 0.8 x 0.8 mm, to 3 % on 2.5 mm slices, to 6 % on 5 mm."""


def gap_mm(a: Mask, b: Mask, spacing: Triple) -> float:
    """Shortest distance between the voxels of two masks, from border to border.

    Args:
        a: (Z, Y, X), not empty.
        b: likewise.
        spacing: mm in (Z, Y, X).

    Returns 0 for voxels that touch, also by an edge or corner; infinite if one mask is empty.
    """
    if not (a.any() and b.any()):
        return math.inf
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
