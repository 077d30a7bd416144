"""The real training command, killed, starved and put into odd places: the same end, or a message.

Everything here runs `kitspipe train` in processes of their own on six painted cases.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import msgspec
import pytest
import torch
from forked_command import Limits, run, start
from safetensors.torch import load_file
from small_plans import SCHEDULE, small_kidney_plan, small_plan, small_tumor_plan
from trained_folders import copy, fold, prepare

from kitspipe.errors import ALL_DONE, STOPPED, WRONG_REQUEST
from kitspipe.planning.document import write_document

pytestmark = pytest.mark.slow

KILLS = 12
LAST, PREVIOUS, FINAL = "last.safetensors", "previous.safetensors", "final.safetensors"
TIMED = {"seconds", "waiting", "eta_seconds", "peak_gib"}
ALL = ("train", "all", 0, "--workers", 1)
KIDNEY, TUMOR = (("train", stage, 0, "--workers", 0) for stage in ("kidney", "tumor"))


def schedule(**edits):
    return msgspec.structs.replace(SCHEDULE, **{"epochs": 3, "steps_per_epoch": 3, **edits})


def make_plan(**edits):
    return small_plan(
        kidney=small_kidney_plan(
            patch_size=(8, 16, 32), window_stride=(4, 8, 16), schedule=schedule(**edits)
        ),
        tumor=small_tumor_plan(patch_size=(24, 24), schedule=schedule(**edits)),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"), make_plan(), cases=6)


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """Both stages of fold 0 trained without a break; how many seconds it took."""
    folder = copy(prepared, tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    done = run(folder, *ALL)
    assert done.status == ALL_DONE, done.said
    return folder, time.monotonic() - started


@pytest.fixture
def folder(prepared, tmp_path):
    return copy(prepared, tmp_path)


def trained(folder):
    """All that a training leaves, but for pictures and what depends on time."""
    found = {}
    for stage in ("kidney", "tumor"):
        place = fold(folder, stage)
        for path in (place / FINAL, place / "best.safetensors", *place.glob("validation*/*")):
            if path.exists() and not path.name.endswith(".nii.gz"):
                found[path.relative_to(folder)] = content(path, folder)
        found[stage] = log(place)
    assert len(found) > 6
    return found


def content(path, folder):
    """Tensors bit for bit: what stands in a header is in no order. Of other files all bytes."""
    if path.suffix == ".safetensors":
        return {name: t.numpy().tobytes() for name, t in load_file(path).items()}
    return path.read_bytes().replace(str(folder).encode(), b"")


def assert_kidneys_equal(folder, undisturbed):
    one, other = (content(fold(place) / FINAL, place) for place in (folder, undisturbed[0]))
    assert one == other


def log(place):
    lines = (place / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def wait_for(condition, running, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert running.process.is_alive(), running.wait().said
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def one_message(done, *said):
    assert done.status == WRONG_REQUEST, done.said
    assert "Traceback" not in done.said
    assert done.said.count("error: ") == 1
    for text in said:
        assert text in done.said
    return True


def test_killed_at_any_moment_and_started_again_it_ends_as_if_undisturbed(
    prepared, undisturbed, tmp_path
):
    expected, seconds = trained(undisturbed[0]), undisturbed[1]
    rng, kills, ends = random.Random(11), 0, 0
    while kills < KILLS or not ends:
        folder = tmp_path / str(ends)
        folder.mkdir()
        copy(prepared, folder)
        while True:
            running = start(folder, *ALL)
            if kills < KILLS:
                running.process.join(rng.uniform(0, seconds / 2))
                number = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM][kills % 3]
                kills += running.process.is_alive()
                running.send(number)
            done = running.wait()
            assert "Traceback" not in done.said
            if done.status == ALL_DONE:
                break
            assert done.status in (-signal.SIGKILL, -signal.SIGTERM, STOPPED), done.said
        assert trained(folder) == expected
        ends += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(folder, number):
    running = start(folder, *KIDNEY)
    wait_for((fold(folder) / LAST).exists, running)
    running.send(number)
    done = running.wait()
    assert done.status == STOPPED
    assert "stopped; the same command goes on from" in done.said


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def pickled(path):
    torch.save({"weights": torch.zeros(3)}, path)


@pytest.mark.parametrize("harm", [damaged, pickled])
def test_a_harmed_checkpoint_is_told_and_the_one_before_used(folder, undisturbed, harm):
    run(folder, *KIDNEY)
    shutil.rmtree(fold(folder) / "validation")
    harm(fold(folder) / LAST)
    (fold(folder) / FINAL).unlink()
    done = run(folder, *KIDNEY)
    assert done.status == ALL_DONE, done.said
    assert f"{LAST}:" in done.said
    assert f"goes on from {PREVIOUS}" in done.said
    assert ("a pickle, which is never opened" in done.said) == (harm is pickled)
    assert_kidneys_equal(folder, undisturbed)


def test_where_both_checkpoints_are_pickles_nothing_is_opened_and_nothing_lost(folder):
    run(folder, *KIDNEY)
    for name in (LAST, PREVIOUS):
        pickled(fold(folder) / name)
    before = {path.name: path.read_bytes() for path in fold(folder).glob("*.safetensors")}
    one_message(run(folder, *KIDNEY), "a pickle, which is never opened", "--restart")
    assert before == {p.name: p.read_bytes() for p in fold(folder).glob("*.safetensors")}


def test_a_loss_that_is_not_finite_is_one_message_and_keeps_the_checkpoint(folder):
    write_document(folder / "plans" / "default.json", make_plan(learning_rate=1e30))
    said = one_message(run(folder, *KIDNEY), "in epoch", "case_0000", "lower learning_rate")
    assert said
    assert (fold(folder) / LAST).exists()
    assert not (fold(folder) / FINAL).exists()


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_loading_process_that_dies_ends_it_with_a_message_and_it_goes_on(folder, undisturbed):
    running = start(folder, "train", "kidney", 0, "--workers", 2)
    wait_for(lambda: children(running.pid), running)
    os.kill(children(running.pid)[0], signal.SIGKILL)
    one_message(running.wait(), "killed by signal [9]", "fewer with --workers")
    assert run(folder, *KIDNEY).status == ALL_DONE
    assert_kidneys_equal(folder, undisturbed)


def test_out_of_memory_says_what_to_lower_and_that_fits_then(folder):
    limits = Limits(memory_bytes=600 * 2**20)
    batch, exact = 512, ("--epochs", 1, "--precision", "float32")
    write_document(
        folder / "plans" / "default.json", make_plan(batch_size=batch, steps_per_epoch=1)
    )
    done = run(folder, *KIDNEY, *exact, limits=limits)
    # What is said may still be too much: then it is said again.
    for _ in range(8):
        one_message(done, "out of memory", f"kidney.schedule.batch_size from {batch} to ")
        smaller = int(done.said.partition("batch_size from ")[2].split()[2])
        assert smaller < batch
        batch = smaller
        write_document(
            folder / "plans" / "default.json", make_plan(batch_size=batch, steps_per_epoch=1)
        )
        done = run(folder, *KIDNEY, *exact, "--restart", limits=limits)
        if done.status == ALL_DONE:
            return
    raise AssertionError(done.said)


def test_a_full_disk_is_one_message_and_the_last_checkpoint_is_kept(folder, undisturbed):
    running = start(folder, *KIDNEY)
    wait_for((fold(folder) / LAST).exists, running)
    running.send(signal.SIGTERM)
    running.wait()
    before = (fold(folder) / LAST).read_bytes()
    done = run(folder, *KIDNEY, limits=Limits(file_bytes=len(before) // 2))
    one_message(done, "it can't be written: File too large", "make room on this disk")
    assert (fold(folder) / LAST).read_bytes() == before
    assert run(folder, *KIDNEY).status == ALL_DONE
    assert_kidneys_equal(folder, undisturbed)


def test_arrays_of_a_case_that_are_gone_are_one_message_before_anything_is_trained(folder):
    training = json.loads((folder / "plans" / "default.splits.json").read_text())["folds"][0]
    case = training["train"][0]
    shutil.rmtree(folder / "preprocessed" / "default" / "kidney" / case)
    one_message(run(folder, *KIDNEY), case, "kitspipe_preprocess")
    assert not fold(folder).exists()


def test_arrays_that_vanish_while_it_runs_are_one_message_with_their_case(folder):
    training = json.loads((folder / "plans" / "default.splits.json").read_text())["folds"][0]
    gone = folder / "preprocessed" / "default" / "kidney" / training["train"][0]
    running = start(folder, *KIDNEY, "--epochs", 500)
    wait_for((fold(folder) / PREVIOUS).exists, running)
    shutil.rmtree(gone)
    one_message(running.wait(), gone.name, "run kitspipe_preprocess", "checkpoint is kept")
    assert (fold(folder) / LAST).exists()


def test_nothing_is_started_over_a_training_that_is_there(folder):
    assert run(folder, *KIDNEY).status == ALL_DONE
    before = {p: p.stat().st_mtime_ns for p in fold(folder).rglob("*") if p.is_file()}
    done = run(folder, *KIDNEY)
    assert done.status == ALL_DONE
    assert "this training is complete (ended by epochs); --restart would start anew" in done.said
    write_document(folder / "plans" / "default.json", make_plan(learning_rate=1e-4))
    one_message(run(folder, *KIDNEY), "a training with another plan", "--restart")
    assert before == {p: p.stat().st_mtime_ns for p in fold(folder).rglob("*") if p.is_file()}
    first = content(fold(folder) / FINAL, folder)
    assert run(folder, *KIDNEY, "--restart").status == ALL_DONE
    assert content(fold(folder) / FINAL, folder) != first


def test_a_dry_run_says_what_would_run_and_writes_nothing(folder):
    before = {p for p in folder.rglob("*") if not p.name.startswith("output.")}
    done = run(folder, *KIDNEY, "--dry-run")
    assert done.status == ALL_DONE, done.said
    for text in (
        "start a new training",
        "0 of 3 done, 3 steps each",
        "2 patches of 8x16x32",
        "GiB by the planner",
        "time left",
        "waiting for data",
    ):
        assert text in done.said
    assert before == {p for p in folder.rglob("*") if not p.name.startswith("output.")}
