import math

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_plans import SCHEDULE
from small_training import (
    IDS,
    PLAN,
    StopAfter,
    assert_equal,
    records,
    timeless,
    trainer,
    weights,
)

from kitspipe.errors import UserError
from kitspipe.networks.weights import load_checkpoint
from kitspipe.training.checkpoints import BEST, FINAL, LAST, PREVIOUS
from kitspipe.training.stopping import StopSignal


def good_at_the_first(network, region):
    """Finds the tumor of the first case and nothing in the second."""
    tumor = region.read_target(region.whole) == 1
    return tumor if region.case_id == IDS[0] else np.zeros_like(tumor)


@pytest.mark.parametrize("stage", ["kidney", "tumor"])
def test_stopped_and_resumed_equals_never_stopped(place, tmp_path, stage):
    assert trainer(place, tmp_path / "whole", stage).run(StopSignal())
    # Two epochs of three steps: stop within the first, at its end, and within the second.
    for looks in (1, 3, 2):
        stopped = trainer(place, tmp_path / "parts", stage)
        if stopped.run(StopAfter(looks)):
            break
    assert trainer(place, tmp_path / "parts", stage).run(StopSignal())
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_weights_do_not_depend_on_the_number_of_workers(place, tmp_path):
    for name, workers in (("none", 0), ("two", 2)):
        trainer(place, tmp_path / name, "tumor", workers=workers).run(StopSignal())
    assert_equal(weights(tmp_path / "none"), weights(tmp_path / "two"))


def test_a_fold_holds_its_checkpoints_log_and_picture(place, tmp_path):
    trainer(place, tmp_path, "kidney").run(StopSignal())
    names = {file.name for file in tmp_path.iterdir()}
    assert (
        {LAST, FINAL, "log.jsonl", "progress.png"}
        <= names
        <= {
            LAST,
            PREVIOUS,
            FINAL,
            BEST,
            "log.jsonl",
            "progress.png",
        }
    )


def test_hard_cases_are_weighed_after_the_warm_up(place, tmp_path):
    started = trainer(place, tmp_path, "tumor", predict=good_at_the_first)
    # 2 epochs, warm-up one half: weighed once, at the start of the second.
    assert started.task.hard_cases.epochs == {1}
    started.run(StopSignal())
    weights = started.task.sampler.weights
    assert weights == {IDS[0]: 1.0, IDS[1]: 3.0}
    assert load_checkpoint(tmp_path / LAST).state["sampler"]["weights"] == weights


def test_a_loss_that_is_not_finite_names_its_cases_and_keeps_the_checkpoint(place, tmp_path):
    trainer(place, tmp_path, "kidney").run(StopAfter(4))
    before = (tmp_path / LAST).read_bytes()
    broken = trainer(place, tmp_path, "kidney")
    with torch.no_grad():
        next(broken.learner.network.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match=r"nan in epoch \d on case_0000\d/scan"):
        broken.run(StopSignal())
    assert (tmp_path / LAST).read_bytes() == before


def test_a_training_with_another_plan_is_not_gone_on_with(place, tmp_path):
    trainer(place, tmp_path, "kidney").run(StopAfter(1))
    schedule = msgspec.structs.replace(SCHEDULE, learning_rate=5e-4)
    kidney = msgspec.structs.replace(PLAN.kidney, schedule=schedule)
    with pytest.raises(UserError, match="another plan"):
        trainer(place, tmp_path, "kidney", plan=msgspec.structs.replace(PLAN, kidney=kidney))


def test_a_changed_plan_value_changes_what_is_trained(place, tmp_path):
    loss = msgspec.structs.replace(PLAN.tumor.loss, alpha=0.25)
    tumor = msgspec.structs.replace(PLAN.tumor, loss=loss)
    trainer(place, tmp_path / "a", "tumor").run(StopAfter(2))
    trainer(place, tmp_path / "b", "tumor", plan=msgspec.structs.replace(PLAN, tumor=tumor)).run(
        StopAfter(2)
    )
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("every_s", "before"), [(-1.0, 2), (600.0, 0)])
def test_a_long_epoch_has_a_checkpoint_every_ten_minutes(
    place, tmp_path, monkeypatch, every_s, before
):
    monkeypatch.setattr("kitspipe.training.trainer._CHECKPOINT_EVERY_S", every_s)
    trainer(place, tmp_path, "tumor").run(StopAfter(2))
    steps = [load_checkpoint(tmp_path / n).state["progress"]["step"] for n in (LAST, PREVIOUS)]
    assert steps == [3, before]


class Seconds:
    """A clock that moves by one whenever it is looked at."""

    def __init__(self):
        self._now = 0.0

    def __call__(self):
        self._now += 1.0
        return self._now


def test_a_shorter_training_ends_with_its_schedule(place, tmp_path):
    for name, epochs in (("planned", None), ("short", 1), ("long", 4)):
        trainer(place, tmp_path / name, "kidney", epochs=epochs).run(StopSignal())
        log = records(tmp_path / name)
        assert len(log) == (epochs or SCHEDULE.epochs)
        assert log[-1]["share_done"] == 1.0
        # A cosine that is at its end: the last step was made with what is left before that.
        last = (3 * len(log) - 1) / (3 * len(log))
        expected = SCHEDULE.learning_rate * 0.5 * (1 + math.cos(math.pi * last))
        assert log[-1]["learning_rate"] == pytest.approx(expected)
        assert (tmp_path / name / FINAL).exists()


