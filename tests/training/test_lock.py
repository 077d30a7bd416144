import multiprocessing
import os
import shutil
import signal
import time

import pytest

from kitspipe.errors import UserError
from kitspipe.training.lock import only_training_in


def hold(folder, told, *, with_child):
    with only_training_in(folder):
        if with_child and os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        told.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path, request):
    told = multiprocessing.Event()
    process = multiprocessing.Process(
        target=hold,
        args=(tmp_path / "fold_0", told),
        kwargs={"with_child": getattr(request, "param", False)},
    )
    process.start()
    assert told.wait(20)
    yield process
    process.kill()
    process.join()


def test_a_second_training_of_a_fold_is_refused_and_the_first_named(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"fold_0\n.*is running \(process {holder.pid} on"),
        only_training_in(tmp_path / "fold_0"),
    ):
        pass


def test_another_fold_is_trained_meanwhile(tmp_path, holder):
    with only_training_in(tmp_path / "fold_1"):
        pass


@pytest.mark.parametrize("holder", [False, True], indirect=True)
def test_a_killed_training_locks_nothing_even_while_its_workers_live(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with only_training_in(tmp_path / "fold_0"):
        pass


def test_a_folder_may_be_removed_under_its_lock(tmp_path):
    folder = tmp_path / "results" / "fold_0"
    for _ in range(2):
        with only_training_in(folder):
            folder.mkdir()
            shutil.rmtree(folder)
    assert [path.name for path in folder.parent.iterdir()] == [".fold_0.lock"]
