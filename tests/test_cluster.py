"""Cases on a Dask cluster: a scheduler and workers in processes of their own, on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client, KilledWorker
from joblib._dask import DaskDistributedBackend
from small_data import painted, write_cases
from small_model import write_model
from small_plans import small_plan
from tornado.ioloop import IOLoop

from kitspipe import cli
from kitspipe.dataset import cluster as connecting
from kitspipe.dataset import dask_backend
from kitspipe.dataset.cases import Case, find_dataset
from kitspipe.dataset.cluster import differences, on_cluster, same_everywhere
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image
from kitspipe.imaging.header import header_for
from kitspipe.preprocessing.preprocess import preprocess_case
from kitspipe.workspace import Workspace

TESTS = Path(__file__).parent
CASES = [Case(id=f"case_{number}", image=Path(f"{number}"), labels=None) for number in range(6)]


@contextmanager
def dask_cluster(folder, workers=2, path=()):
    """A scheduler's file; `path` comes first in the workers' sys.path."""
    folder.mkdir(parents=True)
    file, started = folder / "scheduler.json", []

    def start(*arguments, path=()):
        # The scheduler and workers import this module: it holds what they are to do.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, TESTS)))}
        command = [sys.executable, "-m", "dask", *arguments]
        with (folder / f"{len(started)}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    common = ("--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard")
    try:
        start("scheduler", "--port", "0", *common)
        for _ in range(workers):
            start("worker", "--nworkers", "1", "--nthreads", "1", *common, path=path)
        wait_for(file.exists)
        if workers:
            with Client(scheduler_file=str(file), set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=60)
        yield file, started
    finally:
        # With their children: a nanny that starts a worker anew does not hear SIGTERM.
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster that tests leave as it is."""
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster") as (file, _):
        yield str(file)


def process_of(case):
    """Which process works on a case."""
    time.sleep(0.2)
    return os.getpid()


def refuse_the_second(case):
    if case.id == "case_1":
        raise UserError(case.image, found="a", expected="b", remedy="c")
    return case.id


def kill_the_process(case):
    if case.id == "case_1":
        os.kill(os.getpid(), signal.SIGKILL)
    return case.id


def say_and_wait(case, mark):
    """Only the first who comes waits: to be killed."""
    try:
        with mark.open("x") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:
        return case.id
    time.sleep(600)
    return None


def preprocess_or_wait(case, plan, workspace, mark):
    say_and_wait(case, mark) if case.id == "case_00001" else None
    return preprocess_case(case, plan, workspace)


def all_of(work, address, folder, **edits):
    with on_cluster(address, reads=folder, **edits):
        return list(for_each_case(work, CASES, jobs=None, label="test"))


