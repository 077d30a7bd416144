"""The kidney stage on a scan: searched coarsely, then looked at closely where something was seen.

Arrays are (Z, Y, X) on the stage's grid. The close look sees parts of a window; so that a network
makes of a part what it makes of the whole, its norms keep the statistics of a window around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kitspipe.imaging.volume import MINIMAL_HU, Box, Grid, Shape
from kitspipe.networks.device import autocast
from kitspipe.networks.inference import Statistics, fixed, recorded
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.planning.plan import KidneyPlan
from kitspipe.prediction.effort import Effort
from kitspipe.prediction.search import (
    MARGIN_MM,
    body_box,
    in_plane_starts,
    search,
    thin_depth,
)
from kitspipe.prediction.windows import predict_windows
from kitspipe.preprocessing.intensity import background_value, normalize

KIDNEY_THRESHOLD = 0.5
_SEARCH_BELOW = 2
_BORDER_VOXELS = 2
_MOST_LOOKS = 4
_AXES = {"z": -3, "y": -2, "x": -1}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """Probability of kidney in a part of the scan.

    Args:
        probability: (Z, Y, X) float32.
        grid: its place.
    """

    probability: NDArray[np.float32]
    grid: Grid


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KidneyStage:
    """Networks of the kidney stage and how they are asked.

    Args:
        networks: averaged in probability.
        plan: the stage's.
        device: where they run.
        effort: what is left out.
    """

    networks: Sequence[ResUNet3D]
    plan: KidneyPlan
    device: torch.device
    effort: Effort

    @torch.inference_mode()
    def probability(self, hu: NDArray[np.int16]) -> NDArray[np.float32]:
        """Probability of kidney in a whole scan from all windows of the plan.

        Args:
            hu: (Z, Y, X) HU.

        Returns:
            (Z*rz, Y*ry, X*rx) float32 on the refined grid.

        Source: paper 2.4.
        """
        plan = self.plan
        return predict_windows(
            normalize(hu, plan.hu_window),
            lambda patches: self._close(patches, {}),
            patch_size=plan.patch_size,
            stride=plan.window_stride,
            refinement=plan.network.target_refinement,
            blend=plan.window_blend,
            fill=background_value(plan.hu_window),
        )

    @torch.inference_mode()
    def regions(self, hu: NDArray[np.int16], grid: Grid) -> list[Region]:
        """Probability of kidney wherever there may be some; none where nothing was seen.

        Args:
            hu: (Z, Y, X) HU.
            grid: its place.
        """
        gap = self.effort.search_gap
        if gap is None:
            refined = grid.refined(self.plan.network.target_refinement)
            return [Region(probability=self.probability(hu), grid=refined)]
        hu, grid = self._padded(hu, grid)
        inside = body_box(hu, grid)
        thin = thin_depth(self.plan.patch_size[0], self.plan.network.divisor[0])
        boxes = self._search(hu, grid, inside, depth=thin, gap=gap * thin, below=_SEARCH_BELOW)
        if not boxes:
            # Before a scan is said to have no kidney, every slice is looked at.
            whole = self._half_depth()
            boxes = self._search(hu, grid, inside, depth=whole, gap=0, below=1)
        statistics: dict[int, _Statistics] = {}
        return [
            self._region(hu, grid, box, self._near(hu, inside, box, statistics)) for box in boxes
        ]

    def _search(
        self, hu: NDArray[np.int16], grid: Grid, inside: Box, *, depth: int, gap: int, below: int
    ) -> tuple[Box, ...]:
        network, plan = self.networks[0], self.plan
        number = min(below, plan.network.levels - 1)
        strides = plan.network.strides[:number]
        z, y, x = (math.prod(s[axis] for s in strides) for axis in range(3))

        def look(box: Box) -> NDArray[np.float32]:
            with autocast(self.device):
                logits = network.forward_coarse(self._tensor(hu[box.slices]), number)
            found: NDArray[np.float32] = torch.sigmoid(logits.float())[0, 0].cpu().numpy()
            return found

        _, height, width = plan.patch_size
        return search(
            grid.shape,
            look,
            inside=inside,
            window=(depth, height, width),
            gap=gap,
            scale=(z, y, x),
            grid=grid,
        )

    def _region(
        self, hu: NDArray[np.int16], grid: Grid, box: Box, statistics: _Statistics
    ) -> Region:
        """A close look at a box, which grows until what is found ends within it."""
        for _ in range(_MOST_LOOKS):
            box = _divisible(box, self.plan.network.divisor, grid.shape)
            probability = self._look_closely(hu[box.slices], statistics)
            looked_at, box = box, _grown(box, probability >= KIDNEY_THRESHOLD, grid)
            if box == looked_at:
                break
        return Region(probability=probability, grid=grid.crop(looked_at).refined(self._refinement))

    def _look_closely(self, hu: NDArray[np.int16], statistics: _Statistics) -> NDArray[np.float32]:
        """Probability in a part of the scan, in one pass where it is not larger than a window."""
        image = normalize(hu, self.plan.hu_window)
        if hu.size <= self._most_voxels():
            return self._close(image[None], statistics)[0]
        most = (self._half_depth(), *self.plan.patch_size[1:])
        window = tuple(map(min, hu.shape, most))
        return predict_windows(
            image,
            lambda patches: self._close(patches, statistics),
            patch_size=window,  # type: ignore[arg-type]
            stride=tuple(max(1, n // 2) for n in window),  # type: ignore[arg-type]
            refinement=self._refinement,
            blend=self.plan.window_blend,
        )

    def _near(
        self, hu: NDArray[np.int16], inside: Box, box: Box, known: dict[int, _Statistics]
    ) -> _Statistics:
        """What norms see in a window at the height of a box; `known` ones near it are taken."""
        _, height, width = self.plan.patch_size
        depth = self._half_depth()
        middle = (box.start[0] + box.stop[0]) // 2
        near = next((z for z in known if abs(z - middle) <= depth), None)
        if near is not None:
            return known[near]
        first = min(max(0, middle - depth // 2), hu.shape[0] - depth)
        row, column = next(in_plane_starts(inside, hu.shape, (depth, height, width)))  # type: ignore[arg-type]
        window = hu[first : first + depth, row : row + height, column : column + width]
        seen: _Statistics = {}
        for number, network in enumerate(self.networks):
            for flip in self._flips():
                with recorded(network) as statistics:
                    self._forward(network, self._tensor(window).flip(flip))
                seen[number, flip] = statistics
        known[middle] = seen
        return seen

    def _close(self, patches: NDArray[np.float32], statistics: _Statistics) -> NDArray[np.float32]:
        """(N, Z, Y, X) in network units to the mean probability, (N, Z*rz, Y*ry, X*rx)."""
        image = torch.from_numpy(patches)[:, None].to(self.device)
        total: Tensor | None = None
        for number, network in enumerate(self.networks):
            for flip in self._flips():
                with ExitStack() as stack:
                    if (number, flip) in statistics:
                        stack.enter_context(fixed(network, statistics[number, flip]))
                    logits = self._forward(network, image.flip(flip))
                probability = torch.sigmoid(logits.float()).flip(flip)
                total = probability if total is None else total.add_(probability)
        if total is None:
            raise ValueError("no network to ask")
        mean: NDArray[np.float32] = (
            total.div_(len(self.networks) * len(self._flips()))[:, 0].cpu().numpy()
        )
        return mean

    def _forward(self, network: ResUNet3D, image: Tensor) -> Tensor:
        with autocast(self.device):
            if self.effort.levels_below == 0:
                finest: Tensor = network.forward_finest(image)
                return finest
            coarse = network.forward_coarse(image, self.effort.levels_below)
            return F.interpolate(
                coarse.float(), list(image.shape[2:]), mode="trilinear", align_corners=False
            )

    @property
    def _refinement(self) -> Shape:
        return self.plan.network.target_refinement if self.effort.levels_below == 0 else (1, 1, 1)

    def _flips(self) -> list[tuple[int, ...]]:
        return flips(self.plan.augmentation.mirror_axes, mirror=self.effort.mirror)

    def _tensor(self, hu: NDArray[np.int16]) -> Tensor:
        """(Z, Y, X) HU to (1, 1, Z, Y, X) on the device."""
        return torch.from_numpy(normalize(hu, self.plan.hu_window))[None, None].to(self.device)

    def _half_depth(self) -> int:
        """Slices of half a window, which bound the memory that a pass takes."""
        divisor = self.plan.network.divisor[0]
        return max(divisor, self.plan.patch_size[0] // 2 // divisor * divisor)

    def _most_voxels(self) -> int:
        return self._half_depth() * math.prod(self.plan.patch_size[1:])

    def _padded(self, hu: NDArray[np.int16], grid: Grid) -> tuple[NDArray[np.int16], Grid]:
        """The scan with air around, as large as a window and divisible by the strides."""
        wanted = [
            max(size, -(-n // divisor) * divisor)
            for n, size, divisor in zip(
                hu.shape,
                (self._half_depth(), *self.plan.patch_size[1:]),
                self.plan.network.divisor,
                strict=True,
            )
        ]
        pads = [(want - n) for n, want in zip(hu.shape, wanted, strict=True)]
        if not any(pads):
            return hu, grid
        before = tuple(pad // 2 for pad in pads)
        box = Box(
            start=tuple(-b for b in before),  # type: ignore[arg-type]
            stop=tuple(want - b for b, want in zip(before, wanted, strict=True)),  # type: ignore[arg-type]
        )
        sides = [(b, pad - b) for b, pad in zip(before, pads, strict=True)]
        return np.pad(hu, sides, constant_values=MINIMAL_HU), grid.crop(box)


_Statistics = dict[tuple[int, tuple[int, ...]], Statistics]
"""(network's number, mirrored axes) -> what its norms saw."""


def flips(axes: Sequence[str], *, mirror: bool) -> list[tuple[int, ...]]:
    """Axes to flip, counted from the last, for each look: all combinations, none first.

    Args:
        axes: which a training mirrored, "z", "y", "x".
        mirror: whether to mirror at all.
    """
    places = [_AXES[axis] for axis in axes] if mirror else []
    return [chosen for n in range(len(places) + 1) for chosen in combinations(places, n)]


def _divisible(box: Box, divisor: Shape, shape: Shape) -> Box:
    """The box grown to what the strides divide, within a scan that they divide."""
    start, stop = [], []
    for a, b, by, n in zip(box.start, box.stop, divisor, shape, strict=True):
        size = -(-(b - a) // by) * by
        first = min(max(0, a - (size - (b - a)) // 2), n - size)
        start.append(first)
        stop.append(first + size)
    return Box(start=tuple(start), stop=tuple(stop))  # type: ignore[arg-type]


def _grown(box: Box, found: NDArray[np.bool_], grid: Grid) -> Box:
    """The box with more on the sides at which something is found; of the scan's ends none."""
    start, stop = list(box.start), list(box.stop)
    for axis in range(3):
        fine = _BORDER_VOXELS * (found.shape[axis] // box.shape[axis])
        more = math.ceil(MARGIN_MM / grid.spacing[axis])
        along = np.moveaxis(found, axis, 0)
        if along[:fine].any():
            start[axis] = max(0, start[axis] - more)
        if along[-fine:].any():
            stop[axis] = min(grid.shape[axis], stop[axis] + more)
    return Box(start=tuple(start), stop=tuple(stop))  # type: ignore[arg-type]
