"""Scans in memory: SimpleITK images and plain arrays, to canonical volumes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.imaging.header import Header, header_for
from kitspipe.imaging.values import to_hounsfield
from kitspipe.imaging.volume import Grid, Triple, Volume, contiguous


def from_sitk(image: sitk.Image) -> tuple[Volume, Header]:
    """A CT as int16 HU (Z, Y, X), at least -1024, and the header of the image.

    Raises:
        UserError: not 3D, several values per voxel, or axes that are not at right angles.
    """
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() != 3 or components != 1:
        raise _no_scan(f"{image.GetDimension()}D, {components} values per voxel")
    try:
        header = Header(
            size=image.GetSize(),
            spacing=image.GetSpacing(),
            origin=image.GetOrigin(),
            direction=image.GetDirection(),
        )
    except ValueError as error:
        raise _no_scan(str(error)) from None
    hu = to_hounsfield(sitk.GetArrayFromImage(image))
    return Volume(array=contiguous(header.to_canonical(hu)), grid=header.grid), header


def from_array(array: NDArray[Any], spacing: Triple) -> tuple[Volume, Header]:
    """A CT of an array in HU, and a header to go with it.

    Args:
        array: (Z, Y, X): from feet to head, from front to back, from the patient's right to left.
        spacing: mm in the same order.

    Raises:
        UserError: not 3D, or a spacing that is none of a CT.
    """
    if array.ndim != 3 or not array.size or array.dtype.kind not in "iuf":
        raise _no_scan(f"an array of shape {array.shape} and type {array.dtype}")
    try:
        z, y, x = map(float, spacing)
        header = header_for(Grid(shape=array.shape, spacing=(z, y, x)))
    except (ValueError, TypeError) as error:
        raise _no_scan(str(error)) from None
    return Volume(array=np.ascontiguousarray(to_hounsfield(array)), grid=header.grid), header


def labels_to_sitk(labels: Volume, header: Header) -> sitk.Image:
    """Labels as an image on the header's own geometry."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(header.from_canonical(labels.array)))
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    return image


def _no_scan(found: str) -> UserError:
    return UserError(
        "the scan",
        found=found,
        expected="a 3D CT in HU with one value per voxel, and axes at right angles; of an array "
        "also its spacing in mm, (Z, Y, X)",
        remedy="give such a SimpleITK image or array, or the path of a file",
    )
