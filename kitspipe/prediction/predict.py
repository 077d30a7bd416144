"""The whole command: scans found, model opened, cases done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from kitspipe.dataset.cases import find_images
from kitspipe.dataset.cluster import same_everywhere
from kitspipe.prediction.batch import Done, part_of, predict_batch
from kitspipe.prediction.isolated import Limits
from kitspipe.prediction.job import Fold, Format, make_job
from kitspipe.prediction.model import opened_model
from kitspipe.workspace import Workspace


class Options(TypedDict, total=False):
    """What may be asked for beside scans and model.

    Args:
        folds: networks to average; None: all that are trained.
        device: a name as `networks.device.pick_device` takes it.
        overwrite: do cases anew that are there.
        series: UID of one series of a DICOM folder or zip.
        model: an exported model instead of the workspace's own.
        format: of the masks.
        probabilities: write them too.
        dicom_seg: write DICOM-SEG too.
        part: (I, N): only the I-th of N parts, counted from 1.
        case_seconds: a case that takes longer fails.
        case_memory: GiB; a case whose process holds more fails.
        cluster: address of a Dask cluster.
        fast: a preview, see `effort`.
        mirror: average over mirrored scans.
    """

    folds: Sequence[Fold] | None
    device: str
    overwrite: bool
    series: str | None
    model: Path | None
    format: Format
    probabilities: bool
    dicom_seg: bool
    part: tuple[int, int] | None
    case_seconds: float | None
    case_memory: float | None
    cluster: str | None
    fast: bool
    mirror: bool


DEFAULTS = Options(
    folds=None,
    device="auto",
    overwrite=False,
    series=None,
    model=None,
    format="nii.gz",
    probabilities=False,
    dicom_seg=False,
    part=None,
    case_seconds=None,
    case_memory=None,
    cluster=None,
    fast=False,
    mirror=False,
)


def predict_scans(images: Path, output: Path, place: Workspace, options: Options) -> Done:
    """Segment scans; what is whole is kept.

    Args:
        images: as `find_images` takes it.
        output: folder for masks and `run.json`.
        place: the workspace.
        options: those that are missing are as in `DEFAULTS`.

    Raises:
        UserError: no scans, no trained model, or nothing can be done at all.
    """
    chosen: Options = {**DEFAULTS, **options}
    cluster = chosen["cluster"]
    images, output = same_everywhere(images, cluster), same_everywhere(output, cluster)
    place = Workspace(root=same_everywhere(place.root, cluster), plan_name=place.plan_name)
    cases = part_of(find_images(images, chosen["series"]), chosen["part"])
    with opened_model(chosen["model"], place, output) as found:
        job = make_job(
            found,
            output,
            chosen["folds"],
            chosen["device"],
            format=chosen["format"],
            probabilities=chosen["probabilities"],
            dicom_seg=chosen["dicom_seg"],
            options={"fast": chosen["fast"], "mirror": chosen["mirror"]},
        )
        return predict_batch(
            cases,
            job,
            overwrite=chosen["overwrite"],
            limits=Limits(seconds=chosen["case_seconds"], memory_gib=chosen["case_memory"]),
            cluster=cluster,
            reads=images,
        )
