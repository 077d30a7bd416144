import math

import numpy as np
import pytest
from data_sets import case_record, data_set, kits19_like, normal_histogram
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from kitspipe.planning import recipes, rules
from kitspipe.planning.fingerprint import HU_BIN, Fingerprint
from kitspipe.planning.memory import kidney_training_bytes, tumor_training_bytes
from kitspipe.planning.plan import Labels
from kitspipe.planning.planner import plan_dataset

GIB = rules.GIB
KITS19 = kits19_like()
THICK = data_set((8.0, 0.7, 0.8), (50, 512, 512))
FINE = data_set((0.6, 0.5, 0.5), (700, 512, 512))
WIDE = data_set((3.0, 0.75, 0.75), (120, 512, 796))
CROPPED = data_set((2.5, 0.7, 0.8), (41, 155, 203))
PHANTOM = data_set((5.0, 3.0, 3.0), (24, 90, 110), kidney_extents_mm=((90, 57, 60),))
ALL = {
    "kits19": KITS19,
    "thick": THICK,
    "fine": FINE,
    "wide": WIDE,
    "cropped": CROPPED,
    "phantom": PHANTOM,
}

each_data_set = pytest.mark.parametrize("data", ALL.values(), ids=ALL)
each_size = pytest.mark.parametrize("size", ["standard", "small"])


@st.composite
def data_sets(draw):
    """One scan of any grid that a CT may have."""
    pixel, side, kidney = st.floats(0.3, 4.0), st.integers(20, 900), st.floats(10.0, 250.0)
    return data_set(
        (draw(st.floats(0.3, 12.0)), draw(pixel), draw(pixel)),
        (draw(st.integers(1, 1100)), draw(side), draw(side)),
        kidney_extents_mm=(draw(st.tuples(kidney, kidney, kidney)),),
    )


sizes = st.sampled_from(["standard", "small"])


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        # Paper 2.2: 2 mm and 512 pixels halved.
        (KITS19, "standard", (2.0, 1.5625, 1.5625)),
        # Half of 8 mm: 2 mm would be three made-up slices of four.
        (THICK, "standard", (4.0, 1.4, 1.6)),
        (FINE, "standard", (2.0, 1.0, 1.0)),
        # 796 / 256 on both axes, so that pixels stay square.
        (WIDE, "standard", (2.0, 2.332, 2.332)),
        # Below 256 pixels nothing is enlarged.
        (CROPPED, "standard", (2.0, 0.7, 0.8)),
        (PHANTOM, "standard", (2.5, 3.0, 3.0)),
        (KITS19, "small", (4.0, 4.1667, 4.1667)),
        (PHANTOM, "small", (4.0, 3.4375, 3.4375)),
    ],
)
def test_the_kidney_grid_is_two_mm_and_256_pixels_unless_the_data_are_coarser(data, size, expected):
    assert rules.kidney_spacing(data, size).value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        # Paper 3.1: 1 mm and the slice's own pixels.
        (KITS19, "standard", (1.0, 0.78125, 0.78125)),
        (THICK, "standard", (8 / 3, 0.7, 0.8)),
        (FINE, "standard", (1.0, 0.5, 0.5)),
        (CROPPED, "standard", (1.0, 0.7, 0.8)),
        (KITS19, "small", (4.0, 1.5, 1.5)),
        (PHANTOM, "small", (4.0, 3.0, 3.0)),
    ],
)
def test_the_tumor_grid_is_one_mm_and_own_pixels_unless_the_data_are_coarser(data, size, expected):
    assert rules.tumor_spacing(data, size).value == pytest.approx(expected, abs=1e-3)


