"""Cases and a plan to training arrays: the whole scan (kidney), one region per kidney (tumor).

Arrays are (Z, Y, X).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.cases import Case
from kitspipe.dataset.check import CORNER_TOLERANCE_MM
from kitspipe.errors import UserError
from kitspipe.imaging.components import signed_distance
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.imaging.resample import resample_image, resample_labels
from kitspipe.imaging.values import count_labels
from kitspipe.imaging.volume import Volume
from kitspipe.planning.document import as_read, read_document
from kitspipe.planning.fingerprint import Fingerprint, file_sha256
from kitspipe.planning.plan import Labels, Plan
from kitspipe.preprocessing.rois import clean_kidneys, kidney_rois
from kitspipe.preprocessing.store import (
    CaseRecord,
    GridRecord,
    RegionArrays,
    RegionRecord,
    TrainingCase,
    open_regions,
    read_key,
    read_record,
    write_case,
)
from kitspipe.preprocessing.targets import (
    CYST_CLASS,
    KIDNEY_CLASS,
    TUMOR_CLASS,
    TUMOR_OF_WHOLE,
    kidney_mask,
    target_grid,
    tumor_target,
)
from kitspipe.workspace import STAGES, Stage, Workspace

_ARRAYS_VERSION = 2
_POINTS_PER_KIND = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessed:
    """What became of a case: its id and the stages whose arrays were made anew."""

    case_id: str
    made: tuple[Stage, ...]


def arrays_key(plan: Plan, stage: Stage, image_sha256: str, labels_sha256: str) -> str:
    """Hash of all that a case's arrays depend on: plan values and files."""
    plan = as_read(plan)
    values: list[object] = [_ARRAYS_VERSION, stage, plan.labels, image_sha256, labels_sha256]
    if stage == "kidney":
        kidney = plan.kidney
        values += [kidney.target_spacing_mm, kidney.network.target_refinement]
    else:
        tumor = plan.tumor
        values += [tumor.target_spacing_mm, tumor.roi_margin_mm, plan.kidney.minimal_kidney_ml]
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()


def preprocess_case(case: Case, plan: Plan, workspace: Workspace) -> Preprocessed:
    """Make the arrays of both stages for a case, where they are not there yet.

    Raises:
        UserError: a file can't be read, a mask is missing or has no kidney.
    """
    if case.labels is None:
        raise UserError(
            case.image,
            found="no mask for this scan",
            expected="a mask beside it",
            remedy="run kitspipe_check to see all such cases",
        )
    hashes = (file_sha256(case.image), file_sha256(case.labels))
    keys = {stage: arrays_key(plan, stage, *hashes) for stage in STAGES}
    folders = {stage: workspace.preprocessed_folder(stage) / case.id for stage in STAGES}
    missing = tuple(stage for stage in STAGES if read_key(folders[stage]) != keys[stage])
    if not missing:
        return Preprocessed(case_id=case.id, made=())
    image, _ = read_image(case.image)
    labels, _ = read_labels(case.labels)
    _refuse_unfit(case.image, image, case.labels, labels, plan.labels)
    for stage in missing:
        regions = (
            [kidney_arrays(image, labels, plan)]
            if stage == "kidney"
            else tumor_arrays(image, labels, plan)
        )
        store_case(case, hashes, folders[stage], keys[stage], regions)
    return Preprocessed(case_id=case.id, made=missing)


def store_case(
    case: Case,
    hashes: tuple[str, str],
    folder: Path,
    key: str,
    regions: Sequence[RegionArrays],
) -> None:
    """Write a case's regions with the record of what they were made from.

    Args:
        case: with its mask.
        hashes: of the scan's file and of the mask's.
        folder: takes the place of what is there under another key.
        key: hash of all that the arrays depend on.
        regions: may be none.
    """
    assert case.labels is not None
    record = CaseRecord(
        case_id=case.id,
        key=key,
        image_sha256=hashes[0],
        labels_sha256=hashes[1],
        image=str(case.image.resolve()),
        labels=str(case.labels.resolve()),
        regions=tuple(
            RegionRecord(
                name=region.name,
                grid=GridRecord.of(region.grid),
                refinement=region.refinement,
            )
            for region in regions
        ),
    )
    write_case(folder, record, regions)


def _refuse_unfit(
    image_file: Path, image: Volume, labels_file: Path, labels: Volume, values: Labels
) -> None:
    """Raise where a mask does not belong to its scan, has no kidney, or values of no meaning."""
    if not image.grid.close_to(labels.grid, CORNER_TOLERANCE_MM):
        raise UserError(
            labels_file,
            found="a mask of another size or place",
            expected=f"the grid of {image_file}, corners to {CORNER_TOLERANCE_MM:g} mm",
            remedy="run kitspipe_check to see both grids",
        )
    present = np.flatnonzero(count_labels(labels.array))
    unknown = sorted(set(present.tolist()) - {0, *values.values})
    if unknown or not present.any():
        raise UserError(
            labels_file,
            found=f"label {', '.join(map(str, unknown))}"
            if unknown
            else "no voxel of kidney, tumor or cyst",
            expected="at least one kidney, with the labels of the plan: "
            + ", ".join(map(str, values.values)),
            remedy="run kitspipe_check, then mend the mask or take the case out; after a change of "
            "what labels mean, plan anew with --replan",
        )


