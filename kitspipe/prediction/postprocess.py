"""Components, minimal sizes, and the merge of the two stages. Arrays are (Z, Y, X)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.imaging.components import components, dilate, largest_component, remove_small
from kitspipe.imaging.volume import Box, Grid
from kitspipe.planning.plan import Labels, TumorPlan
from kitspipe.preprocessing.targets import CYST_CLASS, TUMOR_CLASS

REACH_MM = 10.0
"""As far from its kidney as a tumor is looked for."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesions:
    """The second stage's result by a plan's rules, and kidneys that are none.

    Args:
        classes: (Z, Y, X) 0 background, 1 tumor, 2 cyst.
        no_kidney: (Z, Y, X), kidneys that are lesion all through.
        no_kidney_ml: volume of each.
    """

    classes: NDArray[np.uint8]
    no_kidney: NDArray[np.bool_]
    no_kidney_ml: tuple[float, ...]


def clean_lesions(
    classes: NDArray[np.uint8], kidney: NDArray[np.bool_], grid: Grid, plan: TumorPlan
) -> Lesions:
    """`without_kidney`, then `clean_tumors`; arguments are theirs."""
    no_kidney, no_kidney_ml = without_kidney(kidney, classes, grid, plan.minimal_healthy_ml)
    inside = np.where(no_kidney, np.uint8(0), classes)
    return Lesions(
        classes=clean_tumors(inside, kidney & ~no_kidney, grid, plan),
        no_kidney=no_kidney,
        no_kidney_ml=no_kidney_ml,
    )


def clean_tumors(
    classes: NDArray[np.uint8], kidney: NDArray[np.bool_], grid: Grid, plan: TumorPlan
) -> NDArray[np.uint8]:
    """Tumor classes without what the plan says is no lesion.

    Args:
        classes: (Z, Y, X) 0 background, 1 tumor, 2 cyst, whole scan.
        kidney: (Z, Y, X), the predicted kidneys, lesions in them included.
        grid: their place.
        plan: `minimal_tumor_ml` drops smaller tumors; of those left, `components` keeps all, the
            scan's "largest" (paper 3.5), the "largest_per_kidney", or those "touching_kidney".

    Returns:
        A new array; removed tumor voxels are 0. Without tumor nothing changes.
    """
    tumor = classes == TUMOR_CLASS
    kept = remove_small(tumor, plan.minimal_tumor_ml, grid) if plan.minimal_tumor_ml else tumor
    if plan.components == "largest":
        kept = largest_component(kept)
    elif plan.components == "largest_per_kidney":
        kept = _largest_per_kidney(kept, kidney)
    elif plan.components == "touching_kidney":
        kept = _touching(kept, kidney)
    cleaned: NDArray[np.uint8] = classes.copy()
    cleaned[tumor & ~kept] = 0
    return cleaned


def without_kidney(
    kidney: NDArray[np.bool_], classes: NDArray[np.uint8], grid: Grid, minimal_ml: float
) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """What the first stage took for a kidney and the second for lesion all through: no kidney.

    Kept is whatever may be a tumor that left its kidney, or ate it up: what lies within `REACH_MM`
    of a kidney, what is larger than every kidney, and all of it where there is no kidney.

    Args:
        kidney: (Z, Y, X), the predicted kidneys, lesions in them included.
        classes: (Z, Y, X) 0 background, 1 tumor, 2 cyst.
        grid: their place.
        minimal_ml: kidney beside its lesions that a kidney has; 0 keeps all.

    Returns:
        (Z, Y, X), structures that have less, lesions included, and their volumes in ml.
    """
    left_out = np.zeros(kidney.shape, np.bool_)
    if minimal_ml == 0:
        return left_out, ()
    numbered, count = components(kidney | (classes > 0))
    volumes_ml, predicted_ml, healthy_ml = (
        np.bincount(of, minlength=count + 1) * grid.voxel_ml
        for of in (numbered[numbered > 0], numbered[kidney], numbered[kidney & (classes == 0)])
    )
    is_kidney = healthy_ml >= minimal_ml * (1 - 1e-9)
    largest_ml = volumes_ml[is_kidney].max(initial=0.0)
    doubtful = ~is_kidney & (predicted_ml > 0) & (volumes_ml < largest_ml)
    gone_ml = []
    for number in np.flatnonzero(doubtful):
        structure = numbered == number
        box = Box.around(structure)
        assert box is not None
        around = box.dilate(REACH_MM, grid).clip(grid.shape).slices
        near = dilate(structure[around], REACH_MM, grid.spacing)
        if not is_kidney[numbered[around][near]].any():
            left_out |= structure
            gone_ml.append(float(volumes_ml[number]))
    return left_out, tuple(gone_ml)


def _largest_per_kidney(tumor: NDArray[np.bool_], kidney: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the tumors that hang together with one kidney, or by themselves, the largest."""
    kidneys, _ = components(kidney | tumor)
    tumors, count = components(tumor)
    # Numbers rise as sizes fall, so the first tumor met in a kidney is its largest.
    first = np.unique(tumors, return_index=True)[1][-count:] if count else np.zeros(0, int)
    homes = kidneys.ravel()[first]
    largest = 1 + np.unique(homes, return_index=True)[1]
    kept: NDArray[np.bool_] = np.isin(tumors, largest)
    return kept


def _touching(tumor: NDArray[np.bool_], kidney: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tumors with a voxel in the kidney or beside it, corners included."""
    tumors, _ = components(tumor)
    beside = ndimage.binary_dilation(kidney, np.ones((3, 3, 3), bool))
    met = np.unique(tumors[beside & tumor])
    kept: NDArray[np.bool_] = np.isin(tumors, met[met > 0])
    return kept


def merge(
    kidney: NDArray[np.bool_], classes: NDArray[np.uint8], values: Labels
) -> NDArray[np.uint8]:
    """Label values of the data set from both stages; a lesion overwrites kidney.

    A tumor that reaches out of the kidney mask stays: the challenge counts it as kidney too.

    Args:
        kidney: (Z, Y, X), the whole kidney.
        classes: (Z, Y, X) 0 background, 1 tumor, 2 cyst.
        values: the data set's label values.
    """
    labels: NDArray[np.uint8] = np.where(kidney, np.uint8(values.kidney), np.uint8(0))
    if values.cyst is not None:
        labels[classes == CYST_CLASS] = values.cyst
    labels[classes == TUMOR_CLASS] = values.tumor
    return labels
