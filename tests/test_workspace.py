import errno
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kitspipe.errors import UserError
from kitspipe.workspace import Workspace, replacing, sweep, write_bytes


def test_the_files_of_a_workspace_are_where_users_know_them():
    place = Workspace(root=Path("w"), plan_name="mine")
    assert place.plan_file == Path("w/plans/mine.json")
    assert place.fingerprint_file == Path("w/plans/mine.fingerprint.json")
    assert place.splits_file == Path("w/plans/mine.splits.json")
    assert place.preprocessed_folder("kidney") == Path("w/preprocessed/mine/kidney")
    assert place.fold_folder("tumor", 3) == Path("w/results/mine/tumor/fold_3")
    assert place.fold_folder("tumor", "all") == Path("w/results/mine/tumor/fold_all")
    assert place.choice_file == Path("w/results/mine/choice.json")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "deep" / "file.txt"
    write_bytes(file, b"old")

    def fail():
        with replacing(file) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        fail()
    assert file.read_bytes() == b"old"
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "case"
    for name in ("first", "second"):
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_a_file_written_beside_keeps_its_suffix(tmp_path):
    with replacing(tmp_path / "mask.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.touch()


def leftover(folder, *, host=None, process, name="case_1"):
    path = folder / f".{host or platform.node()}.{process}.partial.{name}"
    path.mkdir()
    (path / "half").touch()
    return path


@pytest.fixture
def dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_writer_sweeps_what_dead_processes_left(tmp_path, dead):
    leftover(tmp_path, process=dead)
    leftover(tmp_path, process=dead, name="replaced.case_2")
    write_bytes(tmp_path / "other", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_the_living_and_other_machines_write_is_let_be(tmp_path, dead):
    theirs = {
        leftover(tmp_path, process=os.getppid()),
        leftover(tmp_path, process=dead, host="another-machine"),
        leftover(tmp_path, process=f"{dead}x"),
    }
    (tmp_path / ".hidden").touch()
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == theirs | {tmp_path / ".hidden"}


def test_a_dead_process_nobody_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    leftover(tmp_path, process=process.pid)
    sweep(tmp_path)
    assert [*tmp_path.iterdir()] == []
    process.wait()


def test_a_folder_that_is_not_there_is_swept(tmp_path):
    sweep(tmp_path / "nowhere")
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_is_a_message_and_leaves_what_was_there(tmp_path):
    file = tmp_path / "file"
    write_bytes(file, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"file\n[\s\S]*File too large[\s\S]*make room"):
            write_bytes(file, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [file]


def test_a_disk_that_is_full_when_all_is_flushed_is_a_message(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_bytes(tmp_path / "file", b"new")
    assert [*tmp_path.iterdir()] == []


def test_a_read_only_folder_is_a_message(tmp_path, monkeypatch):
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    monkeypatch.chdir(folder)
    # Nothing is read-only for root, who can be somebody else for a while.
    was = os.geteuid()
    os.seteuid(was or 65534)
    try:
        with pytest.raises(UserError, match=r"Permission denied[\s\S]*get the right"):
            write_bytes(Path("file"), b"new")
    finally:
        os.seteuid(was)
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("removed", [".", "deep"])
def test_a_folder_removed_underneath_is_a_message(tmp_path, removed):
    def write():
        with replacing(tmp_path / "work" / "deep" / "case") as temporary:
            temporary.mkdir()
            shutil.rmtree(tmp_path / "work" / removed)
            (temporary / "array").touch()

    with pytest.raises(UserError, match=r"No such file[\s\S]*same command again"):
        write()


def test_a_folder_that_cannot_take_its_name_leaves_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def refusing(path, target):
        if Path(target) == folder and "replaced" not in path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(UserError, match="Input/output error"), replacing(folder) as temporary:
        temporary.mkdir()
    assert [*tmp_path.rglob("*")] == [folder, folder / "old"]


def _replace_often(folder, name):
    for _ in range(100):
        with replacing(folder) as temporary:
            temporary.mkdir()
            for part in "ab":
                (temporary / part).write_text(name)


def test_two_processes_that_replace_one_folder_leave_a_whole_one(tmp_path):
    folder = tmp_path / "case"
    both = [multiprocessing.Process(target=_replace_often, args=(folder, n)) for n in "12"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert [*tmp_path.iterdir()] == [folder]
    texts = {part: (folder / part).read_text() for part in "ab"}
    assert texts["a"] == texts["b"]
