"""The kidney stage on a scan: searched coarsely, then looked at closely where something was seen.

Arrays are (Z, Y, X) on the stage's grid. The close look takes windows as large as the plan's, since
instance norms make of a part something else than of a whole window; over the body, as windows that
hold much air and a piece of liver see kidney in it; and only those that count where kidney may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from kitspipe.imaging.volume import MINIMAL_HU, Box, Grid, Shape
from kitspipe.networks.device import autocast
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.planning.plan import KidneyPlan
from kitspipe.prediction.agreement import Votes
from kitspipe.prediction.effort import Effort
from kitspipe.prediction.passes import Ballot, flips, mean_probability
from kitspipe.prediction.search import (
    MARGIN_MM,
    SKIN_MM,
    Possible,
    body_box,
    search,
    thin_depth,
)
from kitspipe.prediction.windows import (
    Part,
    Window,
    predict_windows,
    spans_of,
    starts_over,
    window_slices,
    window_starts,
    windows_that_count,
)
from kitspipe.preprocessing.intensity import background_value, normalize

KIDNEY_THRESHOLD = 0.5
_LEAST_SHARE = 0.05
"""A window that nowhere makes up more of what is said of a possible kidney is left out."""
_COARSEST_MM = 5.0
"""Voxels of a coarser decoder level that still show a kidney's border."""
_SEARCH_BELOW = 2
_MOST_LOOKS = 3

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
        votes: gets those of the members in the close look.
    """

    networks: Sequence[ResUNet3D]
    plan: KidneyPlan
    device: torch.device
    effort: Effort
    votes: Votes | None = None

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
            lambda patches: self._mean_probability(patches, self._finest),
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
        depth, divisor = self.plan.patch_size[0], self.plan.network.divisor[0]
        thin = thin_depth(depth, divisor)
        possible = self._search(hu, grid, inside, depth=thin, gap=gap * thin, below=_SEARCH_BELOW)
        if possible.box is None:
            # Before a scan is said to have no kidney, every slice is looked at.
            possible = self._search(hu, grid, inside, depth=depth, gap=0, below=1)
        body = inside.dilate(SKIN_MM, grid).clip(grid.shape)
        return self._close_look(hu, grid, body, possible)

    def _search(
        self, hu: NDArray[np.int16], grid: Grid, inside: Box, *, depth: int, gap: int, below: int
    ) -> Possible:
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

    def _close_look(
        self, hu: NDArray[np.int16], grid: Grid, body: Box, possible: Possible
    ) -> list[Region]:
        """What windows say where there may be kidney, looked at anew where it goes on."""
        below = self._levels_below(grid)
        refinement = (1, 1, 1) if below else self.plan.network.target_refinement
        logits_of = partial(_coarse, below=below) if below else self._finest

        def forward(patch: NDArray[np.int16], weights: NDArray[np.float32]) -> NDArray[np.float32]:
            image = normalize(patch, self.plan.hu_window)
            found = self._mean_probability(image[None], logits_of, weights[None])
            probability: NDArray[np.float32] = found[0]
            return probability

        box = possible.box
        if box is None:
            return []
        reach = tuple(
            (_MOST_LOOKS - 1) * (math.ceil(MARGIN_MM / mm) + scale)
            for mm, scale in zip(grid.spacing, possible.scale, strict=True)
        )
        part = Part(
            _grown(box, reach, grid.shape),
            patch_size=self.plan.patch_size,
            refinement=refinement,
            blend=self.plan.window_blend,
        )
        done: set[Window] = set()
        for _ in range(_MOST_LOOKS):
            for window in self._windows(body, possible):
                if window not in done:
                    done.add(window)
                    patch = hu[window_slices(window, self.plan.patch_size)]
                    weights = part.weights(window)
                    part.add(window, forward(patch, weights), weights)
            found = part.probability(box) >= KIDNEY_THRESHOLD
            more = _beyond(box, _coarser(found, refinement), part.seen(box), grid)
            if not more:
                break
            possible = possible.only(more)
            box = box.around_both(possible.box or box).overlap(part.box)
        return [Region(probability=part.probability(box), grid=grid.crop(box).refined(refinement))]

    def _windows(self, body: Box, possible: Possible) -> list[Window]:
        """The plan's windows over the body that count there, or fewer, as the effort says."""
        plan, box = self.plan, possible.box
        if box is None:
            return []
        core, spans = self.effort.core, []
        for axis, (length, size) in enumerate(zip(possible.shape, plan.patch_size, strict=True)):
            first, within = body.start[axis], body.shape[axis]
            if core is None and within > size * (1 + self.effort.slack):
                starts = window_starts(within, size, plan.window_stride[axis])
                spans.append(spans_of([first + start for start in starts], size))
            else:
                middle = size if core is None else max(1, round(size * core))
                part = (box.start[axis], box.stop[axis])
                spans.append(spans_of(starts_over(part, length, size, middle), size))
        return windows_that_count(
            spans,
            possible.mask,
            possible.scale,
            plan.patch_size,
            blend=plan.window_blend,
            least_share=_LEAST_SHARE,
        )

    def _levels_below(self, grid: Grid) -> int:
        """Decoder levels below the finest whose voxels are still fine enough."""
        below = min(self.effort.levels_below, self.plan.network.levels - 1)
        strides = self.plan.network.strides
        while below and any(
            mm * math.prod(stride[axis] for stride in strides[:below]) > _COARSEST_MM
            for axis, mm in enumerate(grid.spacing)
        ):
            below -= 1
        return below

    def _mean_probability(
        self,
        patches: NDArray[np.float32],
        logits_of: _Logits,
        weights: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """(N, Z, Y, X) in network units to (N, Z*rz, Y*ry, X*rx).

        With weights of that shape, votes are counted.
        """
        networks = [partial(logits_of, network) for network in self.networks]
        turned = flips(self.plan.augmentation.mirror_axes, mirror=self.effort.mirror)
        image = torch.from_numpy(patches)[:, None].to(self.device)
        if self.votes is None or weights is None:
            return mean_probability(networks, image, turned)[:, 0]
        ballot = Ballot(KIDNEY_THRESHOLD, networks=len(networks), passes=len(turned))
        mean = mean_probability(networks, image, turned, ballot)[:, 0]
        self.votes.add(ballot.votes, weights)
        return mean

    @staticmethod
    def _finest(network: ResUNet3D, image: Tensor) -> Tensor:
        return network.forward_finest(image)

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


def _coarse(network: ResUNet3D, image: Tensor, *, below: int) -> Tensor:
    """Logits of a coarser level, upsampled to the image."""
    coarse = network.forward_coarse(image, below).float()
    return F.interpolate(coarse, list(image.shape[2:]), mode="trilinear", align_corners=False)


def _beyond(box: Box, found: NDArray[np.bool_], seen: NDArray[np.bool_], grid: Grid) -> list[Box]:
    """What lies around kidney that reaches voxels that no window has seen; not beyond the scan.

    Args:
        box: what was looked at.
        found: (Z, Y, X) of the box, kidney.
        seen: the same, where windows counted.
        grid: the scan's.
    """
    # Beyond the box, nothing was looked at; beyond the scan, there is nothing.
    unseen = np.pad(~seen, 1, constant_values=False)
    for axis in range(3):
        faces = np.moveaxis(unseen, axis, 0)
        faces[0].fill(box.start[axis] > 0)
        faces[-1].fill(box.stop[axis] < grid.shape[axis])
    edges = found & ndimage.binary_dilation(unseen)[1:-1, 1:-1, 1:-1]
    numbered, _ = ndimage.label(edges, np.ones((3, 3, 3), bool))
    beyond = []
    for z, y, x in ndimage.find_objects(numbered):
        place = Box(start=(z.start, y.start, x.start), stop=(z.stop, y.stop, x.stop))
        beyond.append(place.shifted(box.start).dilate(MARGIN_MM, grid).clip(grid.shape))
    return beyond


def _coarser(mask: NDArray[np.bool_], refinement: Shape) -> NDArray[np.bool_]:
    """Where any of the finer voxels is True."""
    z, y, x = (n // r for n, r in zip(mask.shape, refinement, strict=True))
    rz, ry, rx = refinement
    coarse: NDArray[np.bool_] = np.any(mask.reshape(z, rz, y, ry, x, rx), axis=(1, 3, 5))
    return coarse


def _grown(box: Box, by: Sequence[int], shape: Shape) -> Box:
    """A box with so many voxels more on each side of an axis, within the scan."""
    return Box(
        start=tuple(a - n for a, n in zip(box.start, by, strict=True)),  # type: ignore[arg-type]
        stop=tuple(b + n for b, n in zip(box.stop, by, strict=True)),  # type: ignore[arg-type]
    ).clip(shape)
