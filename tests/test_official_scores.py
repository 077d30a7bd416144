"""Whole cases against the official formulas: 56 pairs, and the official table of files."""

import nibabel
import numpy as np
import official_kits
import pytest
from scipy import ndimage

from kitspipe.evaluation import case_scores, evaluation_files
from kitspipe.evaluation.evaluate import evaluate
from kitspipe.imaging.volume import Grid

REAL = (2, 6, 8, 10, 15, 20, 21, 26, 32, 34)  # most have cysts; 1 to 5 mm slices
SHAPE = (9, 25, 31)
SPACINGS = ((5.0, 0.7, 0.7), (0.5, 0.9, 0.9), (1.0, 1.0, 1.0), (3.0, 0.4375, 0.6), (0.8, 6.0, 2.2))


def empty():
    return np.zeros(SHAPE, np.uint8)


def painted():
    labels = empty()
    labels[1:8, 3:20, 4:14] = 1
    labels[2:5, 8:15, 9:19] = 2
    labels[5:7, 3:7, 4:9] = 3
    labels[:, 18:, 25:] = 1  # to the border
    return labels


def with_voxel(*place, value=2):
    labels = empty()
    labels[place] = value
    return labels


def moved(labels):
    return np.roll(labels, (1, -1, 2), (0, 1, 2))


def cysts_as_tumors(labels):
    return np.where(labels == 3, 2, labels).astype(np.uint8)


def noisy(labels):
    """Holes, specks, thinner tumors."""
    noise = ndimage.gaussian_filter(np.random.default_rng(7).normal(size=labels.shape), 1.5)
    spoiled = np.where(noise > 0.25, 0, labels)
    spoiled[noise < -0.32] = 2
    return spoiled.astype(np.uint8)


CHANGES = (moved, cysts_as_tumors, noisy)
ODD = {
    "both empty": (empty(), empty()),
    "nothing predicted": (painted(), empty()),
    "all made up": (empty(), painted()),
    "no tumor, one made up": (np.minimum(painted(), 1), with_voxel(4, 12, 12)),
    "one voxel, the same": (with_voxel(4, 12, 12), with_voxel(4, 12, 12)),
    "one voxel, moved by a row": (with_voxel(4, 12, 12), with_voxel(4, 13, 12)),
    "one voxel in a corner": (with_voxel(0, 0, 0), with_voxel(8, 24, 30)),
    "one voxel of a tumor": (painted(), with_voxel(3, 10, 12)),
    "one voxel of a cyst": (painted(), with_voxel(6, 4, 5, value=3)),
    "one slice": (np.where(np.arange(9)[:, None, None] == 4, painted(), 0), painted()),
    "full": (np.full(SHAPE, 2, np.uint8), painted()),
}


@pytest.fixture(scope="module")
def real_pairs(shared_data):
    """Real masks, every fourth pixel of some 25 slices, with their spacing."""
    found = {}
    for number in REAL:
        image = nibabel.load(shared_data / f"kits_masks/case_{number:05d}/segmentation.nii.gz")
        labels = np.asarray(image.dataobj).astype(np.uint8)[:, ::4, ::4]
        labels = labels[ndimage.find_objects((labels > 0).astype(int))[0]]
        step = max(1, len(labels) // 25)
        dz, dy, dx = map(float, image.header.get_zooms())
        found[number] = labels[::step], (step * dz, 4 * dy, 4 * dx)
    return found


def check(reference, prediction, spacing):
    reference, prediction = (labels.astype(np.uint8) for labels in (reference, prediction))
    grid = Grid(shape=reference.shape, spacing=spacing)
    found = case_scores.score("case", reference, prediction, grid)
    classes = [getattr(found.kits23, name) for name in official_kits.COLUMNS]
    row = [hec.dice for hec in classes] + [hec.surface_dice for hec in classes]
    expected = official_kits.kits23_row(reference, prediction, spacing)
    assert row == pytest.approx(expected, abs=1e-12)
    for name in official_kits.COLUMNS:
        check_distance(getattr(found.regions, name), name, (reference, prediction), spacing)
    if reference.any() and (reference == 2).any():
        # KiTS19 knows no cysts: they are kidney there.
        old = [np.where(labels == 3, 1, labels) for labels in (reference, prediction)]
        kits19 = (found.kits19.kidney, found.kits19.tumor)
        assert kits19 == pytest.approx(official_kits.kits19_dice(*old), abs=1e-12)


def check_distance(region, name, pair, spacing):
    a, b = (np.isin(labels, official_kits.CLASSES[name]) for labels in pair)
    if a.any() and b.any():
        low, high = (official_kits.package_hausdorff(a, b, spacing, 95 + s) for s in (-1e-7, 1e-7))
        assert low - 1e-9 <= region.hausdorff_mm <= high + 1e-9
    voxel_ml = np.prod(spacing) / 1000
    assert region.error_ml == pytest.approx((int(b.sum()) - int(a.sum())) * voxel_ml)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", REAL)
def test_a_real_mask_scores_as_officially(real_pairs, number, change):
    labels, spacing = real_pairs[number]
    check(labels, change(labels), spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("change", CHANGES)
def test_any_spacing_scores_as_officially(change, spacing):
    check(painted(), change(painted()), spacing)


@pytest.mark.parametrize("name", ODD)
def test_odd_masks_score_as_officially(name):
    check(*ODD[name], (2.5, 0.7, 0.8))


@pytest.mark.slow
def test_the_table_of_real_files_is_the_official_one(shared_data, tmp_path):
    references, predictions, rows = {}, {}, {}
    for number in (2, 8, 10, 15, 21, 27):
        name = f"case_{number:05d}"
        references[name] = shared_data / "kits_masks" / name / "segmentation.nii.gz"
        image = nibabel.load(references[name])
        labels = np.asarray(image.dataobj).astype(np.uint8)
        changed = CHANGES[number % 2](labels)
        predictions[name] = tmp_path / f"prediction_{number:05d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(changed, image.affine), predictions[name])
        spacing = tuple(map(float, image.header.get_zooms()))
        rows[name] = official_kits.kits23_row(labels, changed, spacing)
    evaluation_files.write(evaluate(references, predictions), tmp_path)
    found, expected = (
        [line.split(",") for line in text.splitlines()]
        for text in ((tmp_path / "evaluation.csv").read_text(), official_kits.kits23_csv(rows))
    )
    assert found[0] == expected[0]
    for ours, official in zip(found[1:], expected[1:], strict=True):
        assert ours[0] == official[0]
        assert [float(v) for v in ours[1:]] == pytest.approx(
            [float(v) for v in official[1:]], abs=1.01e-8
        )
