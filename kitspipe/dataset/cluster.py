"""The same work for every case on a Dask cluster, through joblib's own backend."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib

from kitspipe.errors import UserError

if TYPE_CHECKING:
    from distributed import Client

OPTION = "--cluster"
CONNECT_WITHIN_S = 15.0
WORKERS_WITHIN_S = 60.0
# Those that talk to each other, and those that decide what is written.
SAME_VERSIONS = (
    "kitspipe",
    "python",
    "dask",
    "distributed",
    "cloudpickle",
    "msgpack",
    "numpy",
    "scipy",
    "SimpleITK",
    "connected-components-3d",
    "blosc2",
    "edt",
    "joblib",
    "torch",
)


@contextmanager
def on_cluster(address: str | None, *, reads: Path, writes: Path | None = None) -> Iterator[None]:
    """Within it, `for_each_case` works on a cluster, or without an address on this machine.

    Args:
        address: of the scheduler, as HOST:PORT or tcp://HOST:PORT, or its file (`.json`).
        reads: the folder with the cases.
        writes: the folder that workers write to; None if they only read.

    Raises:
        UserError: no cluster there, or none that can do the work.
    """
    if address is None:
        yield
        return
    with _connected(address) as client:
        from kitspipe.dataset.dask_backend import ClusterBackend

        _refuse_without_workers(client, address)
        _refuse_other_versions(client, address)
        _refuse_other_data(client, reads)
        if writes is not None:
            _refuse_other_workspace(client, writes)
        with joblib.parallel_config(backend=ClusterBackend(client, address)):
            yield


def same_everywhere(path: Path, address: str | None) -> Path:
    """A path that means the same on workers of a cluster, whose current folder is another."""
    return path if address is None else path.absolute()


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
        from distributed.versions import VersionMismatchWarning
    except ImportError as error:
        raise UserError(
            OPTION,
            found=f"the package {error.name} is not installed",
            expected="Dask, on this machine and on the workers",
            remedy="install it: pip install 'kitspipe[cluster]'",
        ) from None
    # Each of these would be said twice: Dask logs it, and then raises what becomes our message.
    for name in [*logging.root.manager.loggerDict]:
        if name.split(".")[0] in {"distributed", "tornado"}:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)
        client = Client(_scheduler(address), timeout=CONNECT_WITHIN_S, set_as_default=False)
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_WITHIN_S)


def _scheduler(address: str) -> str:
    """The address of a scheduler that answers."""
    # Not left to Client, which waits twice as long again when it is thrown away unconnected.
    try:
        if address.endswith(".json"):
            found = str(json.loads(Path(address).read_text(encoding="utf-8"))["address"])
        else:
            found = address
        kind = asyncio.run(asyncio.wait_for(_kind(found), CONNECT_WITHIN_S + 5))
        if kind != "Scheduler":
            raise ValueError(f"a {kind} is there")
    except (OSError, ValueError, LookupError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{OPTION} {address}",
            found=f"no Dask scheduler answers there ({first_line(error)})",
            expected="the address that `dask scheduler` prints, like tcp://HOST:8786",
            remedy="start the scheduler, or mend the address; docs/cluster.md says how",
        ) from None
    return found


async def _kind(address: str) -> str:
    from distributed import Security, rpc

    secrets = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_WITHIN_S, connection_args=secrets) as server:
        return str((await server.identity())["type"])


def _refuse_without_workers(client: Client, address: str) -> None:
    try:
        # A task and not a mere look: a cluster that grows with its work starts a worker for it.
        client.submit(time.time, pure=False).result(timeout=WORKERS_WITHIN_S)
    except Exception as error:
        raise UserError(
            f"{OPTION} {address}",
            found=f"a scheduler, but no worker took a task within {WORKERS_WITHIN_S:.0f} s "
            f"({first_line(error)})",
            expected="at least one worker",
            remedy=f"start some: dask worker --nworkers 1 --nthreads 1 {address}",
        ) from None


def _refuse_other_versions(client: Client, address: str) -> None:
    versions = client.get_versions(packages=list(SAME_VERSIONS))
    here = _packages(versions["client"])
    others = {f"worker {name}": _packages(host) for name, host in versions["workers"].items()}
    # It unpacks what goes to workers.
    others["the scheduler"] = _packages(versions["scheduler"])
    wrong = {
        name: differing for name, there in others.items() if (differing := differences(here, there))
    }
    if wrong:
        name, found = next(iter(wrong.items()))
        raise UserError(
            f"{OPTION} {address}",
            found=f"{name} has {'; '.join(found)}"
            + (f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""),
            expected="the same versions everywhere, so that every machine writes the same",
            remedy="give the scheduler and all workers the environment of this machine",
        )


def _packages(host: Mapping[str, Any]) -> dict[str, str | None]:
    return dict(host["packages"])


def differences(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> list[str]:
    """What differs of `SAME_VERSIONS`, as `numpy 2.0 (here 2.1)`; empty if nothing does.

    Args:
        here: package -> version on this machine; None if it is not there.
        there: the same on another.
    """
    return [
        f"{name} {there.get(name) or 'missing'} (here {here.get(name) or 'missing'})"
        for name in SAME_VERSIONS
        if there.get(name) != here.get(name)
    ]


def _refuse_other_data(client: Client, folder: Path) -> None:
    here = _entries(folder)
    for worker, there in client.run(_entries, folder, on_error="return").items():
        if there != here:
            raise _not_shared(
                folder, worker, f"sees {_described(there)}, this machine {_described(here)}"
            )


def _refuse_other_workspace(client: Client, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    marks = client.run(_leave_mark, folder, on_error="return")
    unseen = {
        worker: mark
        for worker, mark in marks.items()
        if not isinstance(mark, Path) or not mark.exists()
    }
    for mark in set(marks.values()) - set(unseen.values()):
        mark.unlink()
    for worker, mark in unseen.items():
        wrote = "writes files that are not seen here" if isinstance(mark, Path) else str(mark)
        raise _not_shared(folder, worker, wrote)


def _entries(folder: Path) -> tuple[str, ...] | None:
    """Names in a folder; None where there is none. Runs on workers."""
    return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else None


def _leave_mark(folder: Path) -> Path:
    """A new empty file in a folder. Runs on workers."""
    handle, name = tempfile.mkstemp(prefix=".cluster.", dir=folder)
    os.close(handle)
    return Path(name)


def _described(entries: object) -> str:
    if entries is None:
        return "no folder"
    return f"{len(entries)} entries" if isinstance(entries, tuple) else str(entries)


def _not_shared(folder: Path, worker: str, found: str) -> UserError:
    return UserError(
        folder,
        found=f"worker {worker} {found}",
        expected="one file system that this machine and all workers share",
        remedy="mount data and workspace on every machine under the same path, and let workers "
        "write to the workspace",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