def test_a_training_with_a_time_ends_with_its_schedule_then(place, tmp_path):
    # A second per step and one per validation: an epoch of 3 steps takes 4.
    timed = trainer(place, tmp_path, "kidney", epochs=1000, max_seconds=10, clock=Seconds())
    assert timed.run(StopSignal())
    assert timed.progress.ended == "time"
    log = records(tmp_path)
    assert [record["steps"] for record in log] == [3, 3, 2]
    assert log[-1]["share_done"] == 1.0
    assert sum(record["seconds"] for record in log) == 11
    shares = [share for record in log for _, share in record["shares"]]
    assert shares == pytest.approx([0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9])
    expected = SCHEDULE.learning_rate * 0.5 * (1 + math.cos(math.pi * 0.9))
    assert log[-1]["learning_rate"] == pytest.approx(expected)


def test_time_is_counted_over_all_starts(place, tmp_path):
    first = trainer(place, tmp_path, "kidney", epochs=1000, max_seconds=10, clock=Seconds())
    assert not first.run(StopAfter(1))
    # The limit is remembered; that the clock began anew does not matter.
    second = trainer(place, tmp_path, "kidney", clock=Seconds())
    assert second.run(StopSignal())
    assert sum(record["seconds"] for record in records(tmp_path)) == 11


def test_patience_ends_a_training_that_gets_no_better_with_its_best_weights(place, tmp_path):
    schedule = msgspec.structs.replace(SCHEDULE, learning_rate=1e-12, epochs=50)
    kidney = msgspec.structs.replace(PLAN.kidney, schedule=schedule)
    plan = msgspec.structs.replace(PLAN, kidney=kidney)
    patient = trainer(place, tmp_path, "kidney", plan=plan, patience=3)
    assert patient.run(StopSignal())
    assert patient.progress.ended == "patience"
    best = patient.progress.best_epoch
    assert len(records(tmp_path)) == best + 3 < 50
    assert_equal(load_file(tmp_path / FINAL), load_file(tmp_path / BEST))


def test_a_file_named_stop_stops_it_and_is_gone_then(place, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(place, whole, "tumor").run(StopSignal())
    parts.mkdir()
    (parts / "stop").touch()
    assert not trainer(place, parts, "tumor").run(StopSignal())
    assert not (parts / "stop").exists()
    assert load_checkpoint(parts / LAST).state["progress"]["step"] == 1
    assert trainer(place, parts, "tumor").run(StopSignal())
    assert_equal(weights(whole), weights(parts))


def test_settings_are_remembered_and_a_change_is_said(place, tmp_path, capsys):
    trainer(place, tmp_path, "kidney", epochs=5, patience=4).run(StopAfter(1))
    assert trainer(place, tmp_path, "kidney").settings.record() == {
        "epochs": 5,
        "max_seconds": None,
        "patience": 4,
        "precision": None,
        "compiled": None,
    }
    capsys.readouterr()
    assert trainer(place, tmp_path, "kidney", epochs=3).epochs == 3
    assert "epochs 5 -> 3" in capsys.readouterr().out


def test_first_weights_are_taken_from_another_model(place, tmp_path):
    trainer(place, tmp_path / "first", "kidney").run(StopSignal())
    warm = trainer(place, tmp_path / "warm", "kidney", init_from=tmp_path / "first")
    first = load_checkpoint(tmp_path / "first" / LAST)
    assert_equal(dict(first.weights), dict(warm.learner.network.state_dict()))


def test_each_tensor_that_does_not_fit_is_named(place, tmp_path, capsys):
    trainer(place, tmp_path / "first", "kidney").run(StopAfter(0))
    network = msgspec.structs.replace(PLAN.kidney.network, channels=(4, 8, 12))
    kidney = msgspec.structs.replace(PLAN.kidney, network=network)
    other = msgspec.structs.replace(PLAN, kidney=kidney)
    capsys.readouterr()
    warm = trainer(place, tmp_path / "warm", "kidney", plan=other, init_from=tmp_path / "first")
    said = capsys.readouterr().err.splitlines()
    given, own = weights(tmp_path / "first"), warm.learner.network.state_dict()
    misfits = {name for name in own if name not in given or given[name].shape != own[name].shape}
    assert 0 < len(misfits) < len(own)
    assert len(said) == len(misfits) + len(given.keys() - own.keys())
    assert all(any(f"{name}" in line and "anew" in line for line in said) for name in misfits)
    fitting = own.keys() - misfits
    assert all(torch.equal(own[name], given[name]) for name in fitting)


def test_first_weights_of_the_other_stage_are_refused(place, tmp_path):
    trainer(place, tmp_path / "first", "kidney").run(StopAfter(0))
    with pytest.raises(UserError, match="weights of a kidney stage"):
        trainer(place, tmp_path / "warm", "tumor", init_from=tmp_path / "first")


def test_other_first_weights_than_those_it_started_from_are_refused(place, tmp_path):
    trainer(place, tmp_path / "other", "kidney").run(StopAfter(0))
    trainer(place, tmp_path / "cold", "kidney").run(StopAfter(1))
    with pytest.raises(UserError, match="started from random weights"):
        trainer(place, tmp_path / "cold", "kidney", init_from=tmp_path / "other")
