import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage
from strategies import label_volumes

from kitspipe.dataset import phantoms
from kitspipe.dataset.anatomy import anatomy_around, invent_anatomy, pieces
from kitspipe.dataset.phantom_dataset import phantom_cases
from kitspipe.dataset.tissues import Tissue
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.imaging.volume import Grid, Volume

COARSE = (10.0, 5.2, 5.2)
ABDOMEN = Grid(shape=(43, 107, 111), spacing=(5.5, 3.0, 2.9))
# Masks of KiTS whose tumors are neither tiny nor fill the kidney; two have cysts.
REAL = ("case_00011", "case_00015", "case_00021", "case_00038")


def best_threshold_dice(image: Volume, labels: Volume) -> float:
    """Tumor Dice of the best single HU threshold in the label map, on either side."""
    inside = labels.array > 0
    hu, tumor = image.array[inside], labels.array[inside] == 2
    order = np.argsort(hu, kind="stable")
    hits = np.cumsum(tumor[order])
    n = np.arange(1, hits.size + 1)
    # Only between different HU can a threshold cut.
    cut = np.append(np.diff(hu[order]) > 0, True)
    below = 2 * hits / (n + hits[-1])
    above = 2 * (hits[-1] - hits) / (hits.size - n + hits[-1])
    return float(max(below[cut].max(), above[cut].max()))


@pytest.fixture(scope="module")
def painted():
    anatomies = [invent_anatomy(ABDOMEN, seed) for seed in range(10)]
    return [(anatomy, phantoms.paint(anatomy, seed)) for seed, anatomy in enumerate(anatomies)]


def core(mask: np.ndarray) -> np.ndarray:
    """The mask without its surface, which the blur mixes with what is outside."""
    return ndimage.binary_erosion(mask)


def painted_balls(label: int) -> tuple[Volume, np.ndarray]:
    """A scan with 96 balls of 24 mm of a label, and where they are."""
    places = np.zeros((24, 90, 130), bool)
    places[6:20:12, 6:84:10, 5:125:20] = True
    balls = ndimage.distance_transform_edt(~places) <= 4
    grid = Grid(shape=places.shape, spacing=(3.0, 3.0, 3.0))
    labels = Volume(array=np.where(balls, label, 0).astype(np.uint8), grid=grid)
    return phantoms.paint(anatomy_around(labels, 1), 1), balls


def test_the_best_threshold_is_found_by_hand():
    # HU 10 and 20 are tumor, 0 and 30 are not: > 0 takes 3 with 2 hits, 2 * 2 / (3 + 2).
    grid = Grid(shape=(1, 1, 5), spacing=(1.0, 1.0, 1.0))
    image = Volume(array=np.array([[[0, 10, 20, 30, 10]]], np.int16), grid=grid)
    labels = Volume(array=np.array([[[1, 2, 2, 1, 0]]], np.uint8), grid=grid)
    assert best_threshold_dice(image, labels) == pytest.approx(0.8)


def test_no_threshold_finds_the_tumors_of_invented_cases(painted):
    scores = [best_threshold_dice(image, anatomy.labels) for anatomy, image in painted]
    assert np.mean(scores) < 0.5


def test_no_threshold_finds_the_tumors_of_real_masks(shared_data, tmp_path):
    for case in REAL:
        (tmp_path / case).symlink_to(shared_data / "kits_masks" / case)
    cases = phantom_cases(cases=4, seed=0, masks=tmp_path, spacing_mm=(5.0, 2.5, 2.5))
    scores = []
    for case in cases:
        anatomy = case.anatomy()
        scores.append(best_threshold_dice(phantoms.paint(anatomy, case.seed), anatomy.labels))
    assert len(scores) == len(REAL)
    assert np.mean(scores) < 0.5


@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [
        (Tissue.AIR, -1024, -940),
        (Tissue.FAT, -130, -60),
        (Tissue.MUSCLE, 40, 80),
        (Tissue.LIVER, 85, 130),
        (Tissue.SPLEEN, 100, 160),
        (Tissue.AORTA, 200, 320),
        (Tissue.MARROW, 140, 320),
        (Tissue.BOWEL_GAS, -1000, -600),
    ],
)
def test_tissues_have_the_hu_that_they_have_in_ct(painted, tissue, low, high):
    values = [image.array[core(anatomy.tissue == tissue)] for anatomy, image in painted]
    assert low < np.mean(np.concatenate(values)) < high


