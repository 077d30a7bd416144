"""The shipped plan, value by value against the paper, as docs/plan.md reads it."""

import re

import pytest

from kitspipe.planning.memory import kidney_parameters, tumor_parameters
from kitspipe.planning.plan import HUWindow, Labels
from kitspipe.planning.planner import read_plan
from kitspipe.planning.splits import PAPER_VALIDATION, make_splits
from kitspipe.workspace import Workspace


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Read as a user's workspace reads it, which has no such file."""
    return read_plan(Workspace(root=tmp_path_factory.mktemp("home"), plan_name="kits19_paper"))


def test_it_is_made_for_kits19_whatever_the_fingerprint(plan):
    assert plan.name == "kits19_paper"
    assert plan.fingerprint_sha256 is None
    assert plan.labels == Labels(kidney=1, tumor=2, cyst=None)


def test_cases_0_to_194_train_and_the_rest_validate_as_in_3_1(plan):
    ids = [f"case_{number:05d}" for number in range(210)]
    (fold,) = make_splits(ids, plan.folds, plan.seed).folds
    assert fold.validation == tuple(f"case_{number:05d}" for number in PAPER_VALIDATION)
    assert fold.train == tuple(ids[:195])


def test_2_1_four_levels_in_encoder_and_decoder(plan):
    network = plan.kidney.network
    assert network.levels == 4
    assert network.strides == ((2, 2, 2),) * 3


def test_2_1_blocks_are_those_of_the_code_that_the_paper_follows(plan):
    network = plan.kidney.network
    assert network.channels == (16, 32, 64, 128)
    assert network.convolutions_per_level == (2, 3, 3, 3)
    assert (network.norm, network.activation, network.dropout) == ("none", "prelu", 0.3)


def test_2_1_maps_have_the_annotations_own_pixels(plan):
    assert plan.kidney.network.target_refinement == (1, 2, 2)


def test_2_1_mu_starts_at_a_third_and_falls_to_80_percent_per_15_of_500_epochs(plan):
    loss = plan.kidney.loss
    assert (loss.mu, loss.mu_decay) == (0.33, 0.8)
    assert loss.mu_every * plan.kidney.schedule.epochs == pytest.approx(15)
    assert loss.squared_denominator
    assert loss.cross_entropy_weight == 0


def test_2_2_layers_of_2_mm_and_half_the_pixels(plan):
    assert plan.kidney.target_spacing_mm == (2.0, "x2", "x2")


def test_2_2_fifty_layers_above_and_below_the_kidneys_are_kept(plan):
    assert plan.kidney.sampling.margin_mm == 50 * plan.kidney.target_spacing_mm[0]


def test_2_2_cases_are_mirrored_and_nothing_else(plan):
    augmentation = plan.kidney.augmentation
    assert augmentation.mirror_axes == ("x",)
    assert augmentation.rotation_probability == augmentation.scale_probability == 0
    assert augmentation.equalization_probability == augmentation.blur_probability == 0


def test_2_2_hu_are_those_of_the_code_that_the_paper_follows(plan):
    assert plan.kidney.hu_window == HUWindow(low_hu=-200, high_hu=200, center_hu=0, scale_hu=200)


def test_2_3_64_random_layers_of_each_case_once_in_each_of_500_epochs(plan):
    kidney = plan.kidney
    assert kidney.patch_size == (64, 256, 256)
    assert kidney.sampling.foreground_share == 0
    assert kidney.schedule.epochs == 500
    assert kidney.schedule.steps_per_epoch is None
    assert kidney.schedule.batch_size == 1


def test_2_3_the_optimizer_is_that_of_the_code_that_the_paper_follows(plan):
    for stage in (plan.kidney, plan.tumor):
        schedule = stage.schedule
        assert (schedule.optimizer, schedule.learning_rate) == ("adam", 1e-4)
        assert (schedule.decay, schedule.weight_decay) == ("steps", 0)
        assert schedule.gradient_clip is None


def test_2_4_windows_lie_32_layers_apart_and_their_middle_is_kept(plan):
    kidney = plan.kidney
    assert kidney.window_stride == (32, 256, 256)
    assert kidney.window_blend == "center"


def test_kidneys_below_10_ml_are_dropped(plan):
    assert plan.kidney.minimal_kidney_ml == 10


def test_3_1_layers_of_1_mm_and_whole_slices_of_512_pixels(plan):
    tumor = plan.tumor
    assert tumor.target_spacing_mm == (1.0, "x1", "x1")
    assert tumor.patch_size == (512, 512)
    assert tumor.roi_margin_mm is None


