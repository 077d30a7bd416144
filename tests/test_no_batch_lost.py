"""Predictions that are killed, run twice at once, or meet a bad scan: no mask is lost or half."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_data import painted
from small_model import write_model

from kitspipe.errors import ALL_DONE, SOME_CASES_FAILED, STOPPED
from kitspipe.imaging.formats import read_labels, write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume

pytestmark = pytest.mark.slow
CASES = 6
TRIALS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), seed=2).root


def write_scans(folder, count, fine=2):
    """Scans that take a moment each: some that differ, under many names."""
    for number in range(min(count, CASES)):
        image, _ = painted(number)
        array = image.array.repeat(fine, axis=1).repeat(fine, axis=2)
        image = Volume(array=array, grid=image.grid.refined((1, fine, fine)))
        write_image(folder / f"scan_{number:03d}.nii.gz", image, header_for(image.grid, axes="IPL"))
    for number in range(CASES, count):
        (folder / f"scan_{number:03d}.nii.gz").hardlink_to(
            folder / f"scan_{number % CASES:03d}.nii.gz"
        )
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("images"), CASES)


def start(model, images, output, *options):
    given = ["-i", images, "-o", output, "-w", model, "--device", "cpu", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "kitspipe.cli", "predict", *map(str, given)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process):
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in out + err, err
    return process.returncode, out, err


def masks(output):
    return {file.name: read_labels(file)[0].array for file in output.glob("*.nii.gz")}


def assert_whole(left, whole):
    """Masks of a set of masks; networks that learned nothing may waver in bfloat16."""
    assert left.keys() <= whole.keys()
    for name, mask in left.items():
        assert mask.shape == whole[name].shape
        assert np.count_nonzero(mask != whole[name]) <= 0.05 * mask.size, name


def written(out):
    return int(re.search(r"written\s+(\d+)", out)[1])


def workers_of(process):
    """Child processes of a command that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == process and state != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.fixture(scope="module")
def undisturbed(model, images, tmp_path_factory):
    """All masks, and how long they took from the first to the last."""
    output = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    assert end_of(start(model, images, output))[0] == ALL_DONE
    return masks(output), time.monotonic() - started


def test_killed_at_any_moment_no_half_mask_has_a_final_name(model, images, undisturbed, tmp_path):
    whole, seconds = undisturbed
    moment = random.Random(20191013)
    output, killed, kept = tmp_path / "out", 0, 0
    for trial in range(TRIALS):
        process = start(model, images, output)
        # Most of the time goes by before the first mask: from so many masks on, at any moment.
        while output.exists() + len(list(output.glob("*.nii.gz"))) < trial:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 2 * seconds / CASES))
        workers = workers_of(process.pid)
        # Only the command: its process with the networks has to notice.
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        left = masks(output) if output.exists() else {}
        assert_whole(left, whole)
        kept += len(left)
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{worker}/statm").exists() for worker in workers):
            assert time.monotonic() < deadline, "the process with the networks lives on"
            time.sleep(0.05)
        if trial % 2 == 1:
            status, out, _ = end_of(start(model, images, output))
            assert (status, written(out)) == (ALL_DONE, CASES - len(left))
            again = masks(output)
            assert again.keys() == whole.keys()
            assert_whole(again, whole)
            hidden = [f.name for f in output.rglob("*") if ".partial." in f.name]
            assert hidden == []
            shutil.rmtree(output)
    assert killed > TRIALS / 2
    assert kept > 0


def test_two_commands_at_once_share_the_cases(model, tmp_path):
    images, output = write_scans(tmp_path / "images", 30), tmp_path / "out"
    both = [start(model, images, output) for _ in range(2)]
    ends = [end_of(process) for process in both]
    assert [status for status, _, _ in ends] == [ALL_DONE] * 2
    assert sum(written(out) for _, out, _ in ends) == 30
    assert min(written(out) for _, out, _ in ends) > 3
    report = json.loads((output / "run.json").read_bytes())
    assert report["count"] == {"done": 30, "failed": 0, "under way": 0}
    assert len(masks(output)) == 30


def test_a_command_waits_for_cases_of_another_and_takes_them_over(model, tmp_path):
    images, output = write_scans(tmp_path / "images", 2, fine=6), tmp_path / "out"
    first = start(model, images, output)
    while not list(output.glob(".records/scan_000.json")):
        assert first.poll() is None
        time.sleep(0.01)
    [worker] = workers_of(first.pid)
    os.kill(worker, signal.SIGSTOP)
    second = start(model, images, output)
    while not (output / "scan_001.nii.gz").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    assert second.poll() is None
    for process in (first.pid, worker):
        os.kill(process, signal.SIGKILL)
    first.communicate()
    status, out, _ = end_of(second)
    assert (status, written(out), len(masks(output))) == (ALL_DONE, 2, 2)
    assert "waiting for another command that works on scan_000" in out


def test_one_bad_case_in_a_hundred(model, tmp_path):
    images, output = write_scans(tmp_path / "images", 100, fine=1), tmp_path / "out"
    bad = images / "scan_042.nii.gz"
    bad.unlink()
    bad.write_bytes((images / "scan_000.nii.gz").read_bytes()[:-1000])
    status, out, err = end_of(start(model, images, output))
    assert (status, written(out), err.count("error:")) == (SOME_CASES_FAILED, 99, 1)
    assert f"error: scan_042: {bad}\n" in err
    assert len(masks(output)) == 99
    status, out, _ = end_of(start(model, images, output))
    assert (status, written(out)) == (SOME_CASES_FAILED, 0)


def test_a_case_that_kills_its_process_costs_no_other(model, tmp_path):
    images, output = write_scans(tmp_path / "images", 3, fine=4), tmp_path / "out"
    process = start(model, images, output)
    while not list(output.glob(".records/scan_001.json")):
        time.sleep(0.01)
    [worker] = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    status, out, err = end_of(process)
    assert status == SOME_CASES_FAILED
    assert "error: scan_001: " in err
    assert "was killed by SIGKILL" in err
    assert written(out) == 2
    report = json.loads((output / "run.json").read_bytes())
    assert report["cases"]["scan_001"]["status"] == "failed"


def test_ctrl_c_leaves_whole_masks_and_a_report(model, images, undisturbed, tmp_path):
    output = tmp_path / "out"
    process = start(model, images, output)
    while len(list(output.glob("*.nii.gz"))) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    status, _, _ = end_of(process)
    assert status == STOPPED
    assert_whole(masks(output), undisturbed[0])
    assert json.loads((output / "run.json").read_bytes())["count"]["done"] > 0