def test_cortex_is_brighter_than_medulla_brighter_than_sinus(painted):
    for anatomy, image in painted:
        cortex, medulla, sinus = (
            np.median(image.array[anatomy.tissue == code])
            for code in (Tissue.CORTEX, Tissue.MEDULLA, Tissue.SINUS)
        )
        assert cortex > medulla > sinus


def test_some_cysts_are_as_dense_as_tumors_and_most_are_water():
    image, cysts = painted_balls(3)
    means = [image.array[box.slices][core(piece)].mean() for box, piece in pieces(cysts)]
    dense = sum(45 < mean < 95 for mean in means)
    water = sum(-10 < mean < 25 for mean in means)
    assert dense + water == len(means) == 96
    # Binomial of 96 with 0.35: sd 4.7.
    assert 20 < dense < 48


def test_tumors_are_uneven_and_cysts_are_not():
    # Both under the same scanner noise, which cysts show alone.
    spread = {}
    for label in (2, 3):
        image, mask = painted_balls(label)
        cores = [image.array[box.slices][core(piece)] for box, piece in pieces(mask)]
        spread[label] = [values.std() for values in cores]
    assert np.percentile(spread[2], 5) > np.percentile(spread[3], 95)


def test_noise_has_the_sd_of_ct_and_is_correlated():
    # Cysts are even, so what varies in one that fills the scan is noise.
    full = np.full((21, 61, 67), 3, np.uint8)
    volume = Volume(array=full, grid=Grid(shape=full.shape, spacing=(2.5, 0.7, 0.8)))
    noise = phantoms.paint(anatomy_around(volume, 0), 0).array[3:-3, 5:-5, 5:-5].astype(float)
    noise -= noise.mean()
    assert 9.5 < noise.std() < 20.5
    neighbors = (noise[:, :, 1:] * noise[:, :, :-1]).mean() / noise.var()
    assert neighbors > 0.3


def test_the_blur_has_the_width_of_the_voxels_and_the_scanner():
    # The step between air and body spreads over a few voxels, not more.
    anatomy = invent_anatomy(ABDOMEN, 3)
    image = phantoms.paint(anatomy, 3).array
    air = ndimage.distance_transform_edt(anatomy.tissue == Tissue.AIR) > 4
    assert image[air].max() < -850


def test_slabs_leave_no_seams(painted):
    # Differences of neighboring slices do not depend on where a slab ends.
    anatomy, image = painted[0]
    even = anatomy.tissue[1:] == anatomy.tissue[:-1]
    steps = np.abs(np.diff(image.array.astype(float), axis=0))
    means = np.array([step[same].mean() for step, same in zip(steps, even, strict=True)])
    seams = np.arange(7, len(means), 8)
    rest = np.setdiff1d(np.arange(len(means)), seams)
    assert means[seams].mean() == pytest.approx(means[rest].mean(), rel=0.1)


def test_painting_is_the_same_for_a_seed_and_other_for_another(painted):
    anatomy, image = painted[0]
    assert (phantoms.paint(anatomy, 0).array == image.array).all()
    assert (phantoms.paint(anatomy, 1).array != image.array).mean() > 0.5


@settings(max_examples=10)
@given(label_volumes())
def test_any_mask_on_any_grid_can_be_painted(labels):
    image = phantoms.paint(anatomy_around(labels, 0), 0)
    assert image.grid == labels.grid
    assert image.array.dtype == np.int16
    assert image.array.max() <= 3071


def test_what_is_read_is_what_was_painted(tmp_path):
    [case] = phantom_cases(cases=1, seed=4, spacing_mm=COARSE)
    anatomy = case.anatomy()
    phantoms.write_case(tmp_path, case.case_id, anatomy, case.seed)
    image = read_image(tmp_path / case.case_id / "imaging.nii.gz")[0]
    labels = read_labels(tmp_path / case.case_id / "segmentation.nii.gz")[0]
    assert (image.array == phantoms.paint(anatomy, case.seed).array).all()
    assert (labels.array == anatomy.labels.array).all()
    assert labels.grid.close_to(anatomy.labels.grid)
