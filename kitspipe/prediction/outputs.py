"""What is written for a case: its mask, and on request probabilities and DICOM-SEG."""

from __future__ import annotations

from collections.abc import Sequence

from kitspipe.dataset.cases import Case
from kitspipe.imaging.dicom import find_series
from kitspipe.imaging.dicom_seg import Segment, write_seg
from kitspipe.imaging.formats import write_labels
from kitspipe.imaging.header import Header
from kitspipe.imaging.volume import Volume
from kitspipe.planning.plan import Labels
from kitspipe.prediction.job import Job
from kitspipe.prediction.probabilities import StageProbability, on_scan, write_probabilities


def write_outputs(
    case: Case,
    job: Job,
    labels: Volume,
    header: Header,
    values: Labels,
    maps: Sequence[StageProbability],
) -> None:
    """Write all that a job asks for; the mask last, so that where it is, all is.

    Args:
        case: the case.
        job: what is asked for.
        labels: uint8, on the header's grid.
        header: of the scan.
        values: which value means what.
        maps: of all classes and regions.

    Raises:
        UserError: the disk is full, or the series lacks what DICOM-SEG needs.
    """
    if job.probabilities:
        for name, file in job.probability_files(case).items():
            of_class = [found for found in maps if found.name == name]
            write_probabilities(file, on_scan(of_class, labels.grid), header)
    if job.dicom_seg and find_series(case.image) is not None:
        write_seg(job.seg_file(case), labels, segments_of(values), case.image)
    write_labels(job.mask_file(case), labels, header)


def segments_of(values: Labels) -> list[Segment]:
    """Kidney, tumor and, where the plan has it, cyst."""
    segments = [
        Segment(value=values.kidney, name="Kidney"),
        Segment(value=values.tumor, name="Tumor"),
    ]
    if values.cyst is not None:
        segments.append(Segment(value=values.cyst, name="Cyst"))
    return segments
