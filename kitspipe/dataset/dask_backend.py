"""joblib's backend for Dask, and what it leaves out: an end when workers or the scheduler die."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client, KilledWorker, as_completed
from distributed import Future as DaskFuture

# joblib has no public name for it.
from joblib._dask import DaskDistributedBackend
from joblib.parallel import BatchedCalls

from kitspipe.dataset.cluster import OPTION, first_line
from kitspipe.dataset.parallel import CaseFailure
from kitspipe.errors import UserError

# More than any cluster has at first, so that workers that come later find work at once; what
# waits is a path and a plan per case.
MOST_AT_ONCE = 500
# Jobs that a batch system restarts may wait for a while; the same command goes on anyway.
WITHOUT_WORKERS_S = 300.0
CHECK_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What was submitted; a suspect's workers died before, so now it is the only suspect."""

    id: str
    func: BatchedCalls
    callback: Callable[[object], object]
    is_suspect: bool = False


class _Results(as_completed):  # type: ignore[misc]
    """Results as they come.

    A worker may die between a case's end and the fetching of its result. The case is then computed
    again, and where that fails as well, dask's own class raises the failure where nobody sees it
    and forgets the case.
    """

    async def _track_future(self, future: DaskFuture) -> None:
        try:
            await super()._track_future(future)
        except Exception:
            # The case has failed by now, which is a result as well.
            await super()._track_future(future)


class ClusterBackend(DaskDistributedBackend):  # type: ignore[misc]
    """Cases on a cluster: one whose workers die is a failure, a cluster that dies a UserError.

    Args:
        client: connected to the cluster.
        address: what the user calls it.
    """

    def __init__(self, client: Client, address: str) -> None:
        super().__init__(client=client)
        self.waiting_futures = _Results(loop=client.loop, with_results=True, raise_errors=False)
        self._address = address
        self._open: dict[Future[Any], _Case] = {}
        self._suspects: deque[_Case] = deque()
        self._over = threading.Event()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many cases may wait on the cluster at once."""
        # A single worker would count 1, for which joblib works on this machine.
        return MOST_AT_ONCE

    def compute_batch_size(self) -> int:
        """A case is a task, so that one that is lost takes no other with it."""
        return 1

    def submit(self, func: BatchedCalls, callback: Callable[[object], object]) -> Future[Any]:
        """A case's result, once it is there."""
        [(_, [case], _)] = func.items
        return self._submit(_Case(id=case.id, func=func, callback=callback))

    def _submit(self, case: _Case) -> Future[Any]:
        future: Future[Any] = super().submit(case.func, case.callback)
        self._open[future] = case
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        # joblib calls back for results only: it would wait without end for a case whose
        # workers died.
        case, error = self._open.pop(future), future.exception()
        if isinstance(error, KilledWorker) and not case.is_suspect:
            # It may only have waited on the workers that another case killed.
            self._suspects.append(replace(case, is_suspect=True))
        elif error is not None:
            case.callback([CaseFailure(case_id=case.id, error=_lost(case.id, error))])
        # A copy: the main thread may be submitting.
        if self._suspects and not any(each.is_suspect for each in [*self._open.values()]):
            self._submit(self._suspects.popleft())

    def retrieve_result_callback(self, out: object) -> object:
        """What `for_each_case` gets for a case."""
        if isinstance(out, BaseException):
            raise _gone(self._address, out)
        return super().retrieve_result_callback(out)

    def start_call(self) -> None:
        """Before the first case."""
        super().start_call()
        self._over.clear()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop_call(self) -> None:
        """After the last case."""
        self._over.set()
        super().stop_call()

    def _watch(self) -> None:
        """Nobody tells joblib that a cluster is gone."""
        last = time.monotonic()
        while not self._over.wait(CHECK_EVERY_S):
            try:
                if self.client.ncores():
                    last = time.monotonic()
                elif time.monotonic() - last > WITHOUT_WORKERS_S:
                    raise TimeoutError(f"no worker for {WITHOUT_WORKERS_S:.0f} s")
            except Exception as error:
                for case in [*self._open.values(), *self._suspects]:
                    case.callback(error)
                return


def _lost(case_id: str, error: BaseException) -> UserError:
    return UserError(
        case_id,
        found=f"no worker finished this case: {first_line(error)}",
        expected="a worker that lives as long as a case takes",
        remedy="give each worker more memory (most likely it was killed for lack of it), "
        "then run the same command again",
    )


def _gone(address: str, error: BaseException) -> UserError:
    return UserError(
        f"{OPTION} {address}",
        found=f"the cluster is gone in the middle of the work ({first_line(error)})",
        expected="a scheduler and at least one worker until the end",
        remedy="start it again; the same command goes on where it stopped",
    )
