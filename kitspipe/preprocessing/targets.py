"""Each stage's grid, and the classes on it that its network learns; arrays are (Z, Y, X)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.volume import Grid, Triple, Volume
from kitspipe.planning.plan import AxisSpacing, Labels

TUMOR_CLASS = 1
CYST_CLASS = 2
"""Classes of the tumor stage's target; 0 is everything else."""
KIDNEY_CLASS = 3
"""The rest of the kidney, while the tumor stage's target is resampled."""
TUMOR_OF_WHOLE = 2
"""Of the kidney stage's target: tumor, as a part of the whole kidney; the rest of it is 1."""


def resolve_spacing(
    target: tuple[AxisSpacing, AxisSpacing, AxisSpacing], spacing: Triple
) -> Triple:
    """Target spacing in mm for a scan; `"x2"` means twice the scan's own.

    Args:
        target: the plan's value in (Z, Y, X).
        spacing: the scan's in (Z, Y, X), mm.
    """
    z, y, x = (
        own * float(axis[1:]) if isinstance(axis, str) else float(axis)
        for axis, own in zip(target, spacing, strict=True)
    )
    return (z, y, x)


def target_grid(target: tuple[AxisSpacing, AxisSpacing, AxisSpacing], grid: Grid) -> Grid:
    """The grid at the plan's spacing over the extent of a scan or region."""
    return grid.with_spacing(resolve_spacing(target, grid.spacing))


def kidney_mask(labels: Volume, values: Labels) -> NDArray[np.bool_]:
    """The whole kidney: kidney, tumor and cyst together, (Z, Y, X)."""
    mask = np.zeros(labels.array.shape, bool)
    # Comparisons go through a large array several times as fast as a lookup.
    for value in values.values:
        mask |= labels.array == value
    return mask


def tumor_target(labels: NDArray[np.generic], values: Labels) -> NDArray[np.uint8]:
    """Labels to classes: 1 tumor, 2 cyst, 3 the rest of the kidney, so that resampling sees it."""
    lookup = np.zeros(256, np.uint8)
    lookup[values.kidney] = KIDNEY_CLASS
    lookup[values.tumor] = TUMOR_CLASS
    if values.cyst is not None:
        lookup[values.cyst] = CYST_CLASS
    classes: NDArray[np.uint8] = lookup[labels]
    return classes
