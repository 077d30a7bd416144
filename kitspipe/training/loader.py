"""Worker processes that read and augment patches; a dead worker is an error with its traceback.

Built on batchgenerators' loaders and multi-process augmenter. Kidney batches hold images
(N, 1, Z, Y, X) and targets (N, Z*rz, Y*ry, X*rx); tumor batches hold slabs (N, S, Y, X) and the
targets (N, Y, X) of their middle slices.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from numpy.typing import NDArray
from scipy.ndimage import zoom

from kitspipe.planning.plan import KidneyPlan, TumorPlan
from kitspipe.preprocessing.intensity import normalize, normalize_masked
from kitspipe.preprocessing.store import TrainingCase
from kitspipe.training.sampling import KidneySampler, PatchRequest, TumorSampler

Sampler = KidneySampler | TumorSampler
Arrays = dict[str, Any]

_JITTER_KNOTS = 5


class WorkerError(RuntimeError):
    """A worker process failed; the message holds the cases it worked on and its traceback."""


class Transform(Protocol):
    """A batchgenerators transform: dictionary in, dictionary out."""

    def __call__(self, **arrays: Any) -> Arrays:
        """The changed arrays."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What a training step takes.

    Args:
        image: (N, 1, Z, Y, X) or (N, S, Y, X) float32, network units.
        target: (N, Z*rz, Y*ry, X*rx) or (N, Y, X) uint8.
        cases: names of the N regions, so that a NaN can name its cases.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    cases: tuple[str, ...]


class PatchReader(SlimDataLoaderBase):  # type: ignore[misc]
    """Batches `first`, `first` + 1, ... of an epoch; worker k of n makes every n-th of them."""

    def __init__(
        self,
        sampler: Sampler,
        read: Callable[[TrainingCase, PatchRequest], Arrays],
        *,
        batch_size: int,
        epoch: int,
        steps: range,
        workers: int,
    ) -> None:
        super().__init__(sampler, batch_size, max(1, workers))
        self._read = read
        self._epoch = epoch
        self._steps = steps
        self._made = 0

    def set_thread_id(self, thread_id: int) -> None:
        """Called in the worker when it starts."""
        super().set_thread_id(thread_id)
        # Ctrl-C goes to the whole group; the trainer decides when its workers end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

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
        requests = [
            self._data.request(self._epoch, first + index) for index in range(self.batch_size)
        ]
        cases = [self._data.cases[request.region] for request in requests]
        names = tuple(case.name for case in cases)
        try:
            patches = [
                self._read(case, request) for case, request in zip(cases, requests, strict=True)
            ]
        except Exception:
            return {"failure": traceback.format_exc(), "cases": names}
        arrays: Arrays = {key: np.stack([patch[key] for patch in patches]) for key in patches[0]}
        return {**arrays, "seeds": [request.seed for request in requests], "cases": names}


class Reporting:
    """Runs a transform and turns what it raises into an entry of the batch."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __call__(self, **arrays: Any) -> Arrays:
        """The transformed arrays, or `failure` with the traceback."""
        if "failure" in arrays:
            return arrays
        try:
            return self._transform(**arrays)
        except Exception:
            return {"failure": traceback.format_exc(), "cases": arrays["cases"]}


def batches(reader: PatchReader, transform: Transform, *, workers: int) -> Iterator[Batch]:
    """The reader's batches, augmented, in order.

    Args:
        reader: what is read.
        transform: how it is augmented.
        workers: processes; 0 works in this one.

    Raises:
        WorkerError: a worker raised, or died.
    """
    reporting = Reporting(transform)
    if workers == 0:
        for arrays in reader:
            yield _batch(reporting(**arrays))
        return
    source = MultiThreadedAugmenter(
        reader, reporting, workers, num_cached_per_queue=2, seeds=list(range(workers))
    )
    try:
        while True:
            try:
                arrays = next(source)
            except StopIteration:
                return
            except RuntimeError as error:
                raise WorkerError(
                    "a worker process was killed (often: the machine ran out of memory); "
                    "fewer workers (--workers) need less"
                ) from error
            yield _batch(arrays)
    finally:
        source._finish()


def kidney_patch(case: TrainingCase, request: PatchRequest, plan: KidneyPlan) -> Arrays:
    """Image and target of a patch of the whole scan.

    Returns:
        `data` (1, Z, Y, X) float32 and `seg` (Z*rz, Y*ry, X*rx) uint8.
    """
    hu = case.read_image(request.box)
    return {"data": normalize(hu, plan.hu_window)[None], "seg": case.read_target(request.box)}


def tumor_slab(case: TrainingCase, request: PatchRequest, plan: TumorPlan) -> Arrays:
    """A slab of the masked CT, the target of its middle slice, and the mask.

    Slices beyond the region's ends repeat the last one, as in prediction.

    Returns:
        `data` (S, Y, X) float32, `seg` (Y, X) uint8, `mask` (S, Y, X) bool.
    """
    box, slices = request.box, case.grid.shape[0]
    inside = np.clip(np.arange(box.start[0], box.stop[0]), 0, slices - 1)
    read = type(box)(
        start=(int(inside[0]), *box.start[1:]), stop=(int(inside[-1]) + 1, *box.stop[1:])
    )
    take = inside - inside[0]
    border_mm = plan.mask_dilation_mm + _wandering(request, box.shape)
    mask = case.read_distance_mm(read)[take] <= border_mm
    image = normalize_masked(case.read_image(read)[take], mask, plan.hu_window)
    middle = type(box)(
        start=(int(inside[len(inside) // 2]), *box.start[1:]),
        stop=(int(inside[len(inside) // 2]) + 1, *box.stop[1:]),
    )
    return {"data": image, "seg": case.read_target(middle)[0], "mask": mask}


def _wandering(request: PatchRequest, shape: tuple[int, int, int]) -> NDArray[Any] | float:
    """A smooth random field (1, Y, X) in mm, up to `mask_jitter_mm` either way."""
    if request.mask_jitter_mm == 0:
        return 0.0
    rng = np.random.default_rng((*request.seed, 2))
    knots = rng.uniform(-1, 1, (_JITTER_KNOTS, _JITTER_KNOTS)).astype(np.float32)
    field: NDArray[np.float32] = zoom(
        knots, (shape[1] / _JITTER_KNOTS, shape[2] / _JITTER_KNOTS), order=1
    )
    wandering: NDArray[np.float32] = field[None] * np.float32(request.mask_jitter_mm)
    return wandering


def _batch(arrays: Arrays) -> Batch:
    if "failure" in arrays:
        raise WorkerError(f"while reading {', '.join(arrays['cases'])}:\n{arrays['failure']}")
    return Batch(
        image=np.ascontiguousarray(arrays["data"], np.float32),
        target=np.ascontiguousarray(arrays["seg"], np.uint8),
        cases=tuple(arrays["cases"]),
    )
