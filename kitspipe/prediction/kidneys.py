"""The kidney stage on a scan: searched coarsely, then looked at closely where something was seen.

Arrays are (Z, Y, X) on the stage's grid. The close look takes windows as large as the plan's, since
instance norms make of a part something else than of a whole window; but as few as cover the kidneys
with the windows' middles, and placed where the kidneys are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kitspipe.imaging.volume import MINIMAL_HU, Box, Grid, Shape
from kitspipe.networks.device import autocast
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.planning.plan import KidneyPlan
from kitspipe.prediction.effort import Effort
from kitspipe.prediction.search import MARGIN_MM, body_box, search, thin_depth
from kitspipe.prediction.windows import predict_windows, starts_over
from kitspipe.preprocessing.intensity import background_value, normalize

KIDNEY_THRESHOLD = 0.5
_POSSIBLE = 0.05
_SEARCH_BELOW = 2
_MOST_LOOKS = 3
_AXES = {"z": -3, "y": -2, "x": -1}

_Logits = Callable[[ResUNet3D, Tensor], Tensor]


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
        return self._windows(hu, None, self._finest)

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
        depth, divisor = self.plan.patch_size[0], self.plan.network.divisor[0]
        thin = thin_depth(depth, divisor)
        boxes = self._search(hu, grid, inside, depth=thin, gap=gap * thin, below=_SEARCH_BELOW)
        if not boxes:
            # Before a scan is said to have no kidney, every slice is looked at.
            boxes = self._search(hu, grid, inside, depth=depth, gap=0, below=1)
        return [self._region(hu, grid, box) for box in _by_height(boxes)]

    def _search(
        self, hu: NDArray[np.int16], grid: Grid, inside: Box, *, depth: int, gap: int, below: int
    ) -> tuple[Box, ...]:
        network, plan = self.networks[0], self.plan
        below = min(below, plan.network.levels - 1)
        z, y, x = (
            math.prod(stride[axis] for stride in plan.network.strides[:below]) for axis in range(3)
        )

        def look(box: Box) -> NDArray[np.float32]:
            image = torch.from_numpy(normalize(hu[box.slices], plan.hu_window)).to(self.device)
            with autocast(self.device):
                logits = network.forward_coarse(image[None, None], below)
            found: NDArray[np.float32] = torch.sigmoid(logits.float())[0, 0].cpu().numpy()
            return found

        return search(
            look,
            inside=inside,
            window=(depth, *plan.patch_size[1:]),
            gap=gap,
            scale=(z, y, x),
            grid=grid,
        )

    def _region(self, hu: NDArray[np.int16], grid: Grid, box: Box) -> Region:
        """A close look at a box, which grows until what is found ends within the windows."""
        coarse = self.effort.levels_below > 0
        refinement = (1, 1, 1) if coarse else self.plan.network.target_refinement
        for _ in range(_MOST_LOOKS):
            starts = [
                starts_over((a, b), n, size, max(stride, round(size * core)))
                for a, b, n, size, stride, core in zip(
                    box.start,
                    box.stop,
                    hu.shape,
                    self.plan.patch_size,
                    self.plan.window_stride,
                    self.effort.cores,
                    strict=True,
                )
            ]
            seen = Box(
                start=tuple(axis[0] for axis in starts),  # type: ignore[arg-type]
                stop=tuple(
                    axis[-1] + n for axis, n in zip(starts, self.plan.patch_size, strict=True)
                ),  # type: ignore[arg-type]
            )
            inner = [[s - axis[0] for s in axis] for axis in starts]
            probability = self._windows(
                hu[seen.slices], inner, self._coarse if coarse else self._finest, refinement
            )
            larger = _grown(box, seen, probability >= KIDNEY_THRESHOLD, grid)
            if larger == box:
                break
            box = larger
        return _possible(Region(probability=probability, grid=grid.crop(seen).refined(refinement)))

    def _windows(
        self,
        hu: NDArray[np.int16],
        starts: Sequence[Sequence[int]] | None,
        logits_of: _Logits,
        refinement: Shape | None = None,
    ) -> NDArray[np.float32]:
        plan = self.plan

        def forward(patches: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._mean_probability(torch.from_numpy(patches)[:, None], logits_of)

        return predict_windows(
            normalize(hu, plan.hu_window),
            forward,
            patch_size=plan.patch_size,
            stride=plan.window_stride,
            refinement=plan.network.target_refinement if refinement is None else refinement,
            blend=plan.window_blend,
            fill=background_value(plan.hu_window),
            starts=starts,
        )

    def _mean_probability(self, image: Tensor, logits_of: _Logits) -> NDArray[np.float32]:
        """(N, 1, Z, Y, X) in network units to (N, Z*rz, Y*ry, X*rx)."""
        image = image.to(self.device)
        turned = flips(self.plan.augmentation.mirror_axes, mirror=self.effort.mirror)
        looks = [(network, flip) for network in self.networks for flip in turned]
        total = torch.zeros(())
        for network, flip in looks:
            with autocast(self.device):
                logits = logits_of(network, image.flip(flip))
            probability = torch.sigmoid(logits.float()).flip(flip)
            total = probability if total.dim() == 0 else total.add_(probability)
        mean: NDArray[np.float32] = total.div_(len(looks))[:, 0].cpu().numpy()
        return mean

    @staticmethod
    def _finest(network: ResUNet3D, image: Tensor) -> Tensor:
        return network.forward_finest(image)

    def _coarse(self, network: ResUNet3D, image: Tensor) -> Tensor:
        coarse = network.forward_coarse(image, self.effort.levels_below).float()
        return F.interpolate(coarse, list(image.shape[2:]), mode="trilinear", align_corners=False)

    def _padded(self, hu: NDArray[np.int16], grid: Grid) -> tuple[NDArray[np.int16], Grid]:
        """The scan with air around, at least as large as a window."""
        pads = [max(0, size - n) for n, size in zip(hu.shape, self.plan.patch_size, strict=True)]
        if not any(pads):
            return hu, grid
        before = [pad // 2 for pad in pads]
        box = Box(
            start=tuple(-b for b in before),
            stop=tuple(n + pad - b for b, n, pad in zip(before, hu.shape, pads, strict=True)),
        )
        sides = [(b, pad - b) for b, pad in zip(before, pads, strict=True)]
        return np.pad(hu, sides, constant_values=MINIMAL_HU), grid.crop(box)


def flips(axes: Sequence[str], *, mirror: bool) -> list[tuple[int, ...]]:
    """Axes to flip, counted from the last, for each look: all combinations, none first.

    Args:
        axes: which a training mirrored, "z", "y", "x".
        mirror: whether to mirror at all.
    """
    places = [_AXES[axis] for axis in axes] if mirror else []
    return [chosen for n in range(len(places) + 1) for chosen in combinations(places, n)]


def _by_height(boxes: Sequence[Box]) -> list[Box]:
    """Boxes at one height together, so that a window sees both kidneys."""
    together: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.start[0]):
        if together and box.start[0] < together[-1].stop[0]:
            together[-1] = together[-1].around_both(box)
        else:
            together.append(box)
    return together


def _grown(box: Box, seen: Box, found: NDArray[np.bool_], grid: Grid) -> Box:
    """The box with more on the sides where something found reaches the end of what was seen.

    At the scan's own ends nothing is added.

    Args:
        box: what the windows were meant to cover.
        seen: what they covered.
        found: (Z, Y, X), kidney on the voxels of `seen` or finer ones.
        grid: the scan's.
    """
    start, stop = list(box.start), list(box.stop)
    for axis in range(3):
        more = math.ceil(MARGIN_MM / grid.spacing[axis])
        if np.take(found, 0, axis).any() and seen.start[axis] > 0:
            start[axis] = max(0, seen.start[axis] - more)
        if np.take(found, -1, axis).any() and seen.stop[axis] < grid.shape[axis]:
            stop[axis] = min(grid.shape[axis], seen.stop[axis] + more)
    return Box(start=tuple(start), stop=tuple(stop))  # type: ignore[arg-type]


def _possible(region: Region) -> Region:
    """The part of a region in which there may be kidney, a voxel more on each side."""
    box = Box.around(region.probability >= _POSSIBLE)
    if box is None:
        box = Box(start=(0, 0, 0), stop=(1, 1, 1))
    box = box.dilate(max(region.grid.spacing), region.grid).clip(region.grid.shape)
    return Region(
        probability=np.ascontiguousarray(region.probability[box.slices]), grid=region.grid.crop(box)
    )