def open_cases(
    workspace: Workspace, stage: Stage, plan: Plan, ids: Sequence[str]
) -> list[TrainingCase]:
    """Handles to the regions of preprocessed cases.

    Raises:
        UserError: a case is not preprocessed, with other plan values, or from other files
            than the plan.
    """
    regions = []
    measured = _measured_files(workspace)
    for case_id in ids:
        folder = workspace.preprocessed_folder(stage) / case_id
        record = read_record(folder)
        if record.key != arrays_key(plan, stage, record.image_sha256, record.labels_sha256):
            raise UserError(
                folder,
                found=f"arrays of the {stage} stage made with other plan values",
                expected="arrays of the plan as it is now",
                remedy="run kitspipe_preprocess",
            )
        hashes = (record.image_sha256, record.labels_sha256)
        if measured.get(case_id, hashes) != hashes:
            raise UserError(
                folder,
                found="arrays made from another scan or mask than the fingerprint",
                expected="both from the files as they are now",
                remedy="run kitspipe_plan_and_preprocess",
            )
        regions += open_regions(folder, record)
    return regions


def _measured_files(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """Case -> hashes of the scan and the mask that the fingerprint knows."""
    file = workspace.fingerprint_file
    if not file.exists():
        return {}
    fingerprint = read_document(file, Fingerprint, made_by="kitspipe_fingerprint")
    return {case.id: (case.image_sha256, case.labels_sha256) for case in fingerprint.cases}


def source_cases(workspace: Workspace, stage: Stage, ids: Sequence[str]) -> list[Case]:
    """The scans and masks that preprocessed cases were made from."""
    records = [read_record(workspace.preprocessed_folder(stage) / case_id) for case_id in ids]
    return [
        Case(id=record.case_id, image=Path(record.image), labels=Path(record.labels))
        for record in records
    ]


def kidney_arrays(image: Volume, labels: Volume, plan: Plan) -> RegionArrays:
    """The whole scan on the kidney stage's grid; the target is 1 in the whole kidney, 2 in tumors.

    Args:
        image: int16 HU.
        labels: uint8 on the same grid.
        plan: the plan.

    Source: paper 2.2. The paper halves the slices of the CT; the target keeps finer voxels
    (`target_refinement`), which lifts what a perfect network can reach.
    """
    grid = target_grid(plan.kidney.target_spacing_mm, image.grid)
    refinement = plan.kidney.network.target_refinement

    def on_target_grid(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        there = Volume(array=mask.view(np.uint8), grid=labels.grid)
        return resample_labels(there, grid.refined(refinement)).array.astype(np.uint8)

    # The whole by itself: a third class would take border voxels from it.
    target = on_target_grid(kidney_mask(labels, plan.labels))
    target[(on_target_grid(labels.array == plan.labels.tumor) > 0) & (target > 0)] = TUMOR_OF_WHOLE
    coarse = target[tuple(slice(f // 2, None, f) for f in refinement)]
    return RegionArrays(
        name="scan",
        grid=grid,
        image=resample_image(image, grid).array.astype(np.int16),
        target=target,
        refinement=refinement,
        distance_mm=None,
        points={"kidney": _points(coarse > 0)},
    )


def tumor_arrays(
    image: Volume, labels: Volume, plan: Plan, predicted: NDArray[np.bool_] | None = None
) -> list[RegionArrays]:
    """One region per kidney on the tumor stage's grid: unmasked CT, distance, target.

    Args:
        image: int16 HU.
        labels: uint8 on the same grid.
        plan: the plan.
        predicted: (Z, Y, X), kidneys in place of the labelled ones; the target stays.

    Returns:
        A list, empty where there is no kidney.

    Source: paper 3.1.
    """
    kidney = kidney_mask(labels, plan.labels) if predicted is None else predicted
    _, kidneys = clean_kidneys(kidney, labels.grid, plan.kidney.minimal_kidney_ml)
    regions = []
    for roi in kidney_rois(kidneys, labels.grid, plan.tumor.roi_margin_mm):
        crop = labels.crop(roi.box)
        grid = target_grid(plan.tumor.target_spacing_mm, crop.grid)
        classes = resample_labels(
            Volume(array=tumor_target(crop.array, plan.labels), grid=crop.grid), grid
        ).array.astype(np.uint8)
        inside = classes > 0
        if predicted is not None:
            there = Volume(array=kidney[roi.box.slices].view(np.uint8), grid=crop.grid)
            inside = resample_labels(there, grid).array.astype(bool)
        regions.append(
            RegionArrays(
                # Beside the regions of the same case's reference kidneys.
                name=roi.name if predicted is None else f"predicted_{roi.name}",
                grid=grid,
                image=resample_image(image.crop(roi.box), grid).array.astype(np.int16),
                target=np.where(classes == KIDNEY_CLASS, 0, classes).astype(np.uint8),
                refinement=(1, 1, 1),
                distance_mm=signed_distance(inside, grid.spacing),
                points={
                    "kidney": _points(inside),
                    "tumor": _points(classes == TUMOR_CLASS),
                    "cyst": _points(classes == CYST_CLASS),
                },
            )
        )
    return regions


def _points(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """At most 2000 voxels of a mask, evenly spread over its voxels in order: (n, 3) int32."""
    where = np.flatnonzero(mask)
    if where.size > _POINTS_PER_KIND:
        where = where[np.linspace(0, where.size - 1, _POINTS_PER_KIND).astype(np.int64)]
    return np.stack(np.unravel_index(where, mask.shape), axis=1).astype(np.int32)
