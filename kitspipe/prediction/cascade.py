"""Kidney, then regions, then tumor, then labels on the input's grid.

Arrays are (Z, Y, X); probabilities travel between grids, labels don't.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from kitspipe.imaging.volume import Box, Volume
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.calibration import Calibration, Members
from kitspipe.planning.plan import Plan
from kitspipe.prediction.agreement import Votes
from kitspipe.prediction.effort import PLAIN, Effort
from kitspipe.prediction.kidney_mask import Kidneys, Observe, kidneys_on_scan
from kitspipe.prediction.kidneys import KidneyStage, flips
from kitspipe.prediction.postprocess import clean_tumors, merge
from kitspipe.prediction.tumors import TumorStage, tumor_classes
from kitspipe.preprocessing.preprocess import TUMOR_CLASS
from kitspipe.preprocessing.rois import KidneyRoi, clean_kidneys, kidney_rois
from kitspipe.workspace import STAGES, Stage

_MANY_KIDNEYS = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cascade:
    """Trained networks of both stages; several of a stage are averaged in probability.

    Args:
        plan: the plan that they were trained with.
        kidney: one network per fold.
        tumor: one network per fold.
        device: where they run.
        effort: how hard is looked.
        observe: gets each probability map with its class and grid, before it is decided.
        calibrations: by kind of members and stage, from agreement to the Dice to expect.
    """

    plan: Plan
    kidney: Sequence[ResUNet3D]
    tumor: Sequence[VNet25D]
    device: torch.device
    effort: Effort = PLAIN
    observe: Observe | None = None
    calibrations: Mapping[Members, Mapping[Stage, Calibration]] = field(default_factory=dict)

    def members(self, stage: Stage) -> int:
        """Networks of a stage; of a single one its passes."""
        networks = len(self.kidney if stage == "kidney" else self.tumor)
        axes = self.plan.stage(stage).augmentation.mirror_axes
        return networks if networks > 1 else len(flips(axes, mirror=self.effort.mirror))

    def calibration(self, stage: Stage) -> Calibration | None:
        """What the agreement of such members lets expect; None where that is unknown."""
        networks = len(self.kidney if stage == "kidney" else self.tumor)
        return self.calibrations.get("folds" if networks > 1 else "mirrored", {}).get(stage)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """Masks of a case and how they came about.

    Args:
        labels: uint8, canonical, on the input's voxels.
        rois: where tumors were looked for.
        seconds: phase -> time.
        warnings: what a reader should look at.
        agreement: by stage, Dice of all pairs of the members' masks; NaN for a single member, or
            where none of them sees anything.
    """

    labels: Volume
    rois: tuple[KidneyRoi, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    agreement: dict[Stage, float]


def segment(image: Volume, cascade: Cascade) -> Prediction:
    """Kidneys, tumors and cysts of a scan.

    A scan without kidney gives an empty mask and a warning.

    Args:
        image: int16 HU, canonical.
        cascade: the networks.
    """
    started = time.perf_counter()
    votes = {stage: Votes(cascade.members(stage)) for stage in STAGES}
    kidneys = find_kidneys(image, cascade, votes["kidney"])
    found = time.perf_counter()
    classes, rois = tumors_in(image, kidneys.mask, cascade, votes["tumor"])
    labels = np.zeros(image.grid.shape, np.uint8)
    # The rest is never touched, so that it takes no memory.
    for box in _boxes_of(kidneys, rois):
        labels[box.slices] = merge(
            kidneys.mask[box.slices], classes[box.slices], cascade.plan.labels
        )
    done = time.perf_counter()
    return Prediction(
        labels=Volume(array=labels, grid=image.grid),
        rois=rois,
        seconds={"kidney": round(found - started, 3), "tumor": round(done - found, 3)},
        warnings=_warnings(kidneys),
        agreement={stage: of_stage.agreement for stage, of_stage in votes.items()},
    )


def find_kidneys(image: Volume, cascade: Cascade, votes: Votes | None = None) -> Kidneys:
    """Where the kidney stage sees kidney (tumor and cyst included), on the scan's own voxels.

    Args:
        image: int16 HU on its own grid.
        cascade: the networks.
        votes: gets the members'.
    """
    stage = KidneyStage(
        networks=cascade.kidney,
        plan=cascade.plan.kidney,
        device=cascade.device,
        effort=cascade.effort,
        votes=votes,
    )
    return kidneys_on_scan(image, stage, cascade.observe)


def tumors_in(
    image: Volume, kidney: NDArray[np.bool_], cascade: Cascade, votes: Votes | None = None
) -> tuple[NDArray[np.uint8], tuple[KidneyRoi, ...]]:
    """Tumors (1) and cysts (2) in all kidneys, cleaned, on the scan's own voxels.

    Args:
        image: int16 HU, the whole scan.
        kidney: (Z, Y, X), predicted or reference; an empty mask gives no lesions.
        cascade: the networks.
        votes: gets the members'.

    Returns:
        (Z, Y, X) uint8 and the regions that were looked at.
    """
    plan = cascade.plan
    _, boxes = clean_kidneys(kidney, image.grid, plan.kidney.minimal_kidney_ml)
    rois = kidney_rois(boxes, image.grid, plan.tumor.roi_margin_mm)
    stage = TumorStage(
        networks=cascade.tumor,
        plan=plan.tumor,
        device=cascade.device,
        effort=cascade.effort,
        votes=votes,
    )
    classes = np.zeros(image.grid.shape, np.uint8)
    for roi in rois:
        found = tumor_classes(image, kidney, roi.box, stage, cascade.observe)
        place = classes[roi.box.slices]
        # Regions of two kidneys may overlap: a lesion seen from either stays, tumor before cyst.
        stronger = (found == TUMOR_CLASS) | (place == 0)
        place[stronger] = found[stronger]
    if rois:
        within = functools.reduce(Box.around_both, (roi.box for roi in rois))
        classes[within.slices] = clean_tumors(
            classes[within.slices], kidney[within.slices], image.grid.crop(within), plan.tumor
        )
    return classes, rois


def _boxes_of(kidneys: Kidneys, rois: Sequence[KidneyRoi]) -> list[Box]:
    """Boxes that hold all kidneys and lesions."""
    return [*kidneys.boxes, *(roi.box for roi in rois)]


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
