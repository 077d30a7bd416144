import os
import subprocess
import sys
import tempfile

import pytest

from kitspipe.imaging.scratch import temporary_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fail_in_a_folder(error):
    with temporary_folder() as folder:
        (folder / "file").touch()
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_folder_is_gone_also_after_an_error(place, error):
    with pytest.raises(error):
        fail_in_a_folder(error)
    assert [*place.iterdir()] == []


def test_what_a_killed_process_left_is_removed_and_what_others_use_is_kept(place):
    script = (
        "import os, signal\n"
        "from kitspipe.imaging.scratch import temporary_folder\n"
        "with temporary_folder() as folder:\n"
        "    (folder / 'file').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"TMPDIR": str(place)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    (place / "of another program").mkdir()
    [left] = place.glob("*kitspipe*")
    with temporary_folder() as one, temporary_folder() as two:
        assert not left.exists()
        assert one.is_dir()
        assert two.is_dir()
    assert [path.name for path in place.iterdir()] == ["of another program"]
