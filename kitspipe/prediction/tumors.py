"""The tumor stage in a region of a scan: slab by slab, then on the scan's own voxels.

Arrays are (Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kitspipe.imaging.components import signed_distance
from kitspipe.imaging.resample import (
    resample_image,
    resample_labels,
    resample_linear,
    slices_used,
)
from kitspipe.imaging.volume import Box, Volume
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.plan import TumorPlan
from kitspipe.prediction.agreement import Votes
from kitspipe.prediction.effort import PLAIN, Effort
from kitspipe.prediction.kidney_mask import Observe
from kitspipe.prediction.passes import Ballot, flips, mean_probability
from kitspipe.preprocessing.intensity import (
    FAR_OUTSIDE,
    background_value,
    border_channel,
    tumor_view,
)
from kitspipe.preprocessing.targets import CYST_CLASS, TUMOR_CLASS, target_grid

if TYPE_CHECKING:  # what opens stores is slow to import, and a prediction opens none
    from kitspipe.preprocessing.store import TrainingCase

_SLICES_AT_ONCE = 16
_PIXELS_AT_ONCE = 16 * 208 * 208
"""Of slabs in one pass; bounds memory where regions are whole slices."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TumorStage:
    """Trained networks of the tumor stage, averaged in probability.

    Args:
        networks: one per fold.
        plan: the stage's plan.
        device: where they run.
        effort: how hard is looked.
        votes: gets those of the members, for tumor.
    """

    networks: Sequence[VNet25D]
    plan: TumorPlan
    device: torch.device
    effort: Effort = PLAIN
    votes: Votes | None = None


def tumor_classes(
    image: Volume,
    kidney: NDArray[np.bool_],
    box: Box,
    stage: TumorStage,
    observe: Observe | None = None,
) -> NDArray[np.uint8]:
    """Tumor (1) and cyst (2) in one region, on the scan's own voxels.

    Args:
        image: int16 HU, the whole scan.
        kidney: (Z, Y, X), the scan's kidney mask.
        box: the region.
        stage: the networks.
        observe: gets each class's probability map before it is decided.

    Returns:
        (Z, Y, X) uint8 of the box.
    """
    classes = np.zeros(box.shape, np.uint8)
    found = lesion_probability(image, kidney, box, stage, observe)
    if found is not None:
        place, probability = found
        classes[place.slices] = classes_of(probability, stage.plan.threshold)
    return classes


def lesion_probability(
    image: Volume,
    kidney: NDArray[np.bool_],
    box: Box,
    stage: TumorStage,
    observe: Observe | None = None,
) -> tuple[Box, NDArray[np.float32]] | None:
    """Probability of tumor and cyst in one region, on the scan's own voxels.

    Args:
        image: int16 HU, the whole scan.
        kidney: (Z, Y, X), the scan's kidney mask.
        box: the region.
        stage: the networks.
        observe: gets each class's probability map on the stage's grid.

    Returns:
        The part of the region outside of which all is 0, and (K, Z, Y, X) there; None where all is.
    """
    plan = stage.plan
    crop = image.crop(box)
    grid = target_grid(plan.target_spacing_mm, crop.grid)
    mask = resample_labels(Volume(array=kidney[box.slices].view(np.uint8), grid=crop.grid), grid)
    probability = tumor_probability(
        resample_image(crop, grid).array.astype(np.int16),
        signed_distance(mask.array.astype(bool), grid.spacing),
        stage.networks,
        plan,
        stage.device,
        effort=stage.effort.for_slices(crop.grid.spacing[0] / grid.spacing[0]),
        asked=slices_used(grid, crop.grid),
        votes=stage.votes,
    )
    if observe is not None:
        for name, of_class in zip(("tumor", "cyst"), probability, strict=False):
            observe(name, of_class, grid)
    inner = Box.around(np.any(probability > 0, axis=0))
    if inner is None:
        return None
    # Outside it, all is 0; on its border too, so that nothing changes.
    source = inner.dilate(max(grid.spacing), grid).clip(grid.shape)
    place = crop.grid.within(grid.crop(source))
    if place is None:
        return None
    target = crop.grid.crop(place)
    fine = [resample_linear(p[source.slices], grid.crop(source), target) for p in probability]
    return place, np.stack(fine)


