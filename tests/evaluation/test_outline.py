import numpy as np
import pytest
from hypothesis import assume, given
from scipy.spatial import Delaunay
from strategies import masks

from kitspipe.evaluation.outline import convex_hull, slice_outline, surface_points


@given(mask=masks())
def test_a_hull_holds_its_mask(mask):
    assume(mask.any())
    hull = convex_hull(mask)
    assert hull.mask(mask.shape)[mask].all()


@given(mask=masks())
def test_voxels_inside_are_those_of_a_triangulation_of_the_outline(mask):
    assume(mask.any())
    hull = convex_hull(mask)
    voxels = np.argwhere(np.ones(mask.shape, bool))
    heights = hull.planes[:, :3] @ voxels.T + hull.planes[:, 3:]
    clear = np.abs(heights).min(axis=0) > 1e-6  # on a face, either answer is right
    expected = Delaunay(surface_points(mask)).find_simplex(voxels) >= 0
    assert (hull.mask(mask.shape).ravel() == expected)[clear].all()


@given(mask=masks())
def test_the_hull_of_a_hull_adds_little(mask):
    assume(mask.any())
    once = convex_hull(mask).mask(mask.shape)
    assert convex_hull(once).mask(mask.shape)[once].all()


def test_an_outline_lies_a_quarter_of_a_voxel_beyond_the_centres():
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    corners = slice_outline(mask)
    assert corners.min(axis=0) == pytest.approx((0.75, 1.75))
    assert corners.max(axis=0) == pytest.approx((3.25, 5.25))


def test_the_ends_of_a_body_lie_half_a_slice_beyond_its_slices():
    mask = np.zeros((6, 5, 5), bool)
    mask[2:4, 1:4, 1:4] = True
    points = surface_points(mask)
    assert points[:, 0].min() == 1.5
    assert points[:, 0].max() == 3.5
    assert points[points[:, 0] == 1.5] == pytest.approx(np.array([[1.5, 2, 2]]))


def test_empty_masks_have_no_outline():
    assert slice_outline(np.zeros((3, 4), bool)).shape == (0, 2)
    assert surface_points(np.zeros((2, 3, 4), bool)).shape == (0, 3)
    assert convex_hull(np.zeros((2, 3, 4), bool)) is None
