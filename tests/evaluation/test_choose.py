import msgspec
import numpy as np
import pytest
from small_plans import small_plan, small_tumor_plan

from kitspipe.evaluation.choose import CANDIDATES, choice_of, margins_of
from kitspipe.evaluation.held_out import HeldOut, Packed, decide
from kitspipe.imaging.volume import Grid

GRID = Grid(shape=(8, 24, 24), spacing=(2.0, 2.5, 2.0))  # 0.01 ml a voxel
PLAN = small_plan(
    tumor=small_tumor_plan(mask_dilation_mm=5.0, threshold=0.5, minimal_tumor_ml=0.0), cyst=None
)
TUMOR = np.s_[2:6, 4:12, 4:12]  # 256 voxels
KIDNEY = np.s_[1:7, 2:14, 2:14]


def held_out(number, probability, fold=0):
    """A case with one tumor, and the same probability whatever the margin."""
    kidney, tumor = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    kidney[KIDNEY], tumor[TUMOR] = 1, 1
    packed = Packed.of(np.rint(probability[None] * 255).astype(np.uint8))
    return HeldOut(
        case_id=f"case_{number:05d}",
        fold=fold,
        grid=GRID,
        kidney=Packed.of(kidney),
        tumor=Packed.of(tumor),
        missed_voxels=0,
        maps=dict.fromkeys(margins_of(PLAN.tumor), packed),
    )


def seen(tumor=0.9, **elsewhere):
    probability = np.zeros(GRID.shape, np.float32)
    probability[TUMOR] = tumor
    for value, where in elsewhere.values():
        probability[where] = value
    return probability


def test_a_score_is_dice_by_its_formula_and_counts_components_that_touch_no_tumor():
    # 256 true voxels, of which half are seen; a false tumor of 0.18 ml, a speck of 0.04 ml.
    half = np.s_[4:6, 4:12, 4:12]
    probability = seen(
        0.0, half=(0.9, half), a=(0.9, np.s_[2:4, 16:19, 16:19]), b=(0.9, np.s_[7, 20:22, 1:3])
    )
    decided = decide(held_out(0, probability), PLAN.tumor)
    assert decided.dice == pytest.approx(2 * 128 / (128 + 18 + 4 + 256))
    assert decided.false_tumors == 1


def test_tumor_outside_of_all_predicted_kidneys_counts_as_missed():
    case = held_out(0, seen())
    lost = HeldOut(
        **{name: getattr(case, name) for name in HeldOut.__slots__} | {"missed_voxels": 256}
    )
    assert decide(lost, PLAN.tumor).dice == pytest.approx(2 * 256 / (256 + 512))


@pytest.mark.parametrize(("missed", "dice"), [(0, 1.0), (7, 0.0)])
def test_without_a_predicted_kidney_nothing_is_found(missed, dice):
    empty = Packed.of(np.zeros((0, 0, 0), np.uint8))
    case = HeldOut(
        case_id="a", fold=0, grid=None, kidney=empty, tumor=empty, missed_voxels=missed, maps={}
    )
    assert decide(case, PLAN.tumor).dice == dice


def test_nothing_is_changed_where_nothing_helps():
    choice = choice_of([held_out(n, seen()) for n in range(6)], PLAN)
    tumor = PLAN.tumor
    assert (choice.mask_dilation_mm, choice.threshold, choice.components) == (5.0, 0.5, "all")
    assert choice.minimal_tumor_ml == tumor.minimal_tumor_ml
    assert not any(trial.taken for trial in choice.trials)
    assert {trial.rule for trial in choice.trials} == set(CANDIDATES)


def test_a_threshold_that_finds_more_is_taken():
    choice = choice_of([held_out(n, seen(0.45)) for n in range(6)], PLAN)
    assert choice.threshold == 0.2
    assert "instead of 0.5" in choice.why["threshold"]
    [taken] = [trial for trial in choice.trials if trial.taken]
    assert taken.gain == pytest.approx(1.0)


def test_false_tumors_away_from_the_kidney_are_ended_by_the_rule_for_them():
    false = (0.9, np.s_[2:4, 18:23, 18:23])  # 0.5 ml, ten voxels from the kidney
    choice = choice_of([held_out(n, seen(false=false)) for n in range(6)], PLAN)
    assert choice.components in {"touching_kidney", "largest_per_kidney", "largest"}
    plan = choice.applied(PLAN).tumor
    assert decide(held_out(0, seen(false=false)), plan).false_tumors == 0


def test_what_helps_in_one_case_of_six_is_chance():
    false = (0.9, np.s_[2:4, 18:23, 18:23])
    cases = [held_out(0, seen(false=false)), *(held_out(n, seen()) for n in range(1, 6))]
    assert choice_of(cases, PLAN).components == "all"


def test_a_fold_that_did_not_learn_is_left_out():
    cases = [held_out(n, seen(0.0 if n == 3 else 0.9), fold=n) for n in range(5)]
    choice = choice_of(cases, PLAN, {0: 0.95, 1: 0.94, 2: 0.1, 3: 0.96, 4: 0.95})
    assert choice.left_out == {"kidney": (2,), "tumor": (3,)}


def test_chosen_values_stand_in_place_of_the_plans_and_nothing_else_changes():
    choice = choice_of([held_out(n, seen(0.45)) for n in range(6)], PLAN)
    applied = choice.applied(PLAN)
    back = msgspec.structs.replace(applied.tumor, threshold=PLAN.tumor.threshold)
    assert msgspec.structs.replace(applied, tumor=back) == PLAN
