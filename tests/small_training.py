"""A training small enough for a test: two painted cases, a trainer over them, what it left."""

import time

import torch
from small_data import write_cases
from small_plans import small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.dataset.cases import find_dataset
from kitspipe.networks.weights import load_checkpoint
from kitspipe.planning.planner import training_key
from kitspipe.prediction.tumors import region_tumor
from kitspipe.preprocessing.preprocess import open_cases, preprocess_case
from kitspipe.training.checkpoints import LAST
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
# What depends on how fast the machine is.
_TIMED = {"seconds", "waiting", "eta_seconds", "peak_gib"}
_SETTINGS = ("epochs", "max_seconds", "patience", "precision", "compiled")


def preprocessed(folder):
    """A workspace with the arrays of two cases."""
    write_cases(folder / "raw", 2)
    workspace = Workspace(root=folder)
    for case in find_dataset(folder / "raw").cases:
        preprocess_case(case, PLAN, workspace)
    return workspace


def predict_region(network, region):
    return region_tumor(network, region, PLAN.tumor, CPU)


def make_task(place, stage, plan=PLAN, predict=predict_region):
    """Trained and validated on the same cases."""
    cases = open_cases(place, stage, plan, IDS)
    if stage == "kidney":
        return kidney_task(plan, cases, cases)
    return tumor_task(plan, cases, cases, predict)


def make_options(**options):
    settings = Settings(**{name: options.pop(name) for name in _SETTINGS if name in options})
    return FoldOptions(device=CPU, **{"workers": 0, **options}, settings=settings)


def trainer(place, folder, stage, plan=PLAN, predict=predict_region, clock=None, **options):
    task, key = make_task(place, stage, plan, predict), training_key(plan, stage)
    return Trainer(task, folder, key, make_options(**options), clock or time.monotonic)


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


def records(folder):
    return FoldLog(folder / "log.jsonl").read()


def timeless(folder):
    """The log, without what depends on how fast the machine is."""
    return [{k: v for k, v in record.items() if k not in _TIMED} for record in records(folder)]
