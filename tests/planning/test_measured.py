import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data_sets import case_record

from kitspipe.errors import UserError
from kitspipe.planning.document import write_document
from kitspipe.planning.fingerprint import Fingerprint
from kitspipe.planning.measured import kept, read_measured


def record(name, **edits):
    return case_record((3.0, 0.7, 0.8), (90, 512, 512), id=name, **edits)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "plans" / "default.fingerprint.json"


def stopped(file, *names):
    with pytest.raises(KeyboardInterrupt), kept(file) as keep:  # noqa: PT012
        for name in names:
            keep(record(name))
        raise KeyboardInterrupt


def test_at_first_nothing_is_measured(file):
    assert read_measured(file) == Fingerprint(cases=())


def test_what_a_stopped_command_measured_is_there(file):
    write_document(file, Fingerprint(cases=(record("b"),)))
    stopped(file, "c", "a")
    assert read_measured(file) == Fingerprint(cases=(record("a"), record("b"), record("c")))


def test_a_case_on_disk_outlives_a_killed_process(file):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import os, signal, pathlib, test_measured as t\n"
        "with t.kept(pathlib.Path(sys.argv[1])) as keep:\n"
        "    keep(t.record('a')); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = str(Path(__file__).parent)
    run = subprocess.run([sys.executable, "-c", code, str(file), here, *sys.path])
    assert run.returncode == -signal.SIGKILL
    assert read_measured(file).cases == (record("a"),)


def test_a_line_that_a_crash_tore_off_swallows_no_other(file):
    stopped(file, "a", "b")
    (unfinished,) = file.parent.iterdir()
    os.truncate(unfinished, unfinished.stat().st_size - 40)
    stopped(file, "c")
    assert [case.id for case in read_measured(file).cases] == ["a", "c"]


def test_the_later_of_two_measurements_counts(file):
    write_document(file, Fingerprint(cases=(record("a", cyst_ml=1.0),)))
    stopped(file, "a")
    assert read_measured(file).cases == (record("a"),)


def test_nothing_is_left_when_all_is_done(file):
    stopped(file, "a")
    with kept(file) as keep:
        keep(record("b"))
        write_document(file, Fingerprint(cases=(record("b"),)))
    assert [*file.parent.iterdir()] == [file]
    assert read_measured(file).cases == (record("b"),)


def test_a_place_that_takes_no_files_is_a_message(file):
    file.parent.parent.joinpath("plans").touch()
    with pytest.raises(UserError, match="can't be written"), kept(file):
        pass
