import numpy as np
import pytest

from kitspipe.planning.plan import HUWindow
from kitspipe.preprocessing.intensity import background_value, normalize, normalize_masked

LEVEL_45_WIDTH_400 = HUWindow(low_hu=-155, high_hu=245, center_hu=-155, scale_hu=400)


@pytest.mark.parametrize(
    ("hu", "expected"),
    [(-1024, 0.0), (-155, 0.0), (45, 0.5), (245, 1.0), (3000, 1.0)],
)
def test_the_papers_window_maps_level_45_width_400_to_0_1(hu, expected):
    found = normalize(np.array([hu], np.int16), LEVEL_45_WIDTH_400)
    assert found.dtype == np.float32
    assert found[0] == pytest.approx(expected)


def test_outside_the_mask_is_the_windows_low_end_not_water():
    hu = np.full((1, 1, 2), 100, np.int16)
    mask = np.array([[[True, False]]])
    found = normalize_masked(hu, mask, LEVEL_45_WIDTH_400)
    assert found[0, 0, 0] == pytest.approx(255 / 400)
    assert found[0, 0, 1] == background_value(LEVEL_45_WIDTH_400) == 0.0


def test_per_slice_moves_each_slices_median_in_the_mask_to_the_center():
    window = HUWindow(low_hu=-155, high_hu=245, center_hu=45, scale_hu=200, per_slice=True)
    hu = np.array([[[90, 100, 110]], [[-20, 0, 20]], [[7, 8, 9]]], np.int16)
    mask = np.ones(hu.shape, bool)
    mask[2] = False
    found = normalize_masked(hu, mask, window)
    np.testing.assert_allclose(found[0, 0], [-0.05, 0, 0.05], atol=1e-6)
    np.testing.assert_allclose(found[1, 0], [-0.1, 0, 0.1], atol=1e-6)
    # No kidney in the slice: nothing to measure, nothing to see.
    assert (found[2] == background_value(window)).all()
