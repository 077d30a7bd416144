"""Components, minimal sizes, and the merge of the two stages. Arrays are (Z, Y, X)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.components import largest_component, remove_small
from kitspipe.imaging.volume import Grid
from kitspipe.planning.plan import Labels, TumorPlan
from kitspipe.preprocessing.preprocess import CYST_CLASS, TUMOR_CLASS


def clean_tumors(classes: NDArray[np.uint8], grid: Grid, plan: TumorPlan) -> NDArray[np.uint8]:
    """Tumor classes without what the plan says is no lesion.

    Args:
        classes: (Z, Y, X) 0 background, 1 tumor, 2 cyst, whole scan.
        grid: their place.
        plan: `components` "largest" keeps one tumor a scan (paper 3.5), `minimal_tumor_ml` drops
            smaller ones.

    Returns:
        A new array; removed tumor voxels are 0. Without tumor nothing changes.
    """
    tumor = classes == TUMOR_CLASS
    kept = remove_small(tumor, plan.minimal_tumor_ml, grid) if plan.minimal_tumor_ml else tumor
    if plan.components == "largest":
        kept = largest_component(kept)
    cleaned: NDArray[np.uint8] = classes.copy()
    cleaned[tumor & ~kept] = 0
    return cleaned


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
