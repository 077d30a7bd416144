"""Bodies with known measures, painted on grids by their voxels' centres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from strategies import turned_direction

from kitspipe.imaging.volume import Grid, Triple, Volume

KIDNEY_RADII = (24.0, 30.0, 55.0)  # (x, y, z) mm in LPS
MIDDLES = {"right": np.array([-65.0, 0.0, 0.0]), "left": np.array([65.0, 5.0, 10.0])}


def ellipse(radii, angle, spacing, shift=(0.0, 0.0)) -> NDArray[np.bool_]:
    """A mask (1, Y, X) of an ellipse with these half axes in mm, turned by radians."""
    shape = [int(2 * max(radii) / s) + 8 for s in spacing]
    y, x = (
        (n - (size - 1) / 2) * s - d
        for n, size, s, d in zip(np.indices(shape), shape, spacing, shift, strict=True)
    )
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return ((u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1)[None]


def ellipsoid(radii, spacing, rotation=None, shift=(0.0, 0.0, 0.0)) -> NDArray[np.bool_]:
    """A mask (Z, Y, X) of an ellipsoid with half axes in mm along z, y, x, then turned."""
    shape = [int(2 * max(radii) / s) + 8 for s in spacing]
    points = (np.stack(np.indices(shape), -1) - (np.array(shape) - 1) / 2) * spacing - shift
    if rotation is not None:
        points = rotation.apply(points.reshape(-1, 3)).reshape(points.shape)
    return ((points / radii) ** 2).sum(-1) < 1


def scan_grid(spacing: Triple, angles=(0.0, 0.0, 0.0), extent=(160, 110, 280)) -> Grid:
    """A grid around the patient's origin, wide enough for both kidneys; turned by degrees."""
    direction = turned_direction(Rotation.from_euler("xyz", angles, degrees=True))
    shape = tuple(round(e / s) for e, s in zip(extent, spacing, strict=True))
    middle = (np.array(shape) - 1) / 2 * spacing
    origin = tuple(map(float, -np.asarray(direction) @ middle))
    return Grid(shape=shape, spacing=spacing, origin=origin, direction=direction)


def two_kidneys(grid: Grid, tumors=(), cysts=(), sides=("right", "left")) -> Volume:
    """Labels of ellipsoid kidneys with a notch at the hilum, and of balls (center, radius) in LPS.

    The right kidney's middle lies 65 mm to the right of the origin, the left one's to the left,
    5 mm behind and 10 mm above it.
    """
    points = grid.to_world(np.stack(np.indices(grid.shape), -1))
    labels = np.zeros(grid.shape, np.uint8)
    for side in sides:
        inward = 1 if side == "right" else -1
        own = points - MIDDLES[side]
        kidney = ((own / KIDNEY_RADII) ** 2).sum(-1) < 1
        notch = ((own - (inward * 22, -14, 0)) / (14, 14, 18)) ** 2
        labels[kidney & (notch.sum(-1) > 1)] = 1
    for value, balls in ((3, cysts), (2, tumors)):
        for center, radius in balls:
            labels[((points - center) ** 2).sum(-1) < radius**2] = value
    return Volume(array=labels, grid=grid)