def files_of(folder):
    """Relative name -> bytes; hidden ones are what killed processes leave."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_without_an_address_cases_stay_on_this_machine(tmp_path):
    with on_cluster(None, reads=tmp_path):
        results = list(for_each_case(process_of, CASES[:2], jobs=1, label="test"))
    assert results == [os.getpid()] * 2


def test_paths_for_workers_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert same_everywhere(Path("raw"), "tcp://host:8786") == tmp_path / "raw"
    assert same_everywhere(Path("raw"), None) == Path("raw")


def test_differing_and_missing_packages_are_named_and_no_others():
    here = dict.fromkeys(connecting.SAME_VERSIONS, "1.0") | {"tqdm": "1"}
    there = here | {"numpy": "1.1", "blosc2": None, "tqdm": "2"}
    assert differences(here, here) == []
    assert sorted(differences(here, there)) == ["blosc2 missing (here 1.0)", "numpy 1.1 (here 1.0)"]


def test_without_dask_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"kitspipe\[cluster\]"), on_cluster("h:1", reads=tmp_path):
        pass


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("host", "missing port"),
        ("http://127.0.0.1:8786", "unknown address scheme"),
        ("nowhere.json", "No such file"),
        ("127.0.0.1:1", "Timed out"),
    ],
)
def test_an_address_without_a_scheduler_is_one_message_soon(
    address, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(connecting, "CONNECT_WITHIN_S", 0.5)
    monkeypatch.chdir(tmp_path)
    write_cases(tmp_path, 1)
    started = time.monotonic()
    assert cli.main(["check", "-d", str(tmp_path), "--cluster", address]) == 2
    assert time.monotonic() - started < 10
    error = capsys.readouterr().err
    assert error.startswith(f"error: --cluster {address}\n")
    assert said in error
    assert error.count("\n") == 4


@pytest.mark.slow
def test_commands_write_the_same_on_a_cluster(two_workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cases(tmp_path / "raw", 4)
    for name, where in (("here", ["-j", "1"]), ("there", ["--cluster", two_workers])):
        arguments = ["plan_and_preprocess", "-d", "raw", "-w", name, "--size", "small", *where]
        assert cli.main(arguments) == 0
    here = files_of(tmp_path / "here")
    assert len([name for name in here if name.startswith("preprocessed/")]) > 8
    assert files_of(tmp_path / "there") == here


@pytest.mark.slow
def test_cases_run_on_workers_and_results_come_in_order(two_workers, tmp_path):
    processes = all_of(process_of, two_workers, tmp_path)
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    results = all_of(refuse_the_second, two_workers, tmp_path)
    assert [getattr(result, "case_id", result) for result in results] == [c.id for c in CASES]
    assert isinstance(results[1], CaseFailure)


@pytest.mark.slow
def test_the_first_result_comes_before_the_last_case_is_done(two_workers, tmp_path):
    with on_cluster(two_workers, reads=tmp_path):
        arrived = [
            time.monotonic() for _ in for_each_case(process_of, CASES, jobs=None, label="test")
        ]
    # Six cases of 0.2 s on two workers.
    assert arrived[-1] - arrived[0] > 0.3


@pytest.mark.slow
def test_a_single_worker_does_the_work_and_not_this_machine(tmp_path):
    with dask_cluster(tmp_path / "dask", workers=1) as (file, _):
        processes = all_of(process_of, str(file), tmp_path)
    assert len(set(processes)) == 1
    assert os.getpid() not in processes


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing_but_time(two_workers, tmp_path):
    cases = find_dataset(write_cases(tmp_path / "raw", 4)).labelled
    mark, plan = tmp_path / "mark", small_plan()
    places = {name: Workspace(root=tmp_path / name) for name in ("here", "there")}
    for case in cases:
        preprocess_case(case, plan, places["here"])

    def kill():
        wait_for(lambda: mark.exists() and mark.read_text().endswith("\n"))
        os.kill(int(mark.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    work = partial(preprocess_or_wait, plan=plan, workspace=places["there"], mark=mark)
    with on_cluster(two_workers, reads=tmp_path / "raw", writes=tmp_path / "there"):
        results = list(for_each_case(work, cases, jobs=None, label="test"))
    killer.join()
    assert [result.case_id for result in results] == [case.id for case in cases]
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


@pytest.mark.slow
def test_a_case_that_kills_its_workers_is_a_failure_and_the_others_are_done(tmp_path):
    with dask_cluster(tmp_path / "dask") as (file, _):
        results = all_of(kill_the_process, str(file), tmp_path)
    assert [getattr(result, "case_id", result) for result in results] == [c.id for c in CASES]
    assert [isinstance(result, CaseFailure) for result in results] == [False, True, *[False] * 4]
    assert "memory" in results[1].error.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "said"), [(slice(1), "the cluster is gone"), (slice(1, None), "no worker for 1 s")]
)
def test_a_cluster_that_dies_is_one_message(killed, said, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "WITHOUT_WORKERS_S", 1)
    monkeypatch.setattr(dask_backend, "CHECK_EVERY_S", 0.5)
    mark = tmp_path / "mark"
    with dask_cluster(tmp_path / "dask", workers=1) as (file, processes):

        def kill():
            wait_for(mark.exists)
            for process in processes[killed]:
                os.killpg(process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(UserError, match=said):
            all_of(partial(say_and_wait, mark=mark), str(file), tmp_path)
        killer.join()


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_the_cluster(tmp_path):
    mark = tmp_path / "mark"
    with dask_cluster(tmp_path / "dask", workers=1) as (file, _):

        def stop():
            wait_for(mark.exists)
            os.kill(os.getpid(), signal.SIGINT)

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(KeyboardInterrupt):
            all_of(partial(say_and_wait, mark=mark), str(file), tmp_path)
        stopped = time.time()
        stopper.join()
    assert stopped - mark.stat().st_mtime < 20


@pytest.mark.slow
def test_no_worker_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(connecting, "WORKERS_WITHIN_S", 1.0)
    with (
        dask_cluster(tmp_path / "dask", workers=0) as (file, _),
        pytest.raises(UserError, match="no worker took a task within 1 s"),
    ):
        all_of(process_of, str(file), tmp_path)


@pytest.mark.slow
def test_folders_that_workers_do_not_see_are_refused(two_workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw" / "case").mkdir(parents=True)
    # Relative: a worker's current folder is another.
    with pytest.raises(UserError, match="sees no folder, this machine 1 entries"):
        all_of(process_of, two_workers, Path("raw"))
    with pytest.raises(UserError, match=r"No such file .*\n.*file system that this machine"):
        all_of(process_of, two_workers, tmp_path / "raw", writes=Path("workspace"))


@pytest.mark.slow
def test_marks_that_workers_leave_in_the_workspace_are_taken_away(two_workers, tmp_path):
    all_of(refuse_the_second, two_workers, tmp_path, writes=tmp_path / "workspace")
    assert list((tmp_path / "workspace").iterdir()) == []


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(tmp_path):
    other = tmp_path / "other" / "kitspipe-99.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: kitspipe\nVersion: 99\n")
    with (
        dask_cluster(tmp_path / "dask", workers=1, path=[other.parent]) as (file, _),
        pytest.raises(UserError, match=r"worker tcp://\S+ has kitspipe 99 \(here "),
    ):
        all_of(process_of, str(file), tmp_path)


@pytest.mark.slow
def test_a_worker_is_no_scheduler(two_workers, tmp_path):
    with Client(json.loads(Path(two_workers).read_text())["address"]) as client:
        worker = next(iter(client.scheduler_info()["workers"]))
    with pytest.raises(UserError, match="a Worker is there"):
        all_of(process_of, worker, tmp_path)


@pytest.mark.slow
def test_masks_from_a_cluster_are_those_of_one_machine_and_a_bad_scan_is_named(
    two_workers, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    # As Dask's workers have it: in bfloat16, sums depend on the number of threads.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_model(tmp_path / "model", seed=2)
    for number in range(4):
        image, _ = painted(number)
        write_image(tmp_path / f"scans/s{number}.nii.gz", image, header_for(image.grid, axes="IPL"))
    Path("scans/bad.nii.gz").write_bytes(b"no scan")
    common = ["predict", "-i", "scans", "-w", "model", "--device", "cpu"]
    assert cli.main([*common, "-o", "there", "--cluster", two_workers]) == 1
    assert capsys.readouterr().err.count("error: bad: ") == 1
    assert cli.main([*common, "-o", "here"]) == 1
    names = [f"s{number}.nii.gz" for number in range(4)]
    for name in names:
        assert Path("there", name).read_bytes() == Path("here", name).read_bytes()
    assert json.loads(Path("there/run.json").read_bytes())["count"] == {
        "done": 4,
        "failed": 1,
        "under way": 0,
    }


def test_a_case_that_only_waited_on_dying_workers_is_tried_alone(monkeypatch):
    under_way, ended = {}, {}

    def submit(self, func, callback=None):
        case_id = func.items[0][1][0].id
        assert case_id not in under_way
        under_way[case_id] = Future()
        return under_way[case_id]

    def end(case_id, error=None):
        future = under_way.pop(case_id)
        if error is None:
            ended[case_id] = "done"
            future.set_result("done")
        else:
            future.set_exception(error)

    monkeypatch.setattr(DaskDistributedBackend, "submit", submit)
    backend = dask_backend.ClusterBackend(SimpleNamespace(loop=IOLoop(make_current=False)), "here")
    for case in CASES[:4]:
        func = SimpleNamespace(items=[(None, [case], {})])
        backend.submit(func, lambda out, case=case: ended.setdefault(case.id, out))
    killed = KilledWorker("task", SimpleNamespace(address="there"), 3)
    first, second, third, fourth = (case.id for case in CASES[:4])
    end(first, killed)
    end(second, killed)
    end(fourth, OSError("gone"))
    assert isinstance(ended[fourth][0], CaseFailure)
    # One suspect at a time, beside a case whose workers never died.
    assert set(under_way) == {third, first}
    end(first, killed)
    assert isinstance(ended[first][0], CaseFailure)
    assert set(under_way) == {third, second}
    end(second)
    end(third)
    assert (ended[second], ended[third]) == ("done", "done")
    assert not under_way


def test_a_result_that_dies_with_its_worker_and_a_case_that_then_fails_are_not_lost(monkeypatch):
    """The result is there, then its worker dies, then those that compute it again."""
    killed = KilledWorker("case", SimpleNamespace(address="there"), 3)
    with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
        gather = client._gather

        async def gather_too_late(futures, **options):
            for future in futures:
                future._state.set_error(killed, None)
            monkeypatch.setattr(client, "_gather", gather)
            raise killed

        monkeypatch.setattr(client, "_gather", gather_too_late)
        waiting = dask_backend.ClusterBackend(client, "here").waiting_futures
        waiting.add(client.submit(int, "7", pure=False))
        _, (_, error, _) = client.sync(waiting.__anext__, callback_timeout=20)
        assert isinstance(error, KilledWorker)
        waiting.add(client.submit(int, "8", pure=False))
        _, result = client.sync(waiting.__anext__, callback_timeout=20)
        assert result == 8