@torch.inference_mode()
def tumor_probability(
    hu: NDArray[np.int16],
    distance_mm: NDArray[np.float32],
    networks: Sequence[VNet25D],
    plan: TumorPlan,
    device: torch.device,
    *,
    effort: Effort = PLAIN,
    asked: NDArray[np.bool_] | None = None,
    votes: Votes | None = None,
) -> NDArray[np.float32]:
    """Probability of tumor (and cyst) in a region at the stage's spacing.

    Args:
        hu: (Z, Y, X) HU.
        distance_mm: (Z, Y, X) to the kidney's border, negative inside.
        networks: averaged.
        plan: the tumor stage's plan.
        device: where the networks run.
        effort: how hard is looked.
        asked: (Z,), the slices that are needed; None: all. The others are 0.
        votes: gets those for tumor inside the mask, of the slices that are looked at.

    Returns:
        (K, Z, Y, X) float32, 0 outside the dilated kidney mask.

    Source: paper 3.1, 3.5.
    """
    seen, mask = tumor_view(hu, distance_mm, plan)
    slices, height, width = hu.shape
    image, top, left = _centered(seen, plan, background_value(plan.hu_window))
    border, _, _ = _centered(border_channel(distance_mm), plan, FAR_OUTSIDE)
    probability = np.zeros((plan.network.classes, *hu.shape), np.float32)
    wanted = np.flatnonzero(mask.any(axis=(1, 2)) & (True if asked is None else asked))
    looked_at = _every(wanted, effort.tumor_step)
    reach = np.arange(plan.slab_depth) - plan.slab_depth // 2
    turned = flips(plan.augmentation.mirror_axes, mirror=effort.mirror)
    at_once = max(1, min(_SLICES_AT_ONCE, _PIXELS_AT_ONCE // (image.shape[1] * image.shape[2])))
    for first in range(0, len(looked_at), at_once):
        middles = looked_at[first : first + at_once]
        slabs = image[np.clip(middles[:, None] + reach, 0, slices - 1)]
        if plan.network.mask_channel:
            slabs = np.concatenate([slabs, border[middles][:, None]], axis=1)
        ballot = None
        if votes is not None:
            ballot = Ballot(plan.threshold, networks=len(networks), passes=len(turned))
        mean = mean_probability(networks, torch.from_numpy(slabs).to(device), turned, ballot)
        inside = (..., slice(top, top + height), slice(left, left + width))
        probability[:, middles] = mean[inside].transpose(1, 0, 2, 3) * mask[middles]
        if votes is not None and ballot is not None:
            votes.add(ballot.votes[inside][mask[middles]])
    _interpolate(probability, wanted, looked_at)
    # What is interpolated ends with the mask, too.
    for middle in np.setdiff1d(wanted, looked_at):
        probability[:, middle] *= mask[middle]
    return probability


def region_tumor(
    network: VNet25D, case: TrainingCase, plan: TumorPlan, device: torch.device
) -> NDArray[np.bool_]:
    """Tumor that a network in training sees in a preprocessed region, (Z, Y, X) on its grid."""
    probability = tumor_probability(
        case.read_image(case.whole), case.read_distance_mm(case.whole), [network], plan, device
    )
    tumor: NDArray[np.bool_] = classes_of(probability, plan.threshold) == TUMOR_CLASS
    return tumor


def classes_of(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """The likeliest class where its probability reaches the threshold, else 0; tumor wins ties.

    Args:
        probability: (K, Z, Y, X), tumor first, cyst second where K is 2.
        threshold: in (0, 1).
    """
    tumor = probability[0]
    classes: NDArray[np.uint8] = (tumor >= threshold) * np.uint8(TUMOR_CLASS)
    if len(probability) > 1:
        cyst = probability[1]
        classes[(cyst >= threshold) & (cyst > tumor)] = CYST_CLASS
    return classes


def _every(wanted: NDArray[np.intp], step: int) -> NDArray[np.intp]:
    """Every so manieth of the slices, the last one too."""
    return np.union1d(wanted[::step], wanted[-1:]).astype(np.intp)


def _interpolate(
    probability: NDArray[np.float32], wanted: NDArray[np.intp], looked_at: NDArray[np.intp]
) -> None:
    """Fill wanted slices that were not looked at, linearly from those before and behind."""
    for middle in np.setdiff1d(wanted, looked_at):
        after = int(np.searchsorted(looked_at, middle))
        low, high = looked_at[after - 1], looked_at[after]
        share = np.float32((middle - low) / (high - low))
        probability[:, middle] = (1 - share) * probability[:, low] + share * probability[:, high]


def _centered(
    image: NDArray[np.float32], plan: TumorPlan, fill: float | np.float32
) -> tuple[NDArray[np.float32], int, int]:
    """A region in the middle of a patch as training shows it, and its first row and column there.

    Normalization layers see how much of a patch is blank, so a region must not come with less
    around it than in training. A region larger than the patch is only padded to be divisible.
    """
    divisor = plan.network.divisor
    pads = [
        max(size, -(-n // divisor) * divisor) - n
        for n, size in zip(image.shape[1:], plan.patch_size, strict=True)
    ]
    top, left = (pad // 2 for pad in pads)
    padded = np.pad(
        image,
        [(0, 0), (top, pads[0] - top), (left, pads[1] - left)],
        constant_values=np.float32(fill),
    )
    return padded, top, left
