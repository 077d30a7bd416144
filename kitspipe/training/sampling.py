"""Which case and patch comes next; hard cases.

Every random decision is keyed by (seed, stage, epoch, sample), see `random_keys.py`, so that the
same plan and data give the same patches whatever the number of workers, and a resumed training the
same as one that never stopped. Boxes are in (Z, Y, X) voxels of a region's image and may
reach outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.imaging.volume import Box
from kitspipe.planning.plan import KidneyPlan, Schedule, TumorPlan
from kitspipe.preprocessing.store import TrainingCase
from kitspipe.training.changes import NOTHING, AugmentationParameters
from kitspipe.training.random_keys import Purpose, SampleKey

_KIDNEY, _TUMOR = 1, 2
HARD_POINTS_PER_REGION = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchRequest:
    """What a worker reads: a box of a region, and what its change needs around it.

    Args:
        region: index into the sampler's cases.
        box: voxels of the image.
        key: of all random decisions for this patch.
        mask_jitter_mm: how far the kidney mask's border wanders around its place (tumor stage).
        parameters: the change that is applied afterwards.
    """

    region: int
    box: Box
    key: SampleKey
    mask_jitter_mm: float = 0.0
    parameters: AugmentationParameters = NOTHING


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CaseDifficulty:
    """How badly a training case is segmented.

    Args:
        case_id: the scan.
        dice: tumor Dice over its regions, NaN without tumor and without prediction.
        false_positive_ml: predicted tumor where there is none.
        false_points: region name -> (n, 3) int32 voxels (Z, Y, X) of false tumor.
    """

    case_id: str
    dice: float
    false_positive_ml: float
    false_points: dict[str, NDArray[np.int32]]


def samples_per_epoch(schedule: Schedule, cases: int) -> int:
    """Patches of an epoch: a multiple of the batch size that shows every case at least once.

    Args:
        schedule: the plan's; `steps_per_epoch` None means every case once (paper 2.3).
        cases: training cases.
    """
    steps = schedule.steps_per_epoch
    if steps is None:
        steps = -(-cases // schedule.batch_size)
    return steps * schedule.batch_size


class KidneySampler:
    """Patches of whole scans: every case equally often, in an order drawn anew each round."""

    def __init__(self, cases: Sequence[TrainingCase], plan: KidneyPlan, seed: int) -> None:
        self.cases = tuple(cases)
        self._plan = plan
        self._seed = seed
        self._per_epoch = samples_per_epoch(plan.schedule, len(self.cases))
        self.weights: dict[str, float] = {}

    def request(self, epoch: int, sample: int) -> PatchRequest:
        """The patch number `sample` of an epoch."""
        number, position = divmod(epoch * self._per_epoch + sample, len(self.cases))
        round_ = SampleKey(seed=self._seed, stage=_KIDNEY, epoch=number, sample=0)
        order = round_.stream(Purpose.ORDER).permutation(len(self.cases))
        region = int(order[position])
        key = SampleKey(seed=self._seed, stage=_KIDNEY, epoch=epoch, sample=sample)
        box = self._box(self.cases[region], key.stream(Purpose.PLACE))
        return PatchRequest(region=region, box=box, key=key)

    def state(self) -> dict[str, Any]:
        """Nothing but the arrays that are trained on, which must stay the same."""
        return {"arrays": _digest(self.cases)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as the sampler whose `state` this is.

        Raises:
            UserError: that one drew from other arrays.
        """
        _require_same_arrays(state, self.cases)

    def _box(self, case: TrainingCase, rng: np.random.Generator) -> Box:
        points = case.points["kidney"]
        size = self._plan.patch_size
        if rng.random() < self._plan.sampling.foreground_share and len(points):
            center = points[rng.integers(len(points))]
            starts = [int(c - rng.integers(n)) for c, n in zip(center, size, strict=True)]
        else:
            low, high = self._slice_range(case)
            starts = [
                int(rng.integers(a, max(a, b - n) + 1))
                for (a, b), n in zip(
                    ((low, high), (0, case.grid.shape[1]), (0, case.grid.shape[2])),
                    size,
                    strict=True,
                )
            ]
        limits = zip(starts, size, case.grid.shape, strict=True)
        return _box_at([_inside(start, n, length) for start, n, length in limits], size)

    def _slice_range(self, case: TrainingCase) -> tuple[int, int]:
        """Slices of the kidneys and `margin_mm` above and below (paper 2.2: 50 of 2 mm)."""
        margin_mm, slices = self._plan.sampling.margin_mm, case.grid.shape[0]
        points = case.points["kidney"]
        if margin_mm is None or not len(points):
            return 0, slices
        margin = round(margin_mm / case.grid.spacing[0])
        return (
            max(0, int(points[:, 0].min()) - margin),
            min(slices, int(points[:, 0].max()) + 1 + margin),
        )