@given(data_sets(), sizes)
def test_no_grid_is_much_finer_than_the_scan(data, size):
    z, y, x = data.median_spacing_mm
    kidney, tumor = rules.kidney_spacing(data, size).value, rules.tumor_spacing(data, size).value
    # Rounded to 0.1 micrometre.
    assert all(s >= own - 1e-4 for s, own in zip(kidney[1:] + tumor[1:], (y, x, y, x), strict=True))
    assert kidney[0] >= z / 2 - 1e-4
    assert tumor[0] >= z / 3 - 1e-4
    assert (
        max(
            n * own / s for n, own, s in zip(data.median_shape[1:], (y, x), kidney[1:], strict=True)
        )
        < 257
    )


def test_the_median_of_the_scans_counts_not_the_odd_one():
    cases = [
        case_record((spacing, 0.7, 0.8), (90, 512, 512), id=name)
        for name, spacing in (("a", 3.0), ("b", 3.0), ("c", 30.0))
    ]
    assert rules.kidney_spacing(Fingerprint(cases=tuple(cases)), "standard").value[0] == 2.0


@pytest.mark.parametrize(
    ("own", "spacing", "expected"),
    [
        ((3.0, 0.78, 0.78), (2.0, 1.56, 1.56), (1, 2, 2)),  # the paper: halved, label kept
        ((3.0, 0.78, 0.78), (2.0, 0.78, 0.78), (1, 1, 1)),
        ((3.0, 0.78, 0.78), (2.0, 1.0, 1.3), (1, 1, 2)),  # 1.28 and 1.67 times its own
        ((3.0, 0.78, 0.78), (4.0, 4.2, 4.2), (1, 2, 2)),  # 5 times: never above twice
        ((3.0, 2.0, 0.7), (2.0, 2.0, 1.4), (1, 1, 2)),
        ((1.0, 0.78, 0.78), (4.0, 0.78, 0.78), (1, 1, 1)),  # slices are not refined
    ],
)
def test_the_target_keeps_the_scans_pixels_up_to_twice_as_fine(own, spacing, expected):
    data = data_set(own, (90, 512, 512))
    assert rules.target_refinement(data, spacing).value == expected


@pytest.mark.parametrize(
    ("slice_mm", "depth"), [(0.5, 9), (1, 5), (1.3, 3), (5 / 3, 3), (2.5, 3), (4, 3), (10, 3)]
)
def test_a_slab_is_about_five_mm_and_three_slices_at_least(slice_mm, depth):
    assert rules.slab_depth(slice_mm).value == depth


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((2.0, 1.5625, 1.5625), [(2, 2, 2), (2, 2, 2), (2, 2, 2)]),
        # 5 mm and 1.6 mm: pixels are merged to 3.2 mm first.
        ((5.0, 1.6, 1.6), [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),
        # 10 mm: pixels to 6.4 mm, twice.
        ((10.0, 1.6, 1.6), [(1, 2, 2), (1, 2, 2), (2, 2, 2)]),
        ((1.0, 3.0, 3.0), [(2, 1, 1), (2, 2, 2), (2, 2, 2)]),
        ((3.2, 1.6, 1.6), [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),  # twice is not within twice
    ],
)
def test_slices_are_merged_once_pixels_are_as_coarse(spacing, expected):
    assert list(rules.strides(spacing, 4)) == expected


@given(st.tuples(st.floats(0.3, 12), st.floats(0.3, 5), st.floats(0.3, 5)), st.integers(2, 6))
def test_each_stride_merges_the_finest_axis_and_none_that_is_twice_as_coarse(spacing, levels):
    current = np.array(spacing)
    for stride in rules.strides(spacing, levels):
        assert stride[current.argmin()] == 2
        assert all(s == 1 for s, mm in zip(stride, current, strict=True) if mm >= 2 * current.min())
        current = current * stride


@each_size
@each_data_set
def test_the_kidney_network_is_the_papers_with_a_norm(data, size):
    network = rules.kidney_network(rules.kidney_spacing(data, size).value, (1, 2, 2), size).value
    assert network.levels == 4  # paper 2.1
    assert list(network.channels) == sorted(set(network.channels))
    assert (network.norm, network.activation) == ("instance", "leaky_relu")
    assert network.target_refinement == (1, 2, 2)
    assert network.channels[0] == {"standard": 16, "small": 4}[size]


