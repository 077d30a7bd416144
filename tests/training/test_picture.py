import numpy as np
import pytest
from matplotlib.image import imread

from kitspipe.training.picture import Example, draw_progress, example_of

RECORDS = [
    {
        "epoch": epoch,
        "loss": 2 - epoch / 10,
        "dice": None if epoch == 0 else epoch / 10,
        "learning_rate": 1e-3,
        "seconds": 3.0,
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
    draw_progress(RECORDS, path, title="tumor fold_0", examples=[example()] * 2, weights={})
    assert {(255, 176, 0), (60, 140, 255)} <= colors(path)


def test_values_of_every_fifth_epoch_make_a_curve(tmp_path):
    path = tmp_path / "progress.png"
    records = [{"epoch": epoch, "dice": None if epoch % 5 else 0.5} for epoch in range(300)]
    draw_progress(records, path, title="tumor fold_0", examples=[], weights={})
    # Lines are matplotlib's blue, all else of an empty picture is gray.
    assert any(blue - red > 75 for red, _, blue in colors(path))


def test_the_picture_can_be_drawn_before_the_first_validation(tmp_path):
    path = tmp_path / "progress.png"
    draw_progress([], path, title="tumor fold_0", examples=[], weights={})
    assert (255, 176, 0) not in colors(path)
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]


def test_the_pictured_slice_of_a_patch_is_that_with_most_foreground():
    image = np.arange(4, dtype=np.float16)[None, :, None, None] * np.ones((1, 4, 6, 6), np.float16)
    reference = np.zeros((4, 12, 12), bool)
    reference[1, 2:4], reference[2, 2:9] = True, True
    chosen = example_of(image, ~reference, reference)
    assert (chosen.image == 2).all()
    assert chosen.reference.sum() == 7 * 12


@pytest.mark.parametrize("channels", [3, 4, 5, 6])
def test_the_pictured_slice_of_a_slab_is_its_middle_beside_a_border_channel_too(channels):
    slab = np.arange(channels, dtype=np.float16)[:, None, None] * np.ones((channels, 4, 4))
    mask = np.ones((4, 4), bool)
    assert (example_of(slab, mask, mask).image == {3: 1, 4: 1, 5: 2, 6: 2}[channels]).all()


def test_how_often_cases_are_drawn_is_pictured(tmp_path):
    alike, unlike = tmp_path / "alike.png", tmp_path / "unlike.png"
    draw_progress(RECORDS, alike, title="tumor", examples=[], weights={"a": 1.0, "b": 1.0})
    draw_progress(RECORDS, unlike, title="tumor", examples=[], weights={"a": 1.0, "b": 3.0})
    assert (imread(alike) != imread(unlike)).any()
