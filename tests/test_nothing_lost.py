"""Commands that are killed, run into a full disk, or run twice: the same end as undisturbed."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from small_data import write_cases

from kitspipe import cli, pipeline
from kitspipe.errors import ALL_DONE, SOME_CASES_FAILED, WRONG_REQUEST, UserError
from kitspipe.imaging.scratch import temporary_folder
from kitspipe.planning.planner import read_fold
from kitspipe.workspace import STAGES, Workspace

KITSPIPE = (sys.executable, "-m", "kitspipe.cli")
COMMANDS = ("fingerprint", "plan", "preprocess")
TRIALS = 51
CASES = 6


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("raw"), CASES)


def options(command, raw, jobs):
    return {
        "fingerprint": ["-d", raw, "-j", str(jobs)],
        "plan": ["--size", "small"],
        "preprocess": ["-d", raw, "-j", str(jobs)],
    }[command]


def start(command, raw, root, jobs=2, **how):
    return subprocess.Popen(
        [*KITSPIPE, command, "-w", root, *options(command, raw, jobs)],
        # A group of its own, so that all of its processes can be killed at once.
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def again(command, raw, root):
    """The same command in this process, which spares the start of Python; one case at a time."""
    return cli.main([*map(str, (command, "-w", root, *options(command, raw, 1)))])


def run(command, raw, root, **how):
    process = start(command, raw, root, **how)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in out + err, err
    return process.returncode, err


def content(root):
    """Every file and folder of a workspace, hidden ones too, with its bytes."""
    parts = [root / "plans", root / "preprocessed"]
    paths = [path for part in parts for path in part.rglob("*")]
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in paths}


def finished(root):
    """What shows whether a preprocessed case was made anew."""
    folders = [f for f in root.glob("preprocessed/*/*/*") if not f.name.startswith(".")]
    return {str(f): (f.stat().st_ino, f.stat().st_mtime_ns) for f in folders}


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    """Workspaces before each command and after all of them; seconds that each command took."""
    states, seconds = {}, {}
    root = tmp_path_factory.mktemp("undisturbed") / "work"
    root.mkdir()
    for command in COMMANDS:
        states[command] = root.parent / f"before_{command}"
        shutil.copytree(root, states[command])
        started = time.monotonic()
        assert run(command, raw, root)[0] == ALL_DONE
        seconds[command] = time.monotonic() - started
    states["end"] = root
    return states, seconds


def after(command):
    return (*COMMANDS, "end")[COMMANDS.index(command) + 1]


@pytest.mark.slow
def test_a_killed_command_run_again_ends_as_if_it_had_not_been_killed(
    raw, undisturbed, tmp_path, monkeypatch
):
    states, seconds = undisturbed
    random_moment = random.Random(20191013)
    killed = kept = 0
    left = tmp_path / "temporary"
    left.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(left))
    for trial in range(TRIALS):
        command, root = COMMANDS[trial % len(COMMANDS)], tmp_path / "work"
        shutil.copytree(states[command], root)
        process = start(command, raw, root, env=os.environ | {"TMPDIR": str(left)})
        time.sleep(random_moment.uniform(0, seconds[command]))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        before = finished(root)
        assert again(command, raw, root) == ALL_DONE
        assert content(root) == content(states[after(command)]), (trial, command)
        assert before.items() <= finished(root).items(), (trial, command)
        kept += len(before)
        shutil.rmtree(root)
    assert killed > TRIALS / 2
    assert kept > 0
    with temporary_folder() as own:
        assert [path for path in left.iterdir() if "kitspipe" in path.name] == [own]


@pytest.mark.slow
def test_a_command_stopped_by_hand_leaves_no_temporary_folder(raw, undisturbed, tmp_path):
    states, seconds = undisturbed
    for share in (0.3, 0.6, 0.8):
        root, left = tmp_path / f"work{share}", tmp_path / f"temporary{share}"
        shutil.copytree(states["preprocess"], root)
        left.mkdir()
        process = start("preprocess", raw, root, env=os.environ | {"TMPDIR": str(left)})
        time.sleep(share * seconds["preprocess"])
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert not [path for path in left.iterdir() if "kitspipe" in path.name]


@pytest.mark.slow
def test_two_commands_at_once_end_as_one(raw, undisturbed, tmp_path):
    states, _ = undisturbed
    for command in COMMANDS:
        root = tmp_path / command
        shutil.copytree(states[command], root)
        both = [start(command, raw, root) for _ in range(2)]
        for process in both:
            out, err = process.communicate(timeout=300)
            assert (process.returncode, "Traceback" in out + err) == (ALL_DONE, False), err
        assert content(root) == content(states[after(command)])


@pytest.mark.slow
def test_planning_anew_while_preprocessing_harms_neither(raw, undisturbed, tmp_path):
    states, _ = undisturbed
    root = tmp_path / "work"
    shutil.copytree(states["preprocess"], root)
    preprocess = start("preprocess", raw, root)
    while preprocess.poll() is None:
        assert run("plan", raw, root)[0] == ALL_DONE
    preprocess.communicate()
    assert preprocess.returncode == ALL_DONE
    assert content(root) == content(states["end"])


HOLD = """
import pathlib, sys, time
from kitspipe.training.lock import only_training_in
with only_training_in(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.mark.slow
def test_a_second_training_of_a_fold_is_refused_and_removes_nothing(raw, undisturbed, tmp_path):
    states, _ = undisturbed
    root = tmp_path / "work"
    shutil.copytree(states["end"], root)
    folder = Workspace(root=root).fold_folder("kidney", 0)
    folder.mkdir(parents=True)
    (folder / "last.safetensors").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(
            [*KITSPIPE, "train", "kidney", "0", "-w", root, "--device", "cpu", "--restart"],
            capture_output=True,
            text=True,
            check=False,
        )
        first.kill()
    assert second.returncode == WRONG_REQUEST
    assert f"another training of this fold is running (process {first.pid} on" in second.stderr
    assert (folder / "last.safetensors").exists()


def _small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))


