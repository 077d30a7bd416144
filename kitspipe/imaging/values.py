"""What files store, as HU and as labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.imaging.volume import MINIMAL_HU


def to_hounsfield(values: NDArray[Any]) -> NDArray[np.int16]:
    """Values of any real type as int16 HU: rounded, in [-1024, 32767], NaN is -1024.

    Works slice by slice along the first axis; an array that needs no change is given back itself.
    """
    most = np.iinfo(np.int16).max
    if values.dtype == np.int16:
        if values.min(initial=0) >= MINIMAL_HU:
            return values
        clipped: NDArray[np.int16] = np.maximum(values, np.int16(MINIMAL_HU))
        return clipped
    hounsfield = np.empty(values.shape, np.int16)
    for stored, into in zip(values, hounsfield, strict=True):
        if stored.dtype.kind == "f":
            rounded = np.nan_to_num(np.rint(stored), nan=MINIMAL_HU, posinf=most)
        else:
            rounded = np.minimum(stored, min(most, np.iinfo(stored.dtype).max)).astype(np.int64)
        into[...] = np.clip(rounded, MINIMAL_HU, most)
    return hounsfield


def to_labels(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Values of any real type as uint8 labels; works slice by slice along the first axis.

    Raises:
        UserError: a value is not a whole number from 0 to 255; it names `path`.
    """
    labels = np.empty(values.shape, np.uint8)
    for stored, into in zip(values, labels, strict=True):
        with np.errstate(invalid="ignore"):
            into[...] = stored.astype(np.uint8)
        wrong = stored[into != stored]
        if wrong.size:
            raise UserError(
                path,
                found=f"the value {wrong.flat[0]:g}",
                expected="labels: whole numbers from 0 to 255",
                remedy="check that this is a mask and not a CT or a probability map",
            )
    return labels


def count_labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Voxels of each label 0 to 255 in a uint8 array, (256,); works slice by slice."""
    counts = np.zeros(256, np.int64)
    for plane in labels:
        # numpy counts 64-bit numbers only: first away with the background.
        counts += np.bincount(plane[plane != 0], minlength=256)
    counts[0] = labels.size - counts.sum()
    return counts