class TumorSampler:
    """Slabs of kidney regions: tumors, hard places and the rest in the plan's shares.

    Cases are drawn with weights that `update` sets from the model's own errors on them. A share of
    the slabs comes from regions around predicted kidneys, for cases that have such.

    Args:
        cases: regions around reference kidneys.
        plan: the tumor stage's plan.
        seed: the plan's.
        predicted: regions around kidneys that networks of other folds predicted in these cases.

    Source: paper 3.4, which gives no algorithm; rank weights and shares as docs/plan.md says.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        plan: TumorPlan,
        seed: int,
        predicted: Sequence[TrainingCase] = (),
    ) -> None:
        self.cases = (*cases, *predicted)
        self._plan = plan
        self._seed = seed
        self._of_case: dict[str, list[int]] = {}
        self._predicted_of_case: dict[str, list[int]] = {}
        for index, case in enumerate(self.cases):
            regions = self._of_case if index < len(cases) else self._predicted_of_case
            regions.setdefault(case.case_id, []).append(index)
        self._ids = tuple(self._of_case)
        self.weights = dict.fromkeys(self._ids, 1.0)
        self._false_points: dict[str, NDArray[np.int32]] = {}

    def request(self, epoch: int, sample: int) -> PatchRequest:
        """The slab number `sample` of an epoch."""
        key = SampleKey(seed=self._seed, stage=_TUMOR, epoch=epoch, sample=sample)
        rng = key.stream(Purpose.PLACE)
        weights = np.array([self.weights[case_id] for case_id in self._ids])
        case_id = self._ids[rng.choice(len(self._ids), p=weights / weights.sum())]
        of_others = self._predicted_of_case.get(case_id, [])
        is_predicted = rng.random() < self._plan.sampling.out_of_fold_share and bool(of_others)
        regions = of_others if is_predicted else self._of_case[case_id]
        region, points = self._points(regions, rng)
        center = points[rng.integers(len(points))]
        size = (self._plan.slab_depth, *self._plan.patch_size)
        shape = self.cases[region].grid.shape
        starts = [int(center[0]) - self._plan.slab_depth // 2]
        for axis in (1, 2):
            offset = int(rng.integers(size[axis] // 4, size[axis] - size[axis] // 4))
            starts.append(_inside(int(center[axis]) - offset, size[axis], shape[axis]))
        return PatchRequest(
            region=region,
            box=_box_at(starts, size),
            key=key,
            mask_jitter_mm=0.0 if is_predicted else self._mask_jitter_mm(rng),
        )

    def update(self, difficulties: Sequence[CaseDifficulty]) -> None:
        """Weigh cases by 1 + strength x rank of (1 - Dice + false-positive volume rank)."""
        loss = np.array([0.0 if np.isnan(d.dice) else 1 - d.dice for d in difficulties])
        false_ml = np.array([d.false_positive_ml for d in difficulties])
        rank = _ranks(loss + _ranks(false_ml))
        for difficulty, place in zip(difficulties, rank, strict=True):
            self.weights[difficulty.case_id] = float(
                1 + self._plan.sampling.hard_case_strength * place
            )
            for region, points in difficulty.false_points.items():
                self._false_points[f"{difficulty.case_id}/{region}"] = points

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        return {
            "arrays": _digest(self.cases),
            "weights": self.weights,
            "false_points": {name: p.tolist() for name, p in self._false_points.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as the sampler whose `state` this is.

        Raises:
            UserError: that one drew from other arrays.
        """
        _require_same_arrays(state, self.cases)
        self.weights = {case_id: float(state["weights"].get(case_id, 1.0)) for case_id in self._ids}
        self._false_points = {
            name: np.asarray(points, np.int32).reshape(-1, 3)
            for name, points in state["false_points"].items()
        }

    def _points(
        self, regions: Sequence[int], rng: np.random.Generator
    ) -> tuple[int, NDArray[np.int32]]:
        """One of a case's regions and the voxels one of which the slab is drawn around."""
        sampling, kind = self._plan.sampling, rng.random()
        candidates: list[tuple[int, NDArray[np.int32]]] = []
        if kind < sampling.positive_share:
            candidates = [(index, self.cases[index].points["tumor"]) for index in regions]
        elif kind < sampling.positive_share + sampling.hard_share:
            for index in regions:
                case = self.cases[index]
                candidates.append((index, case.points["cyst"]))
                false = self._false_points.get(case.name)
                if false is not None:
                    candidates.append((index, false))
        candidates = [(index, points) for index, points in candidates if len(points)]
        if not candidates:
            candidates = [(index, self.cases[index].points["kidney"]) for index in regions]
        return candidates[rng.integers(len(candidates))]

    def _mask_jitter_mm(self, rng: np.random.Generator) -> float:
        """Some slabs see a mask as wrong in its border as a predicted one is."""
        sampling = self._plan.sampling
        return sampling.mask_jitter_mm if rng.random() < sampling.jittered_mask_share else 0.0


def _digest(cases: Sequence[TrainingCase]) -> str:
    """Hash of which regions there are, and of all that their arrays depend on."""
    names = "".join(f"{case.name} {case.key}\n" for case in cases)
    return hashlib.sha256(names.encode()).hexdigest()


def _require_same_arrays(state: dict[str, Any], cases: Sequence[TrainingCase]) -> None:
    if state.get("arrays") != _digest(cases):
        raise UserError(
            cases[0].folder.parents[1],
            found="other training arrays than this training began with: a scan, a mask, the folds "
            "or the predicted kidneys changed",
            expected="the same arrays to the end of a training",
            remedy="bring them back, or start anew with --restart",
        )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 (least) to 1 (most); ties share the lower rank, all equal give 0."""
    ordered = np.sort(values)
    ranks: NDArray[np.float64] = np.searchsorted(ordered, values) / max(1, len(values) - 1)
    return ranks


def _inside(start: int, size: int, length: int) -> int:
    """A start moved so that the patch stays inside, or lies around the middle of a short axis."""
    if size >= length:
        return -((size - length) // 2)
    return min(max(start, 0), length - size)


def _box_at(starts: Sequence[int], size: Sequence[int]) -> Box:
    z, y, x = starts
    return Box(start=(z, y, x), stop=(z + size[0], y + size[1], x + size[2]))