@each_size
def test_the_tumor_network_has_all_four_modules_of_the_paper(size):
    network = rules.tumor_network(7, 2, size).value
    assert network.multi_scale
    assert network.squeeze_excitation
    assert network.attention_gates
    assert network.dilated_bottom
    assert (network.slab_depth, network.classes, network.kernel_size) == (7, 2, 3)
    assert network.channels[0] == {"standard": 16, "small": 12}[size]
    assert network.levels == {"standard": 5, "small": 3}[size]


def kidney_patch(data, size, memory_gib):
    spacing = rules.kidney_spacing(data, size).value
    refinement = rules.target_refinement(data, spacing).value
    network = rules.kidney_network(spacing, refinement, size).value
    memory_bytes = int(memory_gib * GIB)
    patch = rules.kidney_patch(data, spacing, network, size, memory_bytes).value
    return network, patch


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        (KITS19, "standard", (64, 256, 256)),  # paper 2.3
        # 400 mm are 100 slices of 4 mm; 512 * 0.7 mm are 256 pixels.
        (THICK, "standard", (64, 256, 256)),
        # 41 * 2.5 mm are 51.25 slices, up to a multiple of 4; 155 and 203 pixels, of 8.
        (CROPPED, "standard", (52, 160, 208)),
        # 24 * 5 mm are 48 slices of 2.5 mm; 90 and 110 pixels.
        (PHANTOM, "standard", (48, 96, 112)),
        (KITS19, "small", (24, 64, 64)),
    ],
)
def test_with_memory_enough_a_patch_is_a_scans_slices_up_to_the_papers(data, size, expected):
    assert kidney_patch(data, size, 1000)[1] == expected


@given(data_sets(), sizes, st.floats(0.2, 30))
def test_a_kidney_patch_fits_the_network_and_the_memory(data, size, memory_gib):
    network, patch = kidney_patch(data, size, memory_gib)
    assert all(n % d == 0 for n, d in zip(patch, network.divisor, strict=True))
    needed = kidney_training_bytes(network, patch, 1, "adamw")
    assert needed <= memory_gib * GIB or patch == network.divisor


def test_without_memory_for_anything_the_smallest_patch_is_left():
    network, patch = kidney_patch(KITS19, "standard", 1e-6)
    assert patch == network.divisor == (8, 8, 8)


@pytest.mark.parametrize(
    ("data", "before", "after"),
    [
        # 52 * 2 mm, 160 * 0.7 mm, 208 * 0.8 mm: X, in steps of 8.
        (CROPPED, (52, 160, 208), (52, 160, 200)),
        # 64 * 2.5 mm, 160 * 0.7 mm, 208 * 0.7 mm: Z, in steps of 4, though it has fewest voxels.
        (data_set((5.0, 0.7, 0.7), (200, 155, 203)), (64, 160, 208), (60, 160, 208)),
    ],
)
def test_the_axis_that_is_longest_in_mm_gives_way_first(data, before, after):
    network, whole = kidney_patch(data, "standard", 1000)
    needed = kidney_training_bytes(network, whole, 1, "adamw")
    _, patch = kidney_patch(data, "standard", (needed - 1) / GIB)
    assert (whole, patch) == (before, after)


@pytest.mark.parametrize(
    ("kidney_mm", "spacing", "divisor", "expected"),
    [
        # 110 + 2 * 15 mm in pixels of 0.78125 mm are 179.2; 118 + 30 are 189.4.
        ((156, 110, 118), (1.0, 0.78125, 0.78125), 16, (192, 192)),
        ((156, 60, 100), (1.0, 0.7, 0.8), 16, (144, 176)),
        ((156, 60, 100), (4.0, 1.5, 1.5), 4, (60, 88)),
        ((156, 400, 90), (1.0, 0.5, 0.5), 16, (320, 240)),  # 860 pixels are too many
    ],
)
def test_a_tumor_patch_holds_a_kidney_and_its_margin(kidney_mm, spacing, divisor, expected):
    data = data_set((3.0, 0.7, 0.8), (90, 512, 512), kidney_extents_mm=(kidney_mm,))
    assert rules.tumor_patch(data, spacing, divisor).value == expected


