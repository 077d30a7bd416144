import math
import time

import msgspec
import numpy as np
import pytest
import torch
from small_data import write_cases
from small_plans import SCHEDULE, small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.dataset.cases import find_dataset
from kitspipe.errors import UserError
from kitspipe.networks.weights import load_checkpoint
from kitspipe.planning.planner import training_key
from kitspipe.prediction.tumors import region_tumor
from kitspipe.preprocessing.preprocess import open_cases, preprocess_case
from kitspipe.training.checkpoints import BEST, FINAL, LAST, PREVIOUS
from kitspipe.training.log import FoldLog
from kitspipe.training.options import FoldOptions
from kitspipe.training.settings import Settings
from kitspipe.training.stages import kidney_task, tumor_task
from kitspipe.training.stopping import StopSignal
from kitspipe.training.trainer import Trainer
from kitspipe.workspace import Workspace

CPU = torch.device("cpu")
IDS = ["case_00000", "case_00001"]
PLAN = small_plan(
    kidney=small_kidney_plan(patch_size=(8, 16, 32), window_stride=(4, 8, 16)),
    tumor=small_tumor_plan(patch_size=(24, 24)),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    write_cases(folder / "raw", 2)
    workspace = Workspace(root=folder)
    for case in find_dataset(folder / "raw").cases:
        preprocess_case(case, PLAN, workspace)
    return workspace


def predict_region(network, region):
    return region_tumor(network, region, PLAN.tumor, CPU)


def good_at_the_first(network, region):
    """Finds the tumor of the first case and nothing in the second."""
    tumor = region.read_target(region.whole) == 1
    return tumor if region.case_id == IDS[0] else np.zeros_like(tumor)


def trainer(place, folder, stage, plan=PLAN, predict=predict_region, clock=None, **options):
    cases = open_cases(place, stage, plan, IDS)
    task = (
        kidney_task(plan, cases, cases)
        if stage == "kidney"
        else tumor_task(plan, cases, cases, predict)
    )
    names = ("epochs", "max_seconds", "patience", "precision", "compiled")
    settings = Settings(**{name: options.pop(name) for name in names if name in options})
    given = FoldOptions(device=CPU, **{"workers": 0, **options}, settings=settings)
    return Trainer(task, folder, training_key(plan, stage), given, clock or time.monotonic)


class StopAfter(StopSignal):
    """Asks for a stop when it was looked at this often."""

    def __init__(self, looks):
        self._looks = looks

    @property
    def came(self):
        self._looks -= 1
        return self._looks < 0


def weights(folder, name=LAST):
    return load_checkpoint(folder / name).weights


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def timeless(folder):
    """The log, without what depends on how fast the machine is."""
    timed = {"seconds", "waiting", "eta_seconds", "peak_gib"}
    records = FoldLog(folder / "log.jsonl").read()
    return [{k: v for k, v in record.items() if k not in timed} for record in records]


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
