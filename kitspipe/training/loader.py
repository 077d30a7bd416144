"""Worker processes that read and augment patches; one that fails, dies or hangs names its cases.

Built on batchgenerators' loaders and multi-process augmenter. What is done to a patch is drawn
before it is read, so that only what is needed is read. Between processes go images as halves (less
than 0.1 HU off in the planned windows) and targets compressed: a pipe is slow. Kidney batches hold
images (N, 1, Z, Y, X) and targets (N, Z*rz, Y*ry, X*rx); tumor batches hold slabs (N, S, Y, X) and
the targets (N, Y, X) of their middle slices.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import blosc2
import numpy as np
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.planning.plan import AugmentationConfig
from kitspipe.preprocessing.store import TrainingCase
from kitspipe.training.changes import draw
from kitspipe.training.patches import Arrays
from kitspipe.training.random_keys import Purpose
from kitspipe.training.sampling import KidneySampler, PatchRequest, TumorSampler

Sampler = KidneySampler | TumorSampler

_PATIENCE_S = 300.0
_LABELS = {
    "codec": blosc2.Codec.LZ4,
    "clevel": 1,
    "filters": [blosc2.Filter.NOFILTER],
    "typesize": 1,
    "nthreads": 1,
}


class WorkerError(RuntimeError):
    """A worker process raised; the message holds the cases it worked on and its traceback."""


class Transform(Protocol):
    """A batchgenerators transform: dictionary in, dictionary out."""

    def __call__(self, **arrays: Any) -> Arrays:
        """The changed arrays."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What a training step takes.

    Args:
        image: (N, 1, Z, Y, X) or (N, S, Y, X) float16, network units.
        target: (N, Z*rz, Y*ry, X*rx) or (N, Y, X) uint8.
        cases: names of the N regions, so that a NaN can name its cases.
    """

    image: NDArray[np.float16]
    target: NDArray[np.uint8]
    cases: tuple[str, ...]


class PatchReader(SlimDataLoaderBase):  # type: ignore[misc]
    """Batches `first`, `first` + 1, ... of an epoch; worker k of n makes every n-th of them.

    Each holds lists, one entry per patch: what is read of a patch depends on its change.

    Args:
        sampler: which patches.
        read: (case, request) -> arrays of a patch.
        batch_size: patches of a batch.
        epoch: whose patches.
        steps: batches of the epoch.
        workers: processes, 0 for none.
        augmentation: from which changes are drawn; None changes nothing.
        share: which patches of each batch this process makes; None: all of them.
    """

    def __init__(
        self,
        sampler: Sampler,
        read: Callable[[TrainingCase, PatchRequest], Arrays],
        *,
        batch_size: int,
        epoch: int,
        steps: range,
        workers: int,
        augmentation: AugmentationConfig | None,
        share: range | None = None,
    ) -> None:
        super().__init__(sampler, batch_size, max(1, workers))
        self._share = range(batch_size) if share is None else share
        self._read = read
        self._epoch = epoch
        self._steps = steps
        self._augmentation = augmentation
        self._made = 0
        # Shared memory: what a worker writes here outlives it.
        self._under_way = multiprocessing.RawArray("q", [-1] * max(1, workers))

    def under_way(self, worker: int) -> tuple[str, ...]:
        """Names of the regions that a worker reads, or read last; empty before its first."""
        first = self._under_way[worker]
        return () if first < 0 else tuple(case.name for case, _ in self._requests(first))

    def _requests(self, first: int) -> list[tuple[TrainingCase, PatchRequest]]:
        requests = [self._request(first + index) for index in self._share]
        return [(self._data.cases[request.region], request) for request in requests]

    def _request(self, sample: int) -> PatchRequest:
        request: PatchRequest = self._data.request(self._epoch, sample)
        if self._augmentation is None:
            return request
        stream = request.key.stream(Purpose.CHANGE)
        return replace(request, parameters=draw(self._augmentation, stream))

    def set_thread_id(self, thread_id: int) -> None:
        """Called in the worker when it starts."""
        super().set_thread_id(thread_id)
        # Ctrl-C goes to the whole group; the trainer decides when its workers end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A thread pool of the trainer's does not survive the fork that made this process.
        torch.set_num_threads(1)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def generate_train_batch(self) -> Arrays:
        """The arrays of the next batch, not augmented yet.

        Raises:
            StopIteration: all batches are made.
        """
        position = self.thread_id + self._made * self.number_of_threads_in_multithreaded
        if position >= len(self._steps):
            self._made = 0
            raise StopIteration
        self._made += 1
        first = self._steps[position] * self.batch_size
        self._under_way[self.thread_id] = first
        requests = self._requests(first)
        names = tuple(case.name for case, _ in requests)
        try:
            patches = [self._patch(case, request) for case, request in requests]
        except UserError as error:
            return {"failure": error, "cases": names}
        except Exception:
            return {"failure": traceback.format_exc(), "cases": names}
        return {**{key: [patch[key] for patch in patches] for key in patches[0]}, "cases": names}

    def _patch(self, case: TrainingCase, request: PatchRequest) -> Arrays:
        try:
            return self._read(case, request)
        except FileNotFoundError:
            raise _unreadable(case, "no such arrays") from None
        except RuntimeError as error:
            if "blosc2" not in str(error):
                raise
            raise _unreadable(case, f"arrays that can't be read: {error}") from None


class Reporting:
    """Runs a transform, packs the batch, and turns what it raises into an entry of the batch."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __call__(self, **arrays: Any) -> Arrays:
        """The transformed arrays, packed, or `failure` with the traceback."""
        if "failure" in arrays:
            return arrays
        try:
            return _packed(self._transform(**arrays))
        except Exception:
            return {"failure": traceback.format_exc(), "cases": arrays["cases"]}


