"""A picture of a DICOM-SEG over the CT that it refers to, both read back, to be looked at.

    python benchmarks/seg_overlay.py SERIES_FOLDER CASE.seg.dcm overlay.png

Frames are found by the references that the DICOM-SEG holds, not by their order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import highdicom
import matplotlib.pyplot as plt
import pydicom

COLORS = ("red", "deepskyblue", "lime")


def main(series: Path, seg_file: Path, picture: Path) -> None:
    """Contours of all segments on slices with most of the last segment that has voxels."""
    slices = {found.SOPInstanceUID: found for found in map(pydicom.dcmread, series.iterdir())}
    seg, frames = highdicom.seg.segread(seg_file), {}
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frames[source, number] = frame
    last = max(number for (_, number), frame in frames.items() if frame.any())
    area = {source: int(frame.sum()) for (source, n), frame in frames.items() if n == last}
    shown = sorted(area, key=lambda source: -area[source])[:5:2]
    figure, axes = plt.subplots(1, len(shown), figsize=(6 * len(shown), 6), squeeze=False)
    for axis, source in zip(axes[0], shown, strict=True):
        ct = slices[source]
        hu = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
        axis.imshow(hu, cmap="gray", vmin=-150, vmax=250)
        for number, color in enumerate(COLORS, 1):
            if (source, number) in frames:
                axis.contour(frames[source, number], [0.5], colors=color, linewidths=1)
        axis.set_title(f"z = {float(ct.ImagePositionPatient[2]):.1f} mm")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