def test_batches_are_as_large_as_the_memory_and_the_limit_allow():
    network, patch = kidney_patch(CROPPED, "standard", 1000)
    three = kidney_training_bytes(network, patch, 3, "adamw")
    assert rules.kidney_batch(network, patch, 9, three) == 3
    assert rules.kidney_batch(network, patch, 2, three) == 2
    tumor = rules.tumor_network(5, 1, "small").value
    seven = tumor_training_bytes(tumor, (64, 96), 7, "adamw")
    assert rules.tumor_batch(tumor, (64, 96), 99, seven) == 7
    assert rules.tumor_batch(tumor, (64, 96), 99, seven - 1) == 6


def test_the_hu_window_is_where_the_foreground_lies():
    data = data_set((3.0, 0.7, 0.8), (90, 512, 512), foreground_histogram=normal_histogram(87, 54))
    window = rules.hu_window(data).value
    low, high = norm.ppf((0.005, 0.995), 87, 54)
    assert window.low_hu == pytest.approx(low, abs=HU_BIN)
    assert window.high_hu == pytest.approx(high, abs=HU_BIN)
    assert window.center_hu == pytest.approx(87, abs=1)
    assert window.scale_hu == pytest.approx(54, abs=1)
    assert not window.per_slice


def test_foreground_of_a_single_hu_still_has_a_window():
    data = data_set((3.0, 0.7, 0.8), (90, 512, 512), foreground_histogram={40: 12})
    window = rules.hu_window(data).value
    assert window.low_hu < window.high_hu
    assert (window.center_hu, window.scale_hu) == (43.5, 1.0)  # whole HU 40 ... 47


@each_size
@each_data_set
def test_every_choice_has_a_reason_of_one_line(data, size):
    plan = plan_dataset(data, name="any", size=size)
    for stage in (plan.kidney, plan.tumor):
        assert set(stage.why) == set(stage.__struct_fields__) - {"why"}
        for why in stage.why.values():
            assert len(why) > 10
            assert "\n" not in why


@pytest.mark.parametrize("memory_gib", [4, 11, 24])
@each_size
@each_data_set
def test_a_training_takes_no_more_than_the_memory_given(data, size, memory_gib):
    plan = plan_dataset(data, name="any", memory_gib=memory_gib, size=size)
    kidney, tumor = plan.kidney, plan.tumor
    for needed in (
        kidney_training_bytes(
            kidney.network, kidney.patch_size, kidney.schedule.batch_size, "adamw"
        ),
        tumor_training_bytes(tumor.network, tumor.patch_size, tumor.schedule.batch_size, "adamw"),
    ):
        assert needed <= memory_gib * GIB


@each_data_set
def test_more_memory_never_gives_smaller_patches_or_batches(data):
    plans = [plan_dataset(data, name="any", memory_gib=gib) for gib in (1, 2, 4, 8, 11, 24, 80)]
    patches = np.array([plan.kidney.patch_size for plan in plans])
    assert (np.diff(patches, axis=0) >= 0).all()
    for batches in (
        [plan.kidney.schedule.batch_size for plan in plans],
        [plan.tumor.schedule.batch_size for plan in plans],
    ):
        assert batches == sorted(batches)


def test_kits19_in_11_gib_trains_on_the_papers_patch():
    plan = plan_dataset(KITS19, name="default")
    assert plan.kidney.patch_size == (64, 256, 256)
    assert plan.kidney.network.target_refinement == (1, 2, 2)
    assert (plan.tumor.patch_size, plan.tumor.slab_depth) == ((192, 192), 5)
    assert plan.folds == 5
    assert plan.tumor.components == "all"


