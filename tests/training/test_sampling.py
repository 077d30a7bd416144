from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_plans import SCHEDULE, small_kidney_plan, small_tumor_plan

from kitspipe.imaging.volume import Grid
from kitspipe.planning.plan import KidneySampling, TumorSampling
from kitspipe.preprocessing.store import TrainingCase
from kitspipe.training.sampling import (
    CaseDifficulty,
    KidneySampler,
    TumorSampler,
    samples_per_epoch,
)


def case(case_id, region="scan", shape=(40, 64, 70), **points):
    return TrainingCase(
        case_id=case_id,
        region=region,
        key="",
        folder=Path("nowhere"),
        grid=Grid(shape=shape, spacing=(5.0, 2.5, 2.0)),
        refinement=(1, 1, 1),
        points={name: np.asarray(p, np.int32).reshape(-1, 3) for name, p in points.items()},
    )


def kidney_cases(n=5):
    return [case(f"case_{i:05d}", kidney=[[20, 30, 20], [24, 33, 50]]) for i in range(n)]


def tumor_cases():
    return [
        case("a", "right", kidney=[[5, 30, 30]], tumor=[[6, 31, 31]], cyst=[]),
        case("a", "left", kidney=[[5, 20, 20]], tumor=[], cyst=[]),
        case("b", "right", kidney=[[9, 10, 40]], tumor=[], cyst=[[10, 12, 44]]),
        case("b", "left", kidney=[[9, 10, 10]], tumor=[[11, 11, 11]], cyst=[]),
    ]


def test_an_epoch_without_steps_shows_every_case_once():
    schedule = msgspec.structs.replace(SCHEDULE, steps_per_epoch=None, batch_size=2)
    # 5 cases in batches of 2: three batches.
    assert samples_per_epoch(schedule, 5) == 6


@given(epoch=st.integers(0, 50), cases=st.integers(1, 7))
def test_every_round_shows_every_case_once(epoch, cases):
    plan = small_kidney_plan(
        schedule=msgspec.structs.replace(SCHEDULE, steps_per_epoch=cases, batch_size=1)
    )
    sampler = KidneySampler(kidney_cases(cases), plan, seed=3)
    drawn = [sampler.request(epoch, sample).region for sample in range(cases)]
    assert sorted(drawn) == list(range(cases))


def test_the_same_key_gives_the_same_patch_in_any_order():
    forward = [
        KidneySampler(kidney_cases(), small_kidney_plan(), 1).request(3, s) for s in range(6)
    ]
    sampler = KidneySampler(kidney_cases(), small_kidney_plan(), 1)
    backward = [sampler.request(3, s) for s in reversed(range(6))]
    assert forward == backward[::-1]


def test_another_seed_gives_other_patches():
    draws = {
        seed: tuple(
            KidneySampler(kidney_cases(), small_kidney_plan(), seed).request(0, s).box.start
            for s in range(6)
        )
        for seed in range(4)
    }
    assert len(set(draws.values())) == 4


def test_kidney_patches_stay_near_the_kidneys_slices():
    plan = small_kidney_plan(sampling=KidneySampling(margin_mm=30.0, foreground_share=0.0))
    sampler = KidneySampler(kidney_cases(), plan, 0)
    for sample in range(60):
        box = sampler.request(0, sample).box
        # Kidney in slices 20 to 24, 30 mm are 6 slices.
        assert box.start[0] >= 14
        assert box.stop[0] <= 31
        assert box.shape == (8, 32, 32)


def test_a_foreground_patch_holds_a_kidney_voxel():
    plan = small_kidney_plan(sampling=KidneySampling(margin_mm=None, foreground_share=1.0))
    cases = kidney_cases()
    sampler = KidneySampler(cases, plan, 0)
    for sample in range(60):
        request = sampler.request(0, sample)
        points = cases[request.region].points["kidney"]
        inside = (points >= request.box.start) & (points < request.box.stop)
        assert inside.all(axis=1).any()


def test_a_short_scan_lies_in_the_middle_of_its_patch():
    short = case("a", shape=(5, 64, 70), kidney=[[2, 30, 30]])
    box = KidneySampler([short], small_kidney_plan(), 0).request(0, 0).box
    assert (box.start[0], box.stop[0]) == (-1, 7)