def test_3_1_hu_are_a_window_of_level_45_and_width_400_scaled_to_0_and_1(plan):
    window = plan.tumor.hu_window
    assert (window.low_hu + window.high_hu) / 2 == 45
    assert window.high_hu - window.low_hu == 400
    scaled = [(hu - window.center_hu) / window.scale_hu for hu in (window.low_hu, window.high_hu)]
    assert scaled == [0, 1]
    assert not window.per_slice


def test_3_1_slabs_are_rotated_translated_cut_equalized_and_blurred(plan):
    augmentation = plan.tumor.augmentation
    assert augmentation.rotation_degrees == 15
    assert augmentation.translation_share == 0.1
    assert augmentation.scale == (0.8, 1.25)
    for probability in ("rotation", "scale", "equalization", "blur"):
        assert getattr(augmentation, f"{probability}_probability") > 0
    assert augmentation.mirror_axes == ()  # not in the list of 3.1


def test_3_1_masks_of_the_training_are_made_as_wrong_as_predicted_ones(plan):
    # Up to 5 mm in training, 5 to 10 mm around the predicted mask.
    assert plan.tumor.sampling.mask_jitter_mm == 5
    assert plan.tumor.sampling.jittered_mask_share == 0.5
    assert 5 <= plan.tumor.mask_dilation_mm <= 10


def test_3_2_a_vnet_on_slabs_with_all_four_modules(plan):
    network = plan.tumor.network
    assert (network.levels, network.channels) == (5, (16, 32, 64, 128, 256))
    assert network.convolutions_per_level == (1, 2, 3, 3, 3)
    assert network.kernel_size == 5
    assert plan.tumor.slab_depth == network.slab_depth == 5
    assert network.multi_scale
    assert network.squeeze_excitation
    assert network.attention_gates
    assert network.dilated_bottom
    assert network.norm in ("instance", "batch")
    assert network.classes == 1


def test_3_3_focal_and_weighted_dice_loss_in_equal_parts(plan):
    loss = plan.tumor.loss
    assert (loss.focal_weight, loss.dice_weight) == (1, 1)
    assert (loss.gamma, loss.alpha, loss.prior) == (2, 0.75, 0.01)
    assert (loss.foreground_weight, loss.background_weight) == (1, 0.1)


def test_3_4_hard_samples_are_drawn_again(plan):
    sampling = plan.tumor.sampling
    assert (sampling.positive_share, sampling.hard_share) == (0.5, 0.3)
    assert sampling.hard_case_strength == 2  # the worst case three times as often
    assert 0 < sampling.hard_case_warmup < 1


def test_3_4_the_tumor_schedule_sees_each_slice_with_kidney_at_least_ten_times(plan):
    schedule = plan.tumor.schedule
    assert schedule.batch_size in (1, 2)
    # KiTS19's kidneys are 130 mm from top to bottom in the median, 195 cases train.
    slices = 195 * 130 / plan.tumor.target_spacing_mm[0]
    assert schedule.epochs * schedule.steps_per_epoch * schedule.batch_size >= 10 * slices


def test_3_5_the_largest_component_is_the_tumor(plan):
    assert plan.tumor.components == "largest"
    assert plan.tumor.threshold == 0.5
    assert plan.tumor.minimal_tumor_ml == plan.tumor.minimal_healthy_ml == 0


@pytest.mark.parametrize("stage", ["kidney", "tumor"])
def test_every_reason_names_its_section_of_the_paper(plan, stage):
    section = {"kidney": r"paper 2\.[1-4]", "tumor": r"paper 3(\.[1-5])?"}[stage]
    reasons = getattr(plan, stage).why
    assert [field for field, why in reasons.items() if not re.search(section, why)] == []


def test_the_schedules_say_what_to_expect(plan):
    assert "25 h" in plan.kidney.why["schedule"]  # paper 2.3
    assert "about 0.7" in plan.tumor.why["schedule"]  # paper 3.4


def test_the_networks_are_of_the_size_that_their_figures_have(plan):
    # By hand, the kernels of 3x3x3 alone: 27 * (1*16 + 16*16) + 27 * 3 * (32^2 + 64^2 + 128^2) in
    # the encoder, 27 * (128*256 + 2*256^2 + 128*256) at the bottom of the decoder, and on the way
    # up 27 * ((C+F)*C + 2*C^2) for (C, F) = (128, 64), (64, 32) and 27 * (48*32 + 32^2).
    encoder = 27 * (16 + 256 + 3 * (32**2 + 64**2 + 128**2))
    decoder = 27 * (2 * 128 * 256 + 2 * 256**2)
    decoder += 27 * sum((c + f) * c + 2 * c * c for c, f in ((128, 64), (64, 32)))
    decoder += 27 * (48 * 32 + 32**2)
    kernels = encoder + decoder
    assert kernels < kidney_parameters(plan.kidney.network) < 1.1 * kernels
    assert 1e6 < tumor_parameters(plan.tumor.network) < 5e7
