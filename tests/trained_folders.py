"""Workspaces for tests of the real training command: prepared once, copied for each test."""

import shutil

from forked_command import run
from small_data import write_cases

from kitspipe.errors import ALL_DONE
from kitspipe.planning.document import write_document


def prepare(folder, plan, cases):
    """Painted cases, planned by this plan and preprocessed."""
    write_cases(folder / "raw", cases)
    write_document(folder / "plans" / "default.json", plan)
    done = run(folder, "plan_and_preprocess", "-d", folder / "raw", "-j", 1)
    assert done.status == ALL_DONE, done.said
    return folder


def copy(prepared, folder):
    for name in ("plans", "preprocessed"):
        shutil.copytree(prepared / name, folder / name)
    return folder


def fold(folder, stage="kidney"):
    return folder / "results" / "default" / stage / "fold_0"
