"""The Python API: networks loaded once, then scan after scan.

from kitspipe.prediction.predictor import Predictor

predictor = Predictor.from_folder("model.kitspipe")
found = predictor("scan.nii.gz")
found.write("mask.nii.gz")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.imaging.dicom_seg import write_seg
from kitspipe.imaging.formats import read_image, write_labels
from kitspipe.imaging.header import Header, header_for
from kitspipe.imaging.itk_images import from_array, from_sitk, labels_to_sitk
from kitspipe.imaging.volume import Triple, Volume
from kitspipe.planning.plan import Labels
from kitspipe.prediction.agreement import CaseQuality, case_quality
from kitspipe.prediction.cascade import Cascade
from kitspipe.prediction.job import Fold
from kitspipe.prediction.model import opened_model
from kitspipe.prediction.outputs import segments_of
from kitspipe.prediction.probabilities import StageProbability, on_scan
from kitspipe.prediction.run import load_cascade, segment_anyhow
from kitspipe.workspace import Workspace

Scan: TypeAlias = "str | os.PathLike[str] | sitk.Image | NDArray[Any] | Volume"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segmentation:
    """What was found in a scan.

    Args:
        labels: uint8 (Z, Y, X) on canonical axes, and where they lie.
        header: of the scan as it was given.
        values: which label value means what.
        probabilities: class -> uint8, 255 is certain, cropped; empty unless asked for.
        seconds: by phase.
        warnings: what a reader should look at.
        quality: on what several folds agree, and the Dice to expect; None with a single one.
        source: the scan's path; None where it came from memory.
    """

    labels: Volume
    header: Header
    values: Labels
    probabilities: dict[str, Volume]
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    quality: CaseQuality | None
    source: Path | None

    @property
    def array(self) -> NDArray[np.uint8]:
        """The labels in the order of the scan's own array, `sitk.GetArrayFromImage` of a file's."""
        array: NDArray[np.uint8] = np.ascontiguousarray(
            self.header.from_canonical(self.labels.array)
        )
        return array

    @property
    def image(self) -> sitk.Image:
        """The labels as a SimpleITK image with the scan's geometry."""
        return labels_to_sitk(self.labels, self.header)

    def volume_ml(self, name: str) -> float:
        """Volume of `kidney` (without lesions), `tumor` or `cyst`; 0 where a class is unknown."""
        value: int | None = getattr(self.values, name)
        return float((self.labels.array == value).sum()) * self.labels.grid.voxel_ml

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the labels on the scan's geometry, in the format of the path's suffix."""
        write_labels(Path(path), self.labels, self.header)

    def write_seg(self, path: str | os.PathLike[str]) -> None:
        """Write DICOM-SEG; the scan has to be a DICOM series.

        Raises:
            UserError: it is not, or highdicom is missing.
        """
        if self.source is None:
            raise UserError(
                str(path),
                found="a scan from memory",
                expected="for DICOM-SEG, the path of a DICOM series",
                remedy="give the predictor the folder or zip of the series",
            )
        write_seg(Path(path), self.labels, segments_of(self.values), self.source)


class Predictor:
    """A trained cascade that is called with scans.

    Args:
        cascade: networks and plan.
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        plan_name: str = "default",
        folds: Sequence[Fold] | None = None,
        device: str = "auto",
    ) -> Predictor:
        """The predictor of a workspace, or of a file that kitspipe_export wrote.

        Args:
            folder: the workspace, an exported file, or the folder of its content.
            plan_name: which plan of a workspace.
            folds: which networks are averaged; None: all that are trained.
            device: cpu, cuda, cuda:1, mps; auto takes what is there.

        Raises:
            UserError: there is no trained model, or an unsound one.
        """
        place = Workspace(root=Path(folder), plan_name=plan_name)
        with opened_model(Path(folder), place, None) as found:
            return cls(load_cascade(found, folds, device))

    def __call__(
        self, scan: Scan, *, spacing: Triple | None = None, probabilities: bool = False
    ) -> Segmentation:
        """Segment a scan.

        Args:
            scan: a path (NIfTI, NRRD, MetaImage, DICOM folder or zip); a SimpleITK image; a
                `Volume`; or an array (Z, Y, X) in HU, from feet to head, front to back, right to
                left.
            spacing: mm in (Z, Y, X), with an array only.
            probabilities: keep them too.

        Raises:
            UserError: no scan, or larger than memory.
        """
        image, header, source = _read(scan, spacing)
        maps: list[StageProbability] | None = [] if probabilities else None
        with console.collected_warnings() as warnings:
            found = segment_anyhow(image, self.cascade, maps)
        names = ["kidney", "tumor", "cyst"][: 1 + self.cascade.plan.tumor.network.classes]
        return Segmentation(
            labels=found.labels,
            header=header,
            values=self.cascade.plan.labels,
            probabilities={}
            if maps is None
            else {name: on_scan([m for m in maps if m.name == name], image.grid) for name in names},
            seconds=found.seconds,
            warnings=(*header.doubts, *warnings, *found.warnings),
            quality=case_quality(found.agreement, self.cascade.calibration),
            source=source,
        )


def _read(scan: Scan, spacing: Triple | None) -> tuple[Volume, Header, Path | None]:
    if isinstance(scan, np.ndarray):
        if spacing is None:
            raise UserError(
                "the scan",
                found="an array without spacing",
                expected="its spacing in mm, (Z, Y, X)",
                remedy="call it with spacing=(z, y, x)",
            )
        return (*from_array(scan, spacing), None)
    if spacing is not None:
        raise UserError(
            "the scan",
            found="a spacing beside a scan that has its own",
            expected="spacing with an array only",
            remedy="leave it out",
        )
    if isinstance(scan, sitk.Image):
        return (*from_sitk(scan), None)
    if isinstance(scan, Volume):
        return scan, header_for(scan.grid), None
    return (*read_image(Path(scan)), Path(scan))
