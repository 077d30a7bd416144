"""DICOM-SEG out: labels as segments with codes, on the slices of the series they were made from.

Needs the extra `kitspipe[dicom]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kitspipe import __version__, console
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import find_series, stacked_slices
from kitspipe.imaging.dicom_series import Slice
from kitspipe.imaging.volume import Volume
from kitspipe.workspace import replacing

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

OPTION = "--dicom-seg"
_SERIES_NUMBER = 7701
_COLORS = {"Kidney": (196, 58, 49), "Tumor": (86, 180, 233), "Cyst": (0, 158, 115)}
"""RGB that viewers should show segments in, told apart by color-blind people too."""
# What every image must say on patient and study, even if that is nothing. Source: PS3.3 C.7.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A label value as a segment.

    Args:
        value: in the labels.
        name: what viewers show: Kidney, Tumor or Cyst.
    """

    value: int
    name: str


def require_highdicom() -> None:
    """Raise where the extra is missing.

    Raises:
        UserError: it is.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            OPTION,
            found=f"the package {error.name} is not installed",
            expected="highdicom",
            remedy="install it: pip install 'kitspipe[dicom]'",
        ) from None


def write_seg(path: Path, labels: Volume, segments: Sequence[Segment], source: Path) -> None:
    """Write a DICOM-SEG, a binary segment per label value, that refers to the source's slices.

    A segment without voxels is described but has no frames; where all are empty, each has frames
    of zeros.

    Args:
        path: the file.
        labels: uint8, canonical, on the source's voxels.
        segments: in order; the first gets number 1.
        source: the series, as `formats.read_image` takes it.

    Raises:
        UserError: highdicom is missing, the source is no DICOM, or it lacks what a reference
            needs.
    """
    require_highdicom()
    found = find_series(source)
    if found is None:
        raise _no_series(source, "a file in another format")
    with stacked_slices(*found) as (header, ordered):
        slices = [_source_slice(part, header.spacing[2], source) for part in ordered]
    array = header.from_canonical(labels.array)
    planes = np.stack([array == segment.value for segment in segments], axis=-1)
    content = _segmentation(slices, planes, segments)
    with replacing(path) as temporary:
        content.save_as(temporary, enforce_file_format=True)


def _segmentation(
    slices: Sequence[Dataset], planes: NDArray[np.bool_], segments: Sequence[Segment]
) -> Dataset:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian

    with warnings.catch_warnings():
        # That a mask is empty, or a patient's name is one word, is no concern of the user's.
        warnings.simplefilter("ignore")
        segmentation: Dataset = hd.seg.Segmentation(
            source_images=slices,
            pixel_array=planes.astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, segment) for number, segment in enumerate(segments, 1)
            ],
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="kitspipe",
            manufacturer_model_name="kitspipe",
            software_versions=__version__,
            device_serial_number="0",
            content_label="KIDNEYS",
            content_description="Kidneys, kidney tumors and cysts, by algorithm",
            series_description="Kidneys and kidney tumors (kitspipe, not for diagnosis)",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    return segmentation


def _description(number: int, segment: Segment) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    abnormal = codes.SCT.MorphologicallyAbnormalStructure
    category, kind = {
        "Kidney": (codes.SCT.AnatomicalStructure, codes.SCT.Kidney),
        "Tumor": (abnormal, codes.SCT.Neoplasm),
        "Cyst": (abnormal, codes.SCT.Cyst),
    }[segment.name]
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="kitspipe",
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
        ),
        tracking_uid=hd.UID(),
        tracking_id=segment.name,
        anatomic_regions=None if segment.name == "Kidney" else [codes.SCT.Kidney],
        display_color=hd.color.CIELabColor.from_rgb(*_COLORS[segment.name]),
    )


def _source_slice(part: Slice, step_mm: float, source: Path) -> Dataset:
    """A slice's attributes without its pixels, with what a reference to it needs."""
    import pydicom
    from pydicom.uid import generate_uid

    data = pydicom.dcmread(part.file, stop_before_pixels=True)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not getattr(data, name, None):
            raise _no_series(source, f"slices without {name}, such as {part.file.name}")
    if not getattr(data, "FrameOfReferenceUID", None):
        # Anonymizers take it away. The same for all slices of a series, and each time.
        console.warning(f"{source}: no FrameOfReferenceUID; one was made up for the DICOM-SEG")
        data.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(data.SeriesInstanceUID)])
    if not getattr(data, "SliceThickness", None):
        # May be empty, and some CTs leave it out.
        data.SliceThickness = f"{step_mm:.10g}"
    for name in _MAY_BE_EMPTY:
        if name not in data:
            setattr(data, name, "")
    return data


def _no_series(source: Path, found: str) -> UserError:
    return UserError(
        source,
        found=found,
        expected=f"for {OPTION}, a DICOM series whose slices have UIDs",
        remedy=f"name the original DICOM series, or leave {OPTION} out",
    )
