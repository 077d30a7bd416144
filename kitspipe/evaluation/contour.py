"""A kidney's contour as it would be without the tumor.

Masks drawn as a kidney with its tumor and then the tumor inside, as those of KiTS are, leave a thin
rim of kidney around tumors that have long left it. What is thinner than 6 mm is therefore not
taken for tissue here: a kidney's cortex and medulla together are thicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from kitspipe.evaluation.outline import Hull, Mask, Points, convex_hull
from kitspipe.imaging.components import components, dilate
from kitspipe.imaging.volume import Triple

RIM_MM = 6.0
EDGE_MM = 1.5
_DIRECTIONS = 1500
_TOUCHING_MM = 5.0
_LEAST_KNOWN = 0.4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contour:
    """The convex hull of a kidney's tissue, closed where a tumor took the surface away.

    Args:
        hull: of the tissue, in voxel indices of the kidney's box.
        quadric: (9,) of an ellipsoid fitted to the hull's surface where tissue touches it, for
            points in mm from `center`; None where it could not be fitted.
        center: (3,) mm in the kidney's box.
        spacing: mm in (Z, Y, X).
    """

    hull: Hull
    quadric: NDArray[np.floating] | None
    center: Points
    spacing: Triple

    def share_outside(self, mask: Mask) -> float:
        """Share of a mask's voxels outside of both, [0, 1].

        Args:
            mask: (Z, Y, X) in the kidney's box, not empty.
        """
        outside = np.argwhere(mask & ~self.hull.mask(mask.shape))
        if self.quadric is not None and len(outside):
            level = _terms(outside * self.spacing - self.center) @ self.quadric
            outside = outside[level > 1]
        return len(outside) / int(np.count_nonzero(mask))


def solid_tissue(parenchyma: Mask, spacing: Triple) -> Mask:
    """The parenchyma without rims thinner than 6 mm: its largest piece, opened.

    All of it where nothing is thick enough.
    """
    solid: Mask = components(opened(parenchyma, RIM_MM / 2, spacing))[0] == 1
    return solid if solid.any() else parenchyma


def with_edges(tissue: Mask, parenchyma: Mask, spacing: Triple) -> Mask:
    """Solid tissue and the parenchyma within 1.5 mm of it.

    Opening blunts the wedge between a tumor and the kidney's surface, by 1 to 2 mm where they meet
    at 60 to 90 degrees; there it touches the tumor.
    """
    return dilate(tissue, EDGE_MM, spacing) & parenchyma


def contour_of(tissue: Mask, spacing: Triple) -> Contour:
    """The contour of a kidney.

    Args:
        tissue: (Z, Y, X) as `solid_tissue` gives it, not empty.
        spacing: mm in (Z, Y, X).

    Raises:
        ValueError: the mask is empty.
    """
    hull = convex_hull(tissue)
    if hull is None:
        raise ValueError("an empty mask has no contour")
    center = np.argwhere(tissue).mean(axis=0) * spacing
    return Contour(
        hull=hull, quadric=_fitted(hull, center, spacing), center=center, spacing=spacing
    )


def opened(mask: Mask, radius_mm: float, spacing: Triple) -> Mask:
    """The mask (Z, Y, X) without what is thinner than twice the radius."""
    padded = np.pad(mask, 1)
    kept = dilate(dilate(padded, -radius_mm, spacing), radius_mm, spacing)
    return kept[1:-1, 1:-1, 1:-1]


def _fitted(hull: Hull, center: Points, spacing: Triple) -> NDArray[np.floating] | None:
    """The ellipsoid through the hull's surface where tissue touches it, by least squares.

    Its surface is looked at in evenly spread directions. None if too little of it is touched or
    no ellipsoid fits.
    """
    normals = hull.planes[:, :3] / spacing
    offsets = hull.planes[:, 3] + normals @ center
    directions = _spread_directions(_DIRECTIONS)
    slopes = directions @ normals.T
    with np.errstate(divide="ignore"):
        radii = np.where(slopes > 1e-12, -offsets / slopes, np.inf).min(axis=1)
    surface = radii[:, None] * directions
    corners = hull.corners * spacing - center
    touching = cKDTree(corners).query(surface)[0] <= max(_TOUCHING_MM, 1.2 * max(spacing))
    if touching.mean() < _LEAST_KNOWN:
        return None
    quadric = np.linalg.lstsq(_terms(surface[touching]), np.ones(touching.sum()), rcond=None)[0]
    zz, yy, xx, zy, zx, yx = quadric[:6]
    matrix = np.array([[zz, zy / 2, zx / 2], [zy / 2, yy, yx / 2], [zx / 2, yx / 2, xx]])
    least, most = np.linalg.eigvalsh(matrix)[[0, -1]]
    return quadric if least > 0 and most / least < _FLATTEST**2 else None


_FLATTEST = 5.0
"""An ellipsoid whose axes differ more is no kidney: theirs differ by a factor of two to three."""


def _terms(points: Points) -> NDArray[np.float64]:
    """The nine terms (N, 9) of a quadric through points (N, 3)."""
    z, y, x = points.T
    return np.stack([z * z, y * y, x * x, z * y, z * x, y * x, z, y, x], axis=1)


def _spread_directions(count: int) -> Points:
    """Unit vectors (count, 3) spread evenly over the sphere, on a Fibonacci spiral."""
    steps = np.arange(count) + 0.5
    z = 1 - 2 * steps / count
    angle = steps * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z * z)
    return np.stack([z, ring * np.cos(angle), ring * np.sin(angle)], axis=1)
