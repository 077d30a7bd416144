"""Kidneys on the scan's own voxels, from what their stage sees on its grid; arrays (Z, Y, X)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.resample import resample_image, resample_linear
from kitspipe.imaging.volume import Box, Grid, Volume
from kitspipe.prediction.kidneys import KIDNEY_THRESHOLD, KidneyStage, Region
from kitspipe.preprocessing.rois import clean_kidneys
from kitspipe.preprocessing.targets import target_grid

Observe = Callable[[str, NDArray[np.float32], Grid], None]
"""Takes a class, the probability of it (Z, Y, X), and the grid that it lies on."""

_SLICES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kidneys:
    """The first stage's result, cleaned.

    Args:
        mask: (Z, Y, X), the whole kidney on the scan's own voxels.
        boxes: around each kidney, by falling size.
        is_cut: whether one reaches the scan's first or last slice.
    """

    mask: NDArray[np.bool_]
    boxes: tuple[Box, ...]
    is_cut: bool

    @property
    def count(self) -> int:
        """Kidneys found."""
        return len(self.boxes)


def kidneys_on_scan(image: Volume, stage: KidneyStage, observe: Observe | None = None) -> Kidneys:
    """What the stage sees as kidney, without specks.

    Args:
        image: int16 HU on its own grid.
        stage: the networks.
        observe: gets each region's probability map before it is decided.
    """
    plan = stage.plan
    grid = target_grid(plan.target_spacing_mm, image.grid)
    coarse = resample_image(image, grid).array.astype(np.int16, copy=False)
    mask = np.zeros(image.grid.shape, np.bool_)
    whole: Box | None = None
    for region in stage.regions(coarse, grid):
        if observe is not None:
            observe("kidney", region.probability, region.grid)
        box = image.grid.within(region.grid)
        if box is not None:
            _threshold_into(mask, region, image.grid, box)
            whole = box if whole is None else whole.around_both(box)
    if whole is None:
        return Kidneys(mask=mask, boxes=(), is_cut=False)
    # Voxels outside are never touched, so that they take no memory.
    kept, boxes = clean_kidneys(mask[whole.slices], image.grid.crop(whole), plan.minimal_kidney_ml)
    mask[whole.slices] = kept
    return Kidneys(
        mask=mask,
        boxes=tuple(box.shifted(whole.start) for box in boxes),
        is_cut=bool(mask[0].any() or mask[-1].any()),
    )


def _threshold_into(mask: NDArray[np.bool_], region: Region, grid: Grid, box: Box) -> None:
    """Add to a mask where a region's probability reaches the threshold, by slabs of slices."""
    _, y, x = box.slices
    for first in range(box.start[0], box.stop[0], _SLICES_AT_ONCE):
        last = min(first + _SLICES_AT_ONCE, box.stop[0])
        slab = grid.crop(Box(start=(first, *box.start[1:]), stop=(last, *box.stop[1:])))
        mask[first:last, y, x] |= (
            resample_linear(region.probability, region.grid, slab) >= KIDNEY_THRESHOLD
        )
