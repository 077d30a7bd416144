import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kitspipe.evaluation.contour import contour_of, solid_tissue

AXES = np.array([55, 30, 24])
TURN = Rotation.from_euler("xyz", (15, -20, 10), degrees=True)


def kidney_with_ball(spacing, direction, radius, depth):
    """An ellipsoid kidney without a ball near its surface, the ball, its true share outside."""
    shape = [int(2 * (max(AXES) + radius) / s) + 8 for s in spacing]
    points = (np.stack(np.indices(shape), -1) - (np.array(shape) - 1) / 2) * spacing
    points = TURN.apply(points.reshape(-1, 3)).reshape(points.shape)
    kidney = ((points / AXES) ** 2).sum(-1) < 1
    surface = direction / np.linalg.norm(direction / AXES)
    middle = surface - direction / np.linalg.norm(direction) * depth * radius
    ball = ((points - middle) ** 2).sum(-1) < radius**2
    return kidney & ~ball, ball, (ball & ~kidney).sum() / ball.sum()


@pytest.mark.parametrize("spacing", [(2.0, 1.2, 1.2), (5.0, 1.0, 1.0)])
@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0.5, 1), (0.8, 0.5, 0.3)])
@pytest.mark.parametrize(("radius", "depth"), [(8, 0), (15, 0), (15, 0.5), (25, 0), (25, 0.5)])
def test_the_share_outside_is_that_of_the_kidney_before_the_tumor(
    spacing, direction, radius, depth
):
    parenchyma, ball, share = kidney_with_ball(spacing, np.array(direction, float), radius, depth)
    contour = contour_of(solid_tissue(parenchyma, spacing), spacing)
    # At a pole a large tumor takes most of what tells how the kidney went on.
    assert contour.share_outside(ball) == pytest.approx(
        share, abs=0.17 if direction[0] == 1 else 0.05
    )


def test_a_ball_in_the_middle_is_inside():
    parenchyma, ball, _ = kidney_with_ball((2.0, 1.2, 1.2), np.array([0, 1.0, 0]), 10, 2)
    assert contour_of(solid_tissue(parenchyma, (2.0, 1.2, 1.2)), (2.0, 1.2, 1.2)).share_outside(
        ball
    ) == pytest.approx(0, abs=0.01)


def test_a_rim_around_the_tumor_does_not_count_as_kidney():
    spacing = (2.0, 1.2, 1.2)
    parenchyma, ball, share = kidney_with_ball(spacing, np.array([0, 0.5, 1]), 20, 0)
    _, larger, _ = kidney_with_ball(spacing, np.array([0, 0.5, 1]), 22, 0)
    slices = tuple(
        slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(larger.shape, ball.shape, strict=True)
    )
    rim = larger[slices] & ~ball
    contour = contour_of(solid_tissue(parenchyma | rim, spacing), spacing)
    assert contour.share_outside(ball) == pytest.approx(share, abs=0.06)


def test_where_nothing_is_thick_all_is_tissue():
    thin = np.zeros((9, 9, 9), bool)
    thin[4] = True
    assert (solid_tissue(thin, (1.0, 1.0, 1.0)) == thin).all()


def test_an_empty_mask_has_no_contour():
    with pytest.raises(ValueError, match="empty"):
        contour_of(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0))