@pytest.mark.slow
def test_a_full_disk_names_every_case_and_leaves_nothing_half(raw, undisturbed, tmp_path):
    states, _ = undisturbed
    root = tmp_path / "work"
    shutil.copytree(states["preprocess"], root)
    status, err = run("preprocess", raw, root, jobs=1, preexec_fn=_small_files_only)
    assert status == SOME_CASES_FAILED
    assert err.count("File too large") == CASES
    assert all(f"case_{n:05d}" in err for n in range(CASES))
    assert not [path for path in content(root) if "case" in path]
    assert run("preprocess", raw, root)[0] == ALL_DONE
    assert content(root) == content(states["end"])


@pytest.mark.slow
def test_a_workspace_removed_underneath_is_told_and_made_again(raw, undisturbed, tmp_path):
    states, _ = undisturbed
    root = tmp_path / "work"
    shutil.copytree(states["preprocess"], root)
    process = start("preprocess", raw, root, jobs=1)
    arrays = root / "preprocessed"
    while process.poll() is None and not finished(root):
        time.sleep(0.005)
    while process.poll() is None:
        shutil.rmtree(arrays, ignore_errors=True)
    out, err = process.communicate()
    assert process.returncode in (ALL_DONE, SOME_CASES_FAILED)
    assert "Traceback" not in out + err
    assert run("preprocess", raw, root)[0] == ALL_DONE
    assert content(root) == content(states["end"])


@pytest.mark.slow
def test_a_data_set_removed_underneath_is_told_case_by_case(raw, undisturbed, tmp_path):
    states, _ = undisturbed
    root, data = tmp_path / "work", tmp_path / "raw"
    shutil.copytree(states["preprocess"], root)
    shutil.copytree(raw, data)
    process = start("preprocess", data, root, jobs=1)
    while process.poll() is None and not finished(root):
        time.sleep(0.005)
    shutil.rmtree(data)
    out, err = process.communicate(timeout=300)
    assert process.returncode == SOME_CASES_FAILED
    assert "Traceback" not in out + err
    assert f"error: case_{CASES - 1:05d}: {data}" in err


def in_process(raw, root, *, replan):
    pipeline.fingerprint(data=raw, workspace=root, plan_name="default", jobs=1)
    pipeline.plan(workspace=root, plan_name="default", memory=11.0, size="small", replan=replan)
    pipeline.preprocess(data=raw, workspace=root, plan_name="default", jobs=1)


@pytest.mark.slow
def test_only_what_depends_on_a_changed_case_is_made_anew(raw, tmp_path):
    data, root = tmp_path / "raw", tmp_path / "work"
    shutil.copytree(raw, data)
    for number in (0, CASES - 1):
        shutil.rmtree(data / f"case_{number:05d}")
    in_process(data, root, replan=False)
    kept = finished(root)
    assert len(kept) == 2 * (CASES - 2)

    shutil.copytree(raw / "case_00000", data / "case_00000")
    with pytest.raises(UserError, match="another state of the data set"):
        in_process(data, root, replan=False)
    plan = (root / "plans" / "default.json").read_bytes()
    pipeline.preprocess(data=data, workspace=root, plan_name="default", jobs=1)
    assert (root / "plans" / "default.json").read_bytes() == plan
    assert kept.items() < finished(root).items()
    assert len(finished(root)) == 2 * (CASES - 1)

    kept = finished(root)
    shutil.copy(raw / "case_00005" / "imaging.nii.gz", data / "case_00002")
    shutil.copy(raw / "case_00005" / "segmentation.nii.gz", data / "case_00002")
    pipeline.preprocess(data=data, workspace=root, plan_name="default", jobs=1)
    anew = {path for path, state in finished(root).items() if kept[path] != state}
    place = Workspace(root=root)
    assert anew == {str(place.preprocessed_folder(stage) / "case_00002") for stage in STAGES}

    shutil.rmtree(data / "case_00003")
    in_process(data, root, replan=True)
    used = {case for ids in read_fold(place, "all") for case in ids}
    assert used == {"case_00000", "case_00001", "case_00002", "case_00004"}
