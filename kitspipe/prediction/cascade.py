"""Kidney, then regions, then tumor, then labels on the input's grid.

Arrays are (Z, Y, X); probabilities travel between grids, labels don't.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kitspipe.imaging.components import signed_distance
from kitspipe.imaging.resample import resample_image, resample_labels, resample_linear
from kitspipe.imaging.volume import Box, Grid, Volume
from kitspipe.networks.batches import forward_in_parts
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.plan import KidneyPlan, Plan, TumorPlan
from kitspipe.prediction.postprocess import clean_tumors, merge
from kitspipe.prediction.windows import predict_windows
from kitspipe.preprocessing.intensity import background_value, normalize, normalize_masked
from kitspipe.preprocessing.preprocess import CYST_CLASS, TUMOR_CLASS, target_grid
from kitspipe.preprocessing.rois import KidneyRoi, clean_kidneys, kidney_rois
from kitspipe.preprocessing.store import TrainingCase

KIDNEY_THRESHOLD = 0.5
_SLICES_AT_ONCE = 16
_WINDOWS_AT_ONCE = 2
"""On a CPU torch gives a single small patch to convolutions 15 to 30 times slower than two get."""
_MANY_KIDNEYS = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cascade:
    """Trained networks of both stages; several of a stage are averaged in probability.

    Args:
        plan: the plan that they were trained with.
        kidney: one network per fold.
        tumor: one network per fold.
        device: where they run.
        observe: gets each probability map with its class and grid, before it is decided.
    """

    plan: Plan
    kidney: Sequence[ResUNet3D]
    tumor: Sequence[VNet25D]
    device: torch.device
    observe: Callable[[str, NDArray[np.float32], Grid], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kidneys:
    """The first stage's result, cleaned.

    Args:
        mask: (Z, Y, X), the whole kidney on the scan's own voxels.
        count: kidneys found.
        is_cut: whether one reaches the scan's first or last slice.
    """

    mask: NDArray[np.bool_]
    count: int
    is_cut: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """Masks of a case and how they came about.

    Args:
        labels: uint8, canonical, on the input's voxels.
        rois: where tumors were looked for.
        seconds: phase -> time.
        warnings: what a reader should look at.
    """

    labels: Volume
    rois: tuple[KidneyRoi, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...]


def segment(image: Volume, cascade: Cascade) -> Prediction:
    """Kidneys, tumors and cysts of a scan.

    A scan without kidney gives an empty mask and a warning.

    Args:
        image: int16 HU, canonical.
        cascade: the networks.
    """
    started = time.perf_counter()
    kidneys = find_kidneys(image, cascade)
    found = time.perf_counter()
    classes, rois = tumors_in(image, kidneys.mask, cascade)
    done = time.perf_counter()
    return Prediction(
        labels=Volume(array=merge(kidneys.mask, classes, cascade.plan.labels), grid=image.grid),
        rois=rois,
        seconds={"kidney": round(found - started, 3), "tumor": round(done - found, 3)},
        warnings=_warnings(kidneys),
    )


def find_kidneys(image: Volume, cascade: Cascade) -> Kidneys:
    """Where the kidney stage sees kidney (tumor and cyst included), on the scan's own voxels.

    Args:
        image: int16 HU on its own grid.
        cascade: the networks.
    """
    plan = cascade.plan.kidney
    grid = target_grid(plan.target_spacing_mm, image.grid)
    probability = kidney_probability(
        resample_image(image, grid).array.astype(np.int16), cascade.kidney, plan, cascade.device
    )
    refined = grid.refined(plan.network.target_refinement)
    if cascade.observe is not None:
        cascade.observe("kidney", probability, refined)
    mask = _threshold(probability, refined, image.grid, KIDNEY_THRESHOLD)
    kidney, boxes = clean_kidneys(mask, image.grid, plan.minimal_kidney_ml)
    return Kidneys(mask=kidney, count=len(boxes), is_cut=bool(kidney[0].any() or kidney[-1].any()))


def tumors_in(
    image: Volume, kidney: NDArray[np.bool_], cascade: Cascade
) -> tuple[NDArray[np.uint8], tuple[KidneyRoi, ...]]:
    """Tumors (1) and cysts (2) in all kidneys, cleaned, on the scan's own voxels.

    Args:
        image: int16 HU, the whole scan.
        kidney: (Z, Y, X), predicted or reference; an empty mask gives no lesions.
        cascade: the networks.

    Returns:
        (Z, Y, X) uint8 and the regions that were looked at.
    """
    plan = cascade.plan
    _, boxes = clean_kidneys(kidney, image.grid, plan.kidney.minimal_kidney_ml)
    rois = kidney_rois(boxes, image.grid, plan.tumor.roi_margin_mm)
    classes = np.zeros(image.grid.shape, np.uint8)
    for roi in rois:
        found = tumor_classes(image, kidney, roi.box, cascade)
        place = classes[roi.box.slices]
        # Regions of two kidneys may overlap: a lesion seen from either stays, tumor before cyst.
        stronger = (found == TUMOR_CLASS) | (place == 0)
        place[stronger] = found[stronger]
    return clean_tumors(classes, image.grid, plan.tumor), rois


@torch.inference_mode()
def kidney_probability(
    hu: NDArray[np.int16],
    networks: Sequence[ResUNet3D],
    plan: KidneyPlan,
    device: torch.device,
) -> NDArray[np.float32]:
    """Probability of kidney in a scan at the stage's spacing.

    Args:
        hu: (Z, Y, X) HU.
        networks: averaged.
        plan: the kidney stage's plan.
        device: where the networks run.

    Returns:
        (Z*rz, Y*ry, X*rx) float32 on the refined grid.

    Source: paper 2.4.
    """

    def forward(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(patches)[:, None].to(device)
        mean = _mean_probability(
            [forward_in_parts(network.forward_finest, tensor) for network in networks]
        )
        volumes: NDArray[np.float32] = mean[:, 0]
        return volumes

    return predict_windows(
        normalize(hu, plan.hu_window),
        forward,
        patch_size=plan.patch_size,
        stride=plan.window_stride,
        refinement=plan.network.target_refinement,
        blend=plan.window_blend,
        fill=background_value(plan.hu_window),
        at_once=_WINDOWS_AT_ONCE,
    )


def tumor_classes(
    image: Volume, kidney: NDArray[np.bool_], box: Box, cascade: Cascade
) -> NDArray[np.uint8]:
    """Tumor (1) and cyst (2) in one region, on the scan's own voxels.

    Args:
        image: int16 HU, the whole scan.
        kidney: (Z, Y, X), the scan's kidney mask.
        box: the region.
        cascade: the networks.

    Returns:
        (Z, Y, X) uint8 of the box.
    """
    plan = cascade.plan.tumor
    crop = image.crop(box)
    grid = target_grid(plan.target_spacing_mm, crop.grid)
    mask = resample_labels(Volume(array=kidney[box.slices].view(np.uint8), grid=crop.grid), grid)
    probability = tumor_probability(
        resample_image(crop, grid).array.astype(np.int16),
        signed_distance(mask.array.astype(bool), grid.spacing),
        cascade.tumor,
        plan,
        cascade.device,
    )
    if cascade.observe is not None:
        for name, of_class in zip(("tumor", "cyst"), probability, strict=False):
            cascade.observe(name, of_class, grid)
    return classes_of(
        np.stack([resample_linear(p, grid, crop.grid) for p in probability]), plan.threshold
    )


@torch.inference_mode()
def tumor_probability(
    hu: NDArray[np.int16],
    distance_mm: NDArray[np.float32],
    networks: Sequence[VNet25D],
    plan: TumorPlan,
    device: torch.device,
) -> NDArray[np.float32]:
    """Probability of tumor (and cyst) in a region at the stage's spacing.

    Args:
        hu: (Z, Y, X) HU.
        distance_mm: (Z, Y, X) to the kidney's border, negative inside.
        networks: averaged.
        plan: the tumor stage's plan.
        device: where the networks run.

    Returns:
        (K, Z, Y, X) float32, 0 outside the dilated kidney mask.

    Source: paper 3.1, 3.5.
    """
    mask = distance_mm <= plan.mask_dilation_mm
    slices, height, width = hu.shape
    image, top, left = _centered(
        normalize_masked(hu, mask, plan.hu_window), plan, background_value(plan.hu_window)
    )
    probability = np.zeros((plan.network.classes, *hu.shape), np.float32)
    wanted = np.flatnonzero(mask.any(axis=(1, 2)))
    reach = np.arange(plan.slab_depth) - plan.slab_depth // 2
    for first in range(0, len(wanted), _SLICES_AT_ONCE):
        middles = wanted[first : first + _SLICES_AT_ONCE]
        slabs = image[np.clip(middles[:, None] + reach, 0, slices - 1)]
        tensor = torch.from_numpy(slabs).to(device)
        mean = _mean_probability([forward_in_parts(network, tensor) for network in networks])
        inside = mean[..., top : top + height, left : left + width]
        probability[:, middles] = inside.transpose(1, 0, 2, 3)
    probability *= mask
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


def _mean_probability(logits: Sequence[Tensor]) -> NDArray[np.float32]:
    """Mean of the networks' probabilities, float32."""
    mean: NDArray[np.float32] = (
        torch.stack([torch.sigmoid(single.float()) for single in logits]).mean(0).cpu().numpy()
    )
    return mean


def _threshold(
    probability: NDArray[np.float32], source: Grid, target: Grid, threshold: float
) -> NDArray[np.bool_]:
    """Whether a probability reaches the threshold on another grid, made in slabs of slices."""
    mask = np.empty(target.shape, bool)
    for first in range(0, target.shape[0], _SLICES_AT_ONCE):
        last = min(first + _SLICES_AT_ONCE, target.shape[0])
        slab = target.crop(Box(start=(first, 0, 0), stop=(last, *target.shape[1:])))
        mask[first:last] = resample_linear(probability, source, slab) >= threshold
    return mask


def _centered(
    image: NDArray[np.float32], plan: TumorPlan, fill: float
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


def _warnings(kidneys: Kidneys) -> tuple[str, ...]:
    warnings = []
    if kidneys.count == 0:
        warnings.append("no kidney found")
    if kidneys.count == 1:
        warnings.append("only one kidney found")
    if kidneys.count > _MANY_KIDNEYS:
        warnings.append(f"{kidneys.count} kidneys found")
    if kidneys.is_cut:
        warnings.append("a kidney is cut by the scan's first or last slice")
    return tuple(warnings)