def batches(
    reader: PatchReader, transform: Transform, *, workers: int, patience_s: float = _PATIENCE_S
) -> Generator[Batch]:
    """The reader's batches, augmented, in order.

    Args:
        reader: what is read.
        transform: how it is augmented.
        workers: processes; 0 works in this one.
        patience_s: how long a batch may take, as long as none is waiting.

    Raises:
        WorkerError: a worker raised.
        UserError: arrays are gone or damaged, a worker was killed, or hangs.
    """
    reporting = Reporting(transform)
    if workers == 0:
        for arrays in reader:
            yield _batch(reporting(**arrays))
        return
    source = MultiThreadedAugmenter(
        reader, reporting, workers, num_cached_per_queue=2, seeds=list(range(workers))
    )
    # The library's thread raises where a worker died; what is told here is enough.
    before = threading.excepthook
    threading.excepthook = lambda e: None if e.thread is source.pin_memory_thread else before(e)
    source.restart()
    processes = [*source._processes]

    def give_up() -> None:
        source.abort_event.set()
        # One that hangs may not even hear SIGTERM, and would keep this process from ending.
        for process in processes:
            process.kill()

    patience = _Patience(give_up, patience_s)
    try:
        while True:
            try:
                with patience:
                    arrays = next(source)
            except StopIteration:
                return
            except RuntimeError:
                dead = [n for n, process in enumerate(processes) if process.exitcode]
                raise (
                    _hanging(reader, len(processes), patience_s)
                    if patience.is_over
                    else _killed(reader, {n: processes[n].exitcode for n in dead})
                ) from None
            yield _batch(arrays)
    finally:
        patience.end()
        source._finish()
        threading.excepthook = before


class _Patience:
    """Calls a function when what is done within it takes too long.

    The library itself waits for a stuck worker without end.
    """

    def __init__(self, give_up: Callable[[], None], seconds: float) -> None:
        self.is_over = False
        self._give_up = give_up
        self._seconds = seconds
        self._since: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._since = None

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds)):
            since = self._since
            if since is not None and time.monotonic() - since > self._seconds:
                self.is_over = True
                self._give_up()
                return


def _end_with_parent(parent: int) -> None:
    """In a worker: a training that is killed must leave none behind."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _unreadable(case: TrainingCase, found: str) -> UserError:
    return UserError(
        case.folder,
        found=found,
        expected="arrays as kitspipe_preprocess wrote them; the last checkpoint is kept",
        remedy="remove this case's folder if it is there, run kitspipe_preprocess, then the same "
        "command: the training goes on",
    )


def _killed(reader: PatchReader, exit_codes: dict[int, int]) -> UserError:
    names = sorted({name for worker in exit_codes for name in reader.under_way(worker)})
    signals = sorted({-code for code in exit_codes.values()})
    return UserError(
        ", ".join(names) or "training cases",
        found=f"the loading process that read them was killed by signal {signals}",
        expected="memory for the loading processes",
        remedy="most likely memory ran out: use fewer with --workers; the training goes on "
        "from its last checkpoint",
    )


def _hanging(reader: PatchReader, workers: int, seconds: float) -> UserError:
    names = sorted({name for worker in range(workers) for name in reader.under_way(worker)})
    return UserError(
        ", ".join(names) or "training cases",
        found=f"no batch for {seconds:.0f} s while loading processes read them",
        expected="a batch within seconds",
        remedy="look whether the disk with the arrays answers; the training goes on from its "
        "last checkpoint",
    )


def _packed(arrays: Arrays) -> Arrays:
    """What goes through the pipe: halves, and each patch's target compressed."""
    targets = [np.ascontiguousarray(target, np.uint8) for target in arrays["seg"]]
    return {
        "data": np.stack([_halves(image) for image in arrays["data"]]),
        "seg": [blosc2.compress2(target, **_LABELS) for target in targets],
        "shape": targets[0].shape,
        "cases": arrays["cases"],
    }


def _halves(image: NDArray[np.float32]) -> NDArray[np.float16]:
    # By torch: numpy takes ten times as long.
    halves: NDArray[np.float16] = torch.from_numpy(np.ascontiguousarray(image)).half().numpy()
    return halves


def _batch(arrays: Arrays) -> Batch:
    if isinstance(arrays.get("failure"), UserError):
        raise arrays["failure"]
    if "failure" in arrays:
        raise WorkerError(f"while reading {', '.join(arrays['cases'])}:\n{arrays['failure']}")
    target = np.empty((len(arrays["seg"]), *arrays["shape"]), np.uint8)
    for place, packed in zip(target, arrays["seg"], strict=True):
        blosc2.decompress2(packed, dst=place, nthreads=1)
    return Batch(image=arrays["data"], target=target, cases=tuple(arrays["cases"]))
