import numpy as np
import pytest
from shapes import MIDDLES, scan_grid, two_kidneys

from kitspipe.evaluation.contour import contour_of
from kitspipe.evaluation.kidneys import Directions, points_of
from kitspipe.evaluation.nephrometry import anterior_direction, polar_lines
from kitspipe.evaluation.pieces import find_pieces
from kitspipe.evaluation.sinus import find_sinus
from kitspipe.planning.plan import Labels

SPACING = (2.5, 1.1, 1.3)
NOTCH = np.array([22, -14, 0])  # of the painted kidneys, toward the middle and the front


@pytest.fixture(scope="module", params=[(0.0, 0.0, 0.0), (10.0, -8.0, 12.0)])
def found(request):
    """Kidneys of a straight and of an oblique grid, each with its sinus, by side."""
    labels = two_kidneys(scan_grid(SPACING, request.param))
    kidneys = find_pieces(labels, Labels(cyst=3)).kidneys
    return labels.grid, {
        kidney.side: (
            kidney,
            find_sinus(
                kidney,
                contour_of(kidney.tissue, SPACING).hull.mask(kidney.box.shape),
                labels.grid,
            ),
        )
        for kidney in kidneys
    }


@pytest.mark.parametrize(("side", "inward"), [("right", 1), ("left", -1)])
def test_the_mouth_is_the_notch_at_the_hilum(found, side, inward):
    grid, kidneys = found
    kidney, sinus = kidneys[side]
    mouth = points_of(sinus.mouth, kidney.box, grid).mean(axis=0) / SPACING
    expected = MIDDLES[side] + NOTCH * (inward, 1, 1)
    assert np.linalg.norm(grid.to_world(mouth) - expected) < 8


@pytest.mark.parametrize(("side", "inward"), [("right", 1), ("left", -1)])
def test_the_hilum_looks_forward_and_to_the_middle(found, side, inward):
    grid, kidneys = found
    _, sinus = kidneys[side]
    x, y, z = np.asarray(grid.direction) @ sinus.direction
    assert inward * x > 0.5
    assert y < -0.2
    assert abs(z) < 0.2


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_axis_points_to_the_head_and_the_coronal_plane_faces_the_front(found, side):
    grid, kidneys = found
    kidney, sinus = kidneys[side]
    assert (np.asarray(grid.direction) @ kidney.axis)[2] > 0.99
    anterior = anterior_direction(kidney, sinus.direction, Directions.of(grid).posterior)
    assert (np.asarray(grid.direction) @ anterior)[1] < -0.5
    assert anterior @ kidney.axis == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("side", ["right", "left"])
def test_polar_lines_bound_the_mouth(found, side):
    grid, kidneys = found
    kidney, sinus = kidneys[side]
    low, high = polar_lines(kidney, points_of(sinus.mouth, kidney.box, grid))
    # The notch reaches 18 mm up and down from the middle of a kidney of 110 mm.
    assert low == pytest.approx(0.5 - 18 / 110, abs=0.06)
    assert high == pytest.approx(0.5 + 18 / 110, abs=0.06)


def test_without_a_sinus_the_polar_lines_are_the_thirds(found):
    _, kidneys = found
    assert polar_lines(kidneys["left"][0], np.zeros((0, 3))) == (1 / 3, 2 / 3)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_core_is_deeper_than_parenchyma_is_thick(found, side):
    grid, kidneys = found
    kidney, sinus = kidneys[side]
    core = grid.to_world(points_of(sinus.core, kidney.box, grid) / SPACING) - MIDDLES[side]
    # The kidney is 48 mm thick: 20 mm of parenchyma leave 4 mm on either side of its middle.
    assert len(core)
    assert np.abs(core[:, 0]).max() < 6
    assert np.abs(core[:, 2]).max() < 0.3 * 110 + 3
