import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage
from strategies import label_volumes

from kitspipe.dataset.anatomy import Anatomy, anatomy_around, invent_anatomy, pieces
from kitspipe.dataset.tissues import LABELLED, Tissue
from kitspipe.imaging.volume import Grid, Volume

ABDOMEN = Grid(shape=(41, 97, 103), spacing=(6.0, 3.4, 3.2), origin=(-150.0, -170.0, -700.0))
SEEDS = range(8)
LABEL_OF = {Tissue.CORTEX: 1, Tissue.MEDULLA: 1, Tissue.SINUS: 1, Tissue.TUMOR: 2, Tissue.CYST: 3}


@pytest.fixture(scope="module")
def invented():
    return [invent_anatomy(ABDOMEN, seed) for seed in SEEDS]


def centre_mm(mask: np.ndarray) -> np.ndarray:
    """(Z, Y, X) in mm from the first voxel."""
    return np.argwhere(mask).mean(axis=0) * ABDOMEN.spacing


def test_there_is_a_kidney_on_either_side_of_the_spine(invented):
    for anatomy in invented:
        spine = centre_mm(anatomy.tissue == Tissue.CORD)[2]
        kidneys = [box for box, mask in pieces(anatomy.labels.array > 0) if mask.sum() > 500]
        sides = [(box.start[2] + box.stop[2]) / 2 * ABDOMEN.spacing[2] > spine for box in kidneys]
        assert sorted(sides) == [False, True]


def test_kidneys_are_as_large_as_kidneys_are(invented):
    # Both together have 200 to 450 ml in adults.
    for anatomy in invented:
        volume_ml = (anatomy.labels.array == 1).sum() * ABDOMEN.voxel_ml
        assert 120 < volume_ml < 450


def test_every_case_has_a_tumor_that_touches_a_kidney(invented):
    for anatomy in invented:
        tumor = anatomy.labels.array == 2
        assert tumor.sum() * ABDOMEN.voxel_ml > 1
        assert (ndimage.binary_dilation(tumor) & (anatomy.labels.array == 1)).any()


def test_about_half_of_the_cases_have_cysts():
    small = Grid(shape=(16, 40, 42), spacing=(12.0, 8.0, 7.6))
    n = sum((invent_anatomy(small, seed).labels.array == 3).any() for seed in range(24))
    # Binomial of 24 with 0.45: mean 10.8, sd 2.4.
    assert 4 <= n <= 18


def test_the_organs_lie_where_they_belong(invented):
    # Y runs backward, X to the left, Z up.
    for anatomy in invented:
        seen = np.unique(anatomy.tissue)
        at = {code: centre_mm(anatomy.tissue == code) for code in seen}
        assert at[Tissue.LIVER][2] < at[Tissue.CORD][2] < at[Tissue.SPLEEN][2]
        assert at[Tissue.VEIN][2] < at[Tissue.AORTA][2]
        assert at[Tissue.AORTA][1] < at[Tissue.DISC][1] < at[Tissue.CORD][1] < at[Tissue.TABLE][1]
        assert at[Tissue.LIVER][0] > at[Tissue.STOOL][0]
        assert at[Tissue.LUNG][0] > at[Tissue.LIVER][0]


def test_ribs_end_beside_the_spine(invented):
    # Behind the spinal canal only the spine's own bone lies, no arc from side to side.
    for anatomy in invented:
        cord = centre_mm(anatomy.tissue == Tissue.CORD)
        bone = np.argwhere(np.isin(anatomy.tissue, (Tissue.BONE, Tissue.MARROW)))
        place = bone * ABDOMEN.spacing - cord
        behind = place[(np.abs(place[:, 2]) < 25) & (place[:, 1] > 42)]
        assert len(behind) == 0


def test_gas_lies_in_front_of_stool(invented):
    gas = np.mean([centre_mm(a.tissue == Tissue.BOWEL_GAS)[1] for a in invented])
    assert gas < np.mean([centre_mm(a.tissue == Tissue.STOOL)[1] for a in invented])


