import numpy as np
from matplotlib.image import imread

from kitspipe.training.picture import Example, draw_progress

RECORDS = [
    {
        "epoch": epoch,
        "loss": 2 - epoch / 10,
        "dice": None if epoch == 0 else epoch / 10,
        "learning_rate": 1e-3,
        "seconds": 3.0,
        "hard_cases": [["case_00003", 3.0], ["case_00001", 1.5]],
    }
    for epoch in range(9)
]


def example():
    mask = np.zeros((64, 96), bool)
    mask[20:40, 30:60] = True
    return Example(
        image=np.random.default_rng(0).normal(size=(32, 48)).astype(np.float32),
        reference=mask,
        prediction=np.roll(mask, 5, axis=1),
    )


def colors(path):
    image = (imread(path)[..., :3] * 255).round().astype(int)
    return {tuple(color) for color in image.reshape(-1, 3)}


def test_the_picture_shows_reference_and_prediction(tmp_path):
    path = tmp_path / "progress.png"
    draw_progress(RECORDS, path, title="tumor fold_0", example=example())
    assert {(255, 176, 0), (60, 140, 255)} <= colors(path)


def test_values_of_every_fifth_epoch_make_a_curve(tmp_path):
    path = tmp_path / "progress.png"
    records = [{"epoch": epoch, "dice": None if epoch % 5 else 0.5} for epoch in range(300)]
    draw_progress(records, path, title="tumor fold_0", example=None)
    # Lines are matplotlib's blue, all else of an empty picture is gray.
    assert any(blue - red > 75 for red, _, blue in colors(path))


def test_the_picture_can_be_drawn_before_the_first_validation(tmp_path):
    path = tmp_path / "progress.png"
    draw_progress([], path, title="tumor fold_0", example=None)
    assert (255, 176, 0) not in colors(path)
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]