def shares(**edits):
    values = {
        "positive_share": 0.0,
        "hard_share": 0.0,
        "hard_case_warmup": 0.5,
        "hard_case_every": 0.5,
        "hard_case_strength": 2.0,
        "out_of_fold_share": 0.0,
        "jittered_mask_share": 0.0,
        "mask_jitter_mm": 3.0,
    }
    return small_tumor_plan(sampling=TumorSampling(**values | edits))


def middle(request):
    return request.box.start[0] + 1


@pytest.mark.parametrize(
    ("edits", "middles"),
    [
        ({"positive_share": 1.0}, {("a", 6), ("b", 11)}),
        # Case a has no cyst and no false tumor yet: any kidney slice of it.
        ({"hard_share": 1.0}, {("a", 5), ("b", 10)}),
        ({}, {("a", 5), ("b", 9)}),
    ],
)
def test_slabs_are_drawn_around_what_the_shares_ask_for(edits, middles):
    cases = tumor_cases()
    sampler = TumorSampler(cases, shares(**edits), 0)
    requests = [sampler.request(0, sample) for sample in range(80)]
    assert {(cases[r.region].case_id, middle(r)) for r in requests} == middles


def test_false_tumors_become_hard_places():
    cases = tumor_cases()
    sampler = TumorSampler(cases, shares(hard_share=1.0), 0)
    false = np.array([[17, 20, 20]], np.int32)
    sampler.update(
        [
            CaseDifficulty(
                case_id="a", dice=0.1, false_positive_ml=3, false_points={"left": false}
            ),
            CaseDifficulty(case_id="b", dice=0.9, false_positive_ml=0, false_points={}),
        ]
    )
    drawn = {
        middle(r) for s in range(80) if cases[(r := sampler.request(1, s)).region].name == "a/left"
    }
    assert drawn == {17}


def test_the_hardest_case_is_drawn_as_often_as_its_weight_says():
    cases = tumor_cases()
    sampler = TumorSampler(cases, shares(), 0)
    sampler.update(
        [
            CaseDifficulty(case_id="a", dice=0.1, false_positive_ml=3, false_points={}),
            CaseDifficulty(case_id="b", dice=0.9, false_positive_ml=0, false_points={}),
        ]
    )
    assert sampler.weights == {"a": 3.0, "b": 1.0}
    of_a = np.mean([cases[sampler.request(0, s).region].case_id == "a" for s in range(2000)])
    assert of_a == pytest.approx(0.75, abs=0.04)


def test_equal_cases_keep_equal_weights():
    sampler = TumorSampler(tumor_cases(), shares(), 0)
    sampler.update(
        [
            CaseDifficulty(case_id=name, dice=0.5, false_positive_ml=1, false_points={})
            for name in "ab"
        ]
    )
    assert set(sampler.weights.values()) == {1.0}


def test_a_restored_sampler_goes_on_as_the_first():
    first = TumorSampler(tumor_cases(), shares(hard_share=0.5), 0)
    first.update(
        [
            CaseDifficulty(
                case_id="a",
                dice=float("nan"),
                false_positive_ml=3,
                false_points={"left": np.array([[17, 20, 20]], np.int32)},
            ),
            CaseDifficulty(case_id="b", dice=0.9, false_positive_ml=0, false_points={}),
        ]
    )
    second = TumorSampler(tumor_cases(), shares(hard_share=0.5), 0)
    second.restore(msgspec.json.decode(msgspec.json.encode(first.state())))
    assert [first.request(2, s) for s in range(40)] == [second.request(2, s) for s in range(40)]


def test_masks_are_jittered_in_the_plans_share():
    sampler = TumorSampler(tumor_cases(), shares(jittered_mask_share=0.25), 0)
    jitters = [sampler.request(0, s).mask_jitter_mm for s in range(2000)]
    assert set(jitters) == {0.0, 3.0}
    assert np.mean(np.array(jitters) > 0) == pytest.approx(0.25, abs=0.04)
