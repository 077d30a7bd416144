"""One region of interest per kidney; the same rule for training and prediction.

Axes (Z, Y, X); X runs from the patient's right to left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Box, Grid

Side = Literal["right", "left", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KidneyRoi:
    """The box around one kidney, or around all of them.

    Args:
        name: unique in the scan, safe as a file name.
        side: the patient's side, from geometry; "both" where whole slices are kept.
        box: voxels on the scan's grid, inside it.
    """

    name: str
    side: Side
    box: Box


def clean_kidneys(
    mask: NDArray[np.bool_], grid: Grid, minimal_ml: float
) -> tuple[NDArray[np.int32], int]:
    """Kidneys of a mask as components 1..n by falling size; the largest is always kept.

    Args:
        mask: (Z, Y, X).
        grid: its place.
        minimal_ml: smaller components are no kidneys.

    Returns:
        (Z, Y, X) int32 and n; n is 0 for an empty mask.

    Source: KiTS23's second place drops components below 10 ml.
    """
    labelled, count = components(mask)
    box = Box.around(mask)
    if box is None:
        return labelled, 0
    inside = labelled[box.slices]
    voxels = np.bincount(inside.ravel(), minlength=count + 1)[1:]
    kept = max(1, int((voxels * grid.voxel_ml >= minimal_ml).sum()))
    inside[inside > kept] = 0
    return labelled, kept


def kidney_rois(
    kidneys: NDArray[np.int32], count: int, grid: Grid, margin_mm: float | None
) -> tuple[KidneyRoi, ...]:
    """The regions in which tumors are looked for, from right to left.

    Args:
        kidneys: (Z, Y, X), components 1..count as `clean_kidneys` gives them.
        count: number of components; 0 gives no region.
        grid: their place.
        margin_mm: added on every side; None: one region of whole slices from the first to the
            last with kidney.
    """
    found = [
        Box(start=(z.start, y.start, x.start), stop=(z.stop, y.stop, x.stop))
        for z, y, x in filter(None, ndimage.find_objects(kidneys, count))
    ]
    if not found:
        return ()
    if margin_mm is None:
        return (_whole_slices(found, grid),)
    middle = _middle_of_kidneys(found, grid)
    found.sort(key=_center_x)
    rois: list[KidneyRoi] = []
    for box in found:
        side: Side = "right" if _center_x(box) < middle else "left"
        earlier = sum(roi.side == side for roi in rois)
        rois.append(
            KidneyRoi(
                name=side if earlier == 0 else f"{side}_{earlier + 1}",
                side=side,
                box=box.dilate(margin_mm, grid).clip(grid.shape),
            )
        )
    return tuple(rois)


def _whole_slices(boxes: list[Box], grid: Grid) -> KidneyRoi:
    first = min(box.start[0] for box in boxes)
    last = max(box.stop[0] for box in boxes)
    box = Box(start=(first, 0, 0), stop=(last, *grid.shape[1:]))
    return KidneyRoi(name="both", side="both", box=box)


def _center_x(box: Box) -> float:
    return (box.start[2] + box.stop[2]) / 2


def _middle_of_kidneys(boxes: list[Box], grid: Grid) -> float:
    """The mid-sagittal column: between the outer borders of two kidneys, else of the scan."""
    if len(boxes) > 1:
        return (min(box.start[2] for box in boxes) + max(box.stop[2] for box in boxes)) / 2
    return grid.shape[2] / 2