def test_every_tissue_occurs(invented):
    seen = set().union(*(np.unique(anatomy.tissue).tolist() for anatomy in invented))
    assert seen == set(Tissue)


def test_cortex_is_outside_of_medulla_outside_of_sinus(invented):
    for anatomy in invented:
        inside = anatomy.labels.array > 0
        depth = ndimage.distance_transform_edt(inside, sampling=ABDOMEN.spacing)
        cortex, medulla, sinus = (
            depth[anatomy.tissue == code].mean()
            for code in (Tissue.CORTEX, Tissue.MEDULLA, Tissue.SINUS)
        )
        assert cortex < medulla < sinus


def test_the_same_seed_gives_the_same_anatomy_and_another_another(invented):
    again = invent_anatomy(ABDOMEN, SEEDS[0])
    assert (again.tissue == invented[0].tissue).all()
    assert (again.labels.array != invented[1].labels.array).any()


def test_a_finer_grid_shows_the_same_body():
    # Lesions start at a voxel and so differ; organs do not depend on the voxels.
    fine = ABDOMEN.refined((1, 2, 2))
    for seed in SEEDS[:2]:
        coarse_ml, fine_ml = (
            (invent_anatomy(grid, seed).tissue == Tissue.LIVER).sum() * grid.voxel_ml
            for grid in (ABDOMEN, fine)
        )
        assert fine_ml == pytest.approx(coarse_ml, rel=0.05)


def test_a_grid_beside_the_kidneys_is_refused():
    sliver = Grid(shape=(4, 4, 4), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="no part of a kidney"):
        invent_anatomy(sliver, 0)


def test_tissue_of_another_shape_is_refused(invented):
    with pytest.raises(ValueError, match="tissue"):
        Anatomy(labels=invented[0].labels, tissue=np.zeros((1, 2, 3), np.uint8))


@settings(max_examples=15)
@given(label_volumes(n_labels=5))
def test_a_mask_stays_as_it_is_on_any_grid(labels):
    anatomy = anatomy_around(labels, 3)
    known = np.where(labels.array <= 3, labels.array, 0)
    assert anatomy.labels.grid == labels.grid
    assert (anatomy.labels.array == known).all()
    table = np.zeros(256, np.uint8)
    for code, label in LABEL_OF.items():
        table[code] = label
    assert set(LABEL_OF) == set(LABELLED)
    assert (table[anatomy.tissue] == known).all()


def test_the_body_holds_all_of_a_mask():
    labels = np.zeros(ABDOMEN.shape, np.uint8)
    labels[10:30, 40:60, 10:30] = 1
    labels[10:30, 40:60, 70:90] = 1
    labels[15:25, 20:60, 5:20] = 2
    tissue = anatomy_around(Volume(array=labels, grid=ABDOMEN), 0).tissue
    beside = ndimage.binary_dilation(labels > 0, iterations=3) & (labels == 0)
    assert not np.isin(tissue[beside], (Tissue.AIR, Tissue.SKIN, Tissue.TABLE)).any()


@pytest.mark.parametrize("left", [False, True])
def test_a_single_kidney_gets_its_spine_on_the_inner_side(left):
    labels = np.zeros(ABDOMEN.shape, np.uint8)
    columns = slice(66, 82) if left else slice(21, 37)
    labels[10:30, 40:55, columns] = 1
    tissue = anatomy_around(Volume(array=labels, grid=ABDOMEN), 0).tissue
    offset = centre_mm(labels == 1)[2] - centre_mm(tissue == Tissue.CORD)[2]
    assert offset == pytest.approx(64 if left else -64, abs=4)


def test_pieces_are_whole_and_fall_in_size():
    mask = np.random.default_rng(0).random((9, 13, 11)) < 0.15
    found = list(pieces(mask))
    rebuilt = np.zeros_like(mask)
    for box, piece in found:
        rebuilt[box.slices] |= piece
    assert (rebuilt == mask).all()
    sizes = [piece.sum() for _, piece in found]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found) == ndimage.label(mask, np.ones((3, 3, 3)))[1]
    assert list(pieces(np.zeros((2, 3, 4), bool))) == []
