import subprocess
import sys
import threading

import pytest

from kitspipe.errors import UserError
from kitspipe.prediction.claims import claimed, folder_lock, is_claimed
from kitspipe.prediction.records import CaseRecord, read_record, record_file

HOLD = """
import pathlib, sys, time
from kitspipe.prediction.claims import claimed
from kitspipe.prediction.records import CaseRecord
with claimed(pathlib.Path(sys.argv[1]), "a") as claim:
    claim.write(CaseRecord(case_id="a", status="under way", attempt="theirs"))
    print("held", flush=True)
    time.sleep(300)
"""


def record(**values):
    return CaseRecord(**{"case_id": "a", "status": "done", "attempt": "1"} | values)


def test_a_case_that_another_process_has_can_be_claimed_once_that_one_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert is_claimed(tmp_path, "a")
        assert not is_claimed(tmp_path, "b")
        with claimed(tmp_path, "a") as claim:
            assert claim is None
        other.kill()
        other.wait()
    with claimed(tmp_path, "a") as claim:
        assert claim.read().attempt == "theirs"


def test_one_process_claims_a_case_only_once_at_a_time(tmp_path):
    with claimed(tmp_path, "a") as first, claimed(tmp_path, "a") as second:
        assert first is not None
        assert second is None
    # Looking must not have ended the first one's lock for others, nor kept it for good.
    with claimed(tmp_path, "a") as again:
        assert again is not None


def test_a_shorter_record_replaces_a_longer_one(tmp_path):
    with claimed(tmp_path, "a") as claim:
        assert claim.read() is None
        claim.write(record(warnings=("long " * 50,)))
        claim.write(record(attempt="2"))
        assert claim.read() == record(attempt="2")
    assert read_record(record_file(tmp_path, "a")) == record(attempt="2")


@pytest.mark.parametrize("torn", [b"", b"{", b'{"case_id": "a", "status": "do', b"\xff\x00"])
def test_a_torn_record_counts_as_work_that_was_killed(tmp_path, torn):
    file = record_file(tmp_path, "a")
    file.parent.mkdir(parents=True)
    file.write_bytes(torn)
    assert read_record(file).status == "under way"


def test_threads_wait_for_the_folders_lock(tmp_path):
    inside, most = [], []

    def enter():
        with folder_lock(tmp_path):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_a_folder_that_can_not_be_made_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it can't be written"), claimed(tmp_path / "file", "a"):
        pass
