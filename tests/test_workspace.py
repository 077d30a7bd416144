from pathlib import Path

import pytest

from kitspipe.workspace import Workspace, replacing, write_bytes


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

    with pytest.raises(OSError, match="full"):
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