def test_small_trainings_are_predicted_with_fewer_windows():
    patch = (24, 64, 48)
    assert rules.window_stride(patch, "standard").value == (12, 32, 24)
    assert rules.window_stride(patch, "small").value == (18, 48, 36)
    assert rules.window_stride((1, 1, 1), "small").value == (1, 1, 1)


@given(data_sets(), sizes, st.floats(0.3, 40))
def test_any_data_set_gets_a_plan_that_holds_together(data, size, memory_gib):
    plan = plan_dataset(data, name="any", memory_gib=memory_gib, size=size)
    # The plan's own checks ran when it was made; these two it leaves to the planner.
    kidney = plan.kidney
    assert all(1 <= s <= n for s, n in zip(kidney.window_stride, kidney.patch_size, strict=True))
    assert plan.tumor.mask_dilation_mm <= plan.tumor.roi_margin_mm


@pytest.mark.parametrize(
    ("values", "present", "expected"),
    [
        (Labels(cyst=3), (1, 2), Labels()),  # KiTS19
        (Labels(cyst=3), (1, 2, 3), Labels(cyst=3)),  # KiTS21 and 23
        (Labels(kidney=4, tumor=9, cyst=2), (2, 4, 9), Labels(kidney=4, tumor=9, cyst=2)),
        (Labels(kidney=4, tumor=3), (3, 4), Labels(kidney=4, tumor=3)),
    ],
)
def test_cysts_are_a_class_where_they_are_labelled(values, present, expected):
    data = data_set((3.0, 0.7, 0.8), (90, 512, 512), label_values=present, values=values)
    plan = plan_dataset(data, name="any")
    assert plan.labels == expected
    assert plan.tumor.network.classes == len(expected.values) - 1


def test_a_plan_carries_the_hash_of_what_it_was_made_from():
    a, b = (plan_dataset(data, name="any").fingerprint_sha256 for data in (CROPPED, PHANTOM))
    assert a != b
    assert plan_dataset(CROPPED, name="other").fingerprint_sha256 == a


def test_the_losses_are_the_papers():
    kidney, tumor = recipes.kidney_loss().value, recipes.tumor_loss().value
    assert (kidney.mu, kidney.mu_decay) == (0.33, 0.8)
    assert kidney.mu_every == pytest.approx(15 / 500)
    assert tumor.focal_weight == tumor.dice_weight > 0
    assert tumor.alpha > 0.5  # toward the rare tumor
    assert tumor.foreground_weight > tumor.background_weight


def test_sampling_shows_tumors_hard_places_and_the_rest():
    sampling = recipes.tumor_sampling("standard").value
    rest = 1 - sampling.positive_share - sampling.hard_share
    assert min(sampling.positive_share, sampling.hard_share, rest) > 0.1
    assert sampling.hard_case_strength > 0
    assert 0 < sampling.mask_jitter_mm < min(rules.MASK_DILATION_MM.values())
    assert recipes.kidney_sampling().value.margin_mm is None  # chest and pelvis are seen too


@each_size
def test_augmentation_has_everything_that_the_paper_names(size):
    tumor, kidney = recipes.tumor_augmentation(size).value, recipes.kidney_augmentation().value
    assert "x" in kidney.mirror_axes  # 2.2; 3.1 has the rest
    assert min(tumor.rotation_probability, tumor.rotation_degrees, tumor.translation_share) > 0
    assert tumor.scale_probability > 0
    assert tumor.scale[0] < 1 < tumor.scale[1]
    assert min(tumor.equalization_probability, tumor.blur_probability) > 0


def test_a_small_training_has_a_twentieth_of_the_steps_at_most():
    for schedule in (recipes.kidney_schedule, recipes.tumor_schedule):
        standard, small = schedule("standard", 3).value, schedule("small", 3).value
        assert standard.batch_size == small.batch_size == 3
        assert 20 * math.prod((small.epochs, small.steps_per_epoch)) <= math.prod(
            (standard.epochs, standard.steps_per_epoch)
        )
