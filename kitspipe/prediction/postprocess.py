"""Components, minimal sizes, and the merge of the two stages. Arrays are (Z, Y, X)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kitspipe.imaging.components import components, largest_component, remove_small
from kitspipe.imaging.volume import Grid
from kitspipe.planning.plan import Labels, TumorPlan
from kitspipe.preprocessing.preprocess import CYST_CLASS, TUMOR_CLASS


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
