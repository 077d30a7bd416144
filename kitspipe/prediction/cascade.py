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
from kitspipe.prediction.kidneys import KidneyStage
from kitspipe.prediction.passes import flips
from kitspipe.prediction.postprocess import Lesions, clean_lesions, merge
from kitspipe.prediction.tumors import TumorStage, tumor_classes
from kitspipe.preprocessing.rois import KidneyRoi, clean_kidneys, kidney_rois
from kitspipe.preprocessing.targets import TUMOR_CLASS
from kitspipe.workspace import STAGES, Stage

_MANY_KIDNEYS = 2
_SPECK_ML = 1.0


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

    def networks(self, stage: Stage) -> Sequence[ResUNet3D | VNet25D]:
        """Those of a stage."""
        return self.kidney if stage == "kidney" else self.tumor

    def members(self, stage: Stage) -> int:
        """Networks of a stage; of a single one its passes."""
        networks = len(self.networks(stage))
        axes = self.plan.stage(stage).augmentation.mirror_axes
        return networks if networks > 1 else len(flips(axes, mirror=self.effort.mirror))

    def calibration(self, stage: Stage) -> Calibration | None:
        """What the agreement of such members lets expect; None where that is unknown."""
        members: Members = "folds" if len(self.networks(stage)) > 1 else "mirrored"
        return self.calibrations.get(members, {}).get(stage)


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
    lesions, rois = tumors_in(image, kidneys.mask, cascade, votes["tumor"])
    labels = np.zeros(image.grid.shape, np.uint8)
    # The rest is never touched, so that it takes no memory.
    for box in (*kidneys.boxes, *(roi.box for roi in rois)):
        kidney = kidneys.mask[box.slices] & ~lesions.no_kidney[box.slices]
        labels[box.slices] = merge(kidney, lesions.classes[box.slices], cascade.plan.labels)
    done = time.perf_counter()
    return Prediction(
        labels=Volume(array=labels, grid=image.grid),
        rois=rois,
        seconds={"kidney": round(found - started, 3), "tumor": round(done - found, 3)},
        warnings=_warnings(kidneys, lesions),
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
) -> tuple[Lesions, tuple[KidneyRoi, ...]]:
    """Tumors and cysts in all kidneys, on the scan's own voxels, and where was looked.

    Args:
        image: int16 HU, the whole scan.
        kidney: (Z, Y, X), predicted or reference; an empty mask gives no lesions.
        cascade: the networks.
        votes: gets the members'.
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
    no_kidney = np.zeros(image.grid.shape, np.bool_)
    no_kidney_ml: tuple[float, ...] = ()
    if rois:
        within = functools.reduce(Box.around_both, (roi.box for roi in rois))
        cleaned = clean_lesions(
            classes[within.slices], kidney[within.slices], image.grid.crop(within), plan.tumor
        )
        classes[within.slices], no_kidney[within.slices] = cleaned.classes, cleaned.no_kidney
        no_kidney_ml = cleaned.no_kidney_ml
    return Lesions(classes=classes, no_kidney=no_kidney, no_kidney_ml=no_kidney_ml), rois


def _warnings(kidneys: Kidneys, lesions: Lesions) -> tuple[str, ...]:
    warnings = []
    left_out = [ml for ml in lesions.no_kidney_ml if ml >= _SPECK_ML]
    count = kidneys.count - len(left_out)
    if left_out:
        volumes = ", ".join(f"{ml:.3g}" for ml in left_out)
        warnings.append(f"left out, as no kidney is around the lesion: {volumes} ml")
    if count == 0:
        warnings.append("no kidney found")
    if count == 1:
        warnings.append("only one kidney found")
    if count > _MANY_KIDNEYS:
        warnings.append(f"{count} kidneys found")
    if kidneys.is_cut:
        warnings.append("a kidney is cut by the scan's first or last slice")
    return tuple(warnings)
