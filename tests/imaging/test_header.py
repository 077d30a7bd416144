import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from strategies import grids

from kitspipe.imaging.header import Header, NiftiGeometry, header_for

ALL_AXES = [
    "".join(letters)
    for order in itertools.permutations(("SI", "PA", "LR"))
    for letters in itertools.product(*order)
]


@given(grid=grids(), axes=st.sampled_from(ALL_AXES))
def test_every_order_and_sign_of_file_axes_leads_to_the_same_grid(grid, axes):
    header = header_for(grid, axes)
    assert header.axes == axes
    assert header.grid.is_canonical
    assert header.grid.shape == grid.shape
    assert header.grid.spacing == grid.spacing
    assert header.grid.close_to(grid, 1e-9)


@given(grid=grids(), axes=st.sampled_from(ALL_AXES))
def test_to_canonical_and_from_canonical_undo_each_other(grid, axes):
    header = header_for(grid, axes)
    stored = np.arange(np.prod(header.size)).reshape(header.size[::-1])
    canonical = header.to_canonical(stored)
    assert canonical.shape == grid.shape
    np.testing.assert_array_equal(header.from_canonical(canonical), stored)


@given(grid=grids(smallest=2), axes=st.sampled_from(ALL_AXES), data=st.data())
def test_a_voxel_keeps_its_value_and_its_place_in_the_patient(grid, axes, data):
    header = header_for(grid, axes)
    image = sitk.Image(header.size, sitk.sitkFloat32)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    index = tuple(data.draw(st.integers(0, n - 1)) for n in header.size)
    image[index] = 7
    canonical = header.to_canonical(sitk.GetArrayFromImage(image))
    (place,) = np.argwhere(canonical == 7)
    expected = image.TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose(header.grid.to_world(place), expected, atol=1e-6)


def test_canonical_arrays_are_those_of_simpleitks_dicom_orient(hard_grid):
    header = header_for(hard_grid, "IPL")
    stored = np.random.default_rng(0).integers(0, 99, header.size[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(stored)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    oriented = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(header.to_canonical(stored), sitk.GetArrayFromImage(oriented))
    np.testing.assert_allclose(header.grid.origin, oriented.GetOrigin(), atol=1e-9)


@pytest.mark.parametrize("axes", ["LPP", "LP", "XYZ", "LLSS"])
def test_axes_that_do_not_name_each_direction_once_are_refused(hard_grid, axes):
    with pytest.raises(ValueError, match="not three of"):
        header_for(hard_grid, axes)


def test_a_header_without_right_angles_is_refused():
    with pytest.raises(ValueError, match="sheared"):
        Header(
            size=(2, 2, 2),
            spacing=(1, 1, 1),
            origin=(0, 0, 0),
            direction=(1, 0, 0, 0, 1, 0.2, 0, 0, 1),
        )


def test_geometry_of_a_big_endian_nifti_is_that_of_the_little_endian_one():
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[0.7, 0, 0, 3], [0, 0.8, 0, 4], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    little = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine).header
    big = nibabel.Nifti1Header.from_header(little).as_byteswapped(">")
    assert NiftiGeometry.of(big.binaryblock) == NiftiGeometry.of(little.binaryblock)


def test_what_is_no_nifti_header_has_no_nifti_geometry():
    assert NiftiGeometry.of(b"") is None
    assert NiftiGeometry.of(bytes(400)) is None
