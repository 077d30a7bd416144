"""What a page shows of a scan: the part around the kidneys, as bytes, and where to look first.

Arrays are (Z, Y, X) on a canonical grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.components import remove_small
from kitspipe.imaging.resample import resample_image, resample_labels
from kitspipe.imaging.volume import Box, Grid, Shape, Volume
from kitspipe.planning.plan import Labels

LOW_HU, HIGH_HU = -200, 300
"""What the bytes span, so 2 HU a step: fat to enhanced cortex, vessels and bone are white."""

KIDNEY, TUMOR, CYST = 1, 2, 3
"""Classes on the page, whatever the masks' values are."""

# A page of 100 cases stays below 200 MB: WebP takes about a tenth of a byte for a voxel.
MOST_VOXELS = 8_000_000
_FINEST_MM = 0.7
_MARGIN_MM = 25.0
# Where a kidney may be missing, its place should be in view.
_WIDE_MARGIN_MM = 60.0
_KIDNEY_ML = 20.0
_STEP = 1.04

Bytes3D = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReviewVolume:
    """A scan with its masks, small enough for a page.

    Args:
        image: `LOW_HU` to `HIGH_HU` as 0 to 255.
        labels: classes of the page.
        reference: the same of the reference, None without.
        grid: where all of them lie.
        focus: (Z, Y, X) of the slice of each plane with most tumor, else most kidney.
    """

    image: Bytes3D
    labels: Bytes3D
    reference: Bytes3D | None
    grid: Grid
    focus: Shape


def review_volume(
    image: Volume, labels: Volume, reference: Volume | None, values: Labels
) -> ReviewVolume:
    """Cut a scan to what a reader needs, coarser where it is larger than `MOST_VOXELS`.

    Where less than two kidneys are masked, the page shows the body's whole width, as one may have
    been missed; without any mask the whole scan.

    Args:
        image: int16 HU.
        labels: predicted labels on the same grid.
        reference: reference labels on the same grid, or None.
        values: which value is what, in both.
    """
    box = _part_to_show(labels, reference)
    grid = _grid_to_show(image.grid.crop(box))
    shown = [
        None if volume is None else _classes(resample_labels(volume.crop(box), grid), values)
        for volume in (labels, reference)
    ]
    predicted = shown[0]
    assert predicted is not None
    hu = resample_image(image.crop(box), grid).array.astype(np.float32)
    scaled = np.clip((hu - LOW_HU) * (255 / (HIGH_HU - LOW_HU)), 0, 255)
    return ReviewVolume(
        image=np.rint(scaled).astype(np.uint8),
        labels=predicted,
        reference=shown[1],
        grid=grid,
        focus=_focus(predicted, shown[1]),
    )


def _part_to_show(labels: Volume, reference: Volume | None) -> Box:
    grid = labels.grid
    masked = np.asarray(labels.array != 0)
    if reference is not None:
        masked = masked | (reference.array != 0)
    box = Box.around(masked)
    if box is None:
        return Box(start=(0, 0, 0), stop=grid.shape)
    if _kidneys(masked, box, grid) > 1:
        return box.dilate(_MARGIN_MM, grid).clip(grid.shape)
    wide = box.dilate(_WIDE_MARGIN_MM, grid).clip(grid.shape)
    return Box(
        start=(wide.start[0], wide.start[1], 0), stop=(wide.stop[0], wide.stop[1], grid.shape[2])
    )


def _kidneys(masked: NDArray[np.bool_], box: Box, grid: Grid) -> int:
    """Sides of the mask's middle that hold a large component: 0, 1 or 2."""
    large = remove_small(masked[box.slices], _KIDNEY_ML, grid)
    columns = np.flatnonzero(large.any(axis=(0, 1)))
    if columns.size == 0:
        return 0
    # Between two kidneys lie at least 3 cm of spine and vessels.
    gap_mm = np.diff(columns).max(initial=0) * grid.spacing[2]
    return 2 if gap_mm > 30 else 1


def _grid_to_show(grid: Grid) -> Grid:
    """The same extent on voxels that are not needlessly small, and not too many."""
    finest = _FINEST_MM
    while True:
        z, y, x = (max(s, finest) for s in grid.spacing)
        if (z, y, x) == grid.spacing and math.prod(grid.shape) <= MOST_VOXELS:
            return grid
        shown = grid.with_spacing((z, y, x))
        if math.prod(shown.shape) <= MOST_VOXELS:
            return shown
        finest *= _STEP


def _classes(labels: Volume, values: Labels) -> Bytes3D:
    table = np.zeros(256, np.uint8)
    table[values.kidney], table[values.tumor] = KIDNEY, TUMOR
    if values.cyst is not None:
        table[values.cyst] = CYST
    classes: Bytes3D = table[labels.array.astype(np.uint8, copy=False)]
    return classes


def _focus(labels: Bytes3D, reference: Bytes3D | None) -> Shape:
    """The slice of each plane with most predicted tumor, else true tumor, else most of any mask."""
    masks = [labels == TUMOR]
    if reference is not None:
        masks.append(reference == TUMOR)
    masks.append(labels > 0)
    for mask in masks:
        if mask.any():
            z, y, x = (
                int(np.argmax(np.count_nonzero(mask, axis=axes)))
                for axes in ((1, 2), (0, 2), (0, 1))
            )
            return (z, y, x)
    z, y, x = (n // 2 for n in labels.shape)
    return (z, y, x)
