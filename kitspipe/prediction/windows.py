"""Where windows lie, how overlaps blend, both ends complete.

Arrays are (Z, Y, X). A network may give finer output than its input by a whole factor per axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kitspipe.imaging.volume import Box, Shape

Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Patches (N, Z, Y, X) to probabilities (N, Z*rz, Y*ry, X*rx)."""

_GAUSSIAN_SIGMA = 1 / 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A window on one axis: it starts at `start` and owns [first, last)."""

    start: int
    first: int
    last: int


Window = tuple[Span, ...]
"""A window's spans on the three axes."""


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First voxels of the windows that cover an axis, both ends complete.

    Consecutive starts are `stride` apart but for the last, which ends at the axis' end.

    Args:
        length: voxels, at least `window`: the caller pads.
        window: voxels per window.
        stride: voxels between starts.

    Raises:
        ValueError: stride is larger than window (voxels would be skipped) or window than length.

    Source: paper 2.4, whose pseudo-code drops the first 16 and up to 32 + 15 last slices.
    """
    if not 1 <= stride <= window <= length:
        raise ValueError(f"need 1 <= stride {stride} <= window {window} <= length {length}")
    count = -(-(length - window) // stride) + 1
    return tuple(min(index * stride, length - window) for index in range(count))


def owned_spans(length: int, window: int, stride: int) -> tuple[Span, ...]:
    """The windows of an axis, each with the voxels for which its border is farthest.

    The spans [first, last) cover the axis without overlap: of 64-slice windows 32 apart the middle
    32 are kept, and the outer 16 at the axis' ends.

    Source: paper 2.4 ("output_array[16:48]").
    """
    # Between two windows the border lies in the middle of what both see.
    return spans_of(window_starts(length, window, stride), window)


def starts_over(part: tuple[int, int], length: int, window: int, core: int) -> tuple[int, ...]:
    """First voxels of the fewest windows whose middles cover a part of an axis.

    Args:
        part: first voxel and the one behind the last.
        length: voxels of the axis, at least `window`.
        window: voxels per window.
        core: voxels in a window's middle that count; at an axis' ends its border does, too.

    Raises:
        ValueError: the core is larger than the window, or the window than the axis.
    """
    if not 1 <= core <= window <= length:
        raise ValueError(f"need 1 <= core {core} <= window {window} <= length {length}")
    margin = (window - core) // 2
    # At the axis' ends there is nothing beyond that a window could see.
    low = 0 if part[0] <= margin else part[0] - margin
    high = length if part[1] >= length - margin else part[1] + margin
    count = max(1, math.ceil((high - low - 2 * margin) / core))
    if count == 1:
        return (min(max(0, (low + high - window) // 2), length - window),)
    return tuple(round(start) for start in np.linspace(low, high - window, count))


def spans_of(starts: Sequence[int], window: int) -> tuple[Span, ...]:
    """Windows that start there, each with the voxels for which its border is farthest."""
    cuts = [(a + window + b) // 2 for a, b in pairwise(starts)]
    return tuple(
        Span(start=start, first=first, last=last)
        for start, first, last in zip(
            starts, [starts[0], *cuts], [*cuts, starts[-1] + window], strict=True
        )
    )


def predict_windows(
    image: NDArray[np.float32],
    forward: Forward,
    *,
    patch_size: Shape,
    stride: Shape,
    refinement: Shape = (1, 1, 1),
    blend: Literal["center", "gaussian"] = "center",
    fill: float = 0.0,
) -> NDArray[np.float32]:
    """Probabilities of a whole volume from overlapping windows.

    Args:
        image: (Z, Y, X) float32; an axis shorter than the patch is padded on both ends.
        forward: what gives probabilities; gets a window at a time.
        patch_size: (Z, Y, X) voxels.
        stride: (Z, Y, X) voxels between windows, at most the patch.
        refinement: output voxels per input voxel and axis.
        blend: "center" takes each voxel from the window whose border is farthest (paper 2.4),
            "gaussian" averages with weights that fall to the border (sigma 1/8 of the patch).
        fill: what is padded.

    Returns:
        (Z*rz, Y*ry, X*rx) float32.
    """
    pads = [max(0, size - n) for size, n in zip(patch_size, image.shape, strict=True)]
    before = [pad // 2 for pad in pads]
    padded = np.pad(
        image,
        [(b, pad - b) for b, pad in zip(before, pads, strict=True)],
        constant_values=np.float32(fill),
    )
    spans = [owned_spans(*axis) for axis in zip(padded.shape, patch_size, stride, strict=True)]
    collect = _centers if blend == "center" else _gaussians
    windows = _probabilities(padded, forward, spans, patch_size)
    shape = [n * r for n, r in zip(padded.shape, refinement, strict=True)]
    whole = collect(windows, shape, spans, patch_size, refinement)
    return whole[
        tuple(
            slice(b * r, (b + n) * r)
            for b, n, r in zip(before, image.shape, refinement, strict=True)
        )
    ]


def window_slices(window: Window, patch_size: Shape) -> tuple[slice, ...]:
    """An index of a window's voxels in the volume."""
    return tuple(slice(s.start, s.start + n) for s, n in zip(window, patch_size, strict=True))


class Part:
    """Probabilities in a part of a volume, gathered from windows one after the other.

    Args:
        box: the part.
        patch_size: (Z, Y, X) voxels of a window.
        refinement: output voxels per input voxel and axis.
        blend: as for `predict_windows`, over the windows that came.
    """

    def __init__(
        self,
        box: Box,
        *,
        patch_size: Shape,
        refinement: Shape,
        blend: Literal["center", "gaussian"],
    ) -> None:
        self.box = box
        self._patch_size, self._refinement, self._blend = patch_size, refinement, blend
        shape = [n * r for n, r in zip(box.shape, refinement, strict=True)]
        self._sum, self._weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def weights(self, window: Window) -> NDArray[np.float32]:
        """How much each of a window's voxels counts, (Z*rz, Y*ry, X*rx); 0 outside the part."""
        inner, _ = self._meet(window)
        of_axes = []
        for span, size, r, place in zip(
            window, self._patch_size, self._refinement, inner, strict=True
        ):
            of_axis = np.zeros(size * r, np.float32)
            of_axis[place] = axis_weights(span, size, r, self._blend)[place]
            of_axes.append(of_axis)
        weights: NDArray[np.float32] = of_axes[0][:, None, None] * of_axes[1][:, None] * of_axes[2]
        return weights

    def add(
        self, window: Window, probability: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> None:
        """Take in what a window says, with its weights, both (Z*rz, Y*ry, X*rx)."""
        inner, outer = self._meet(window)
        weight = weights[inner]
        self._sum[outer] += probability[inner] * weight
        self._weight[outer] += weight

    def _meet(self, window: Window) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where window and part meet: in the window, and in the part."""
        inner, outer = [], []
        for span, size, r, first, last in zip(
            window, self._patch_size, self._refinement, self.box.start, self.box.stop, strict=True
        ):
            a, b = max(first, span.start), min(last, span.start + size)
            inner.append(slice((a - span.start) * r, (max(a, b) - span.start) * r))
            outer.append(slice((a - first) * r, (max(a, b) - first) * r))
        return tuple(inner), tuple(outer)

    def probability(self, box: Box) -> NDArray[np.float32]:
        """Of a box within the part, (Z*rz, Y*ry, X*rx) float32; 0 where no window counts."""
        place = self._place(box)
        weight = self._weight[place]
        return np.divide(self._sum[place], weight, out=np.zeros_like(weight), where=weight > 0)

    def seen(self, box: Box) -> NDArray[np.bool_]:
        """Where windows counted in a box within the part, (Z, Y, X) on the volume's voxels."""
        z, y, x = (
            slice(s.start, s.stop, r)
            for s, r in zip(self._place(box), self._refinement, strict=True)
        )
        seen: NDArray[np.bool_] = self._weight[z, y, x] > 0
        return seen

    def _place(self, box: Box) -> tuple[slice, ...]:
        return tuple(
            slice((a - first) * r, (b - first) * r)
            for a, b, first, r in zip(
                box.start, box.stop, self.box.start, self._refinement, strict=True
            )
        )


def axis_weights(
    span: Span, size: int, refinement: int, blend: Literal["center", "gaussian"]
) -> NDArray[np.float32]:
    """How much a window counts at each of its voxels along an axis, (size * refinement,)."""
    if blend == "gaussian":
        return _bell(size * refinement)
    owned = np.zeros(size * refinement, np.float32)
    owned[(span.first - span.start) * refinement : (span.last - span.start) * refinement] = 1
    return owned


def windows_that_count(
    spans: Sequence[Sequence[Span]],
    mask: NDArray[np.bool_],
    scale: Shape,
    patch_size: Shape,
    *,
    blend: Literal["center", "gaussian"],
    least_share: float,
) -> list[Window]:
    """The windows that make up at least a share of what all would say at some voxel of a mask.

    Args:
        spans: the windows of each axis.
        mask: (Z, Y, X) on coarse voxels.
        scale: voxels per coarse voxel.
        patch_size: (Z, Y, X) voxels.
        blend: how overlaps count.
        least_share: of what is said at a voxel, in (0, 1].
    """
    shares = []
    for axis, of_axis in enumerate(spans):
        places = (np.arange(mask.shape[axis]) * scale[axis] + scale[axis] // 2).astype(int)
        weights = np.zeros((len(of_axis), places.size), np.float32)
        for row, span in zip(weights, of_axis, strict=True):
            inside = (places >= span.start) & (places < span.start + patch_size[axis])
            values = axis_weights(span, patch_size[axis], 1, blend)
            row[inside] = values[places[inside] - span.start]
        shares.append(weights / np.maximum(weights.sum(axis=0), np.finfo(np.float32).tiny))
    counting: list[Window] = []
    for (i, z), (j, y), (k, x) in product(*map(enumerate, spans)):
        share = shares[0][i][:, None, None] * shares[1][j][:, None] * shares[2][k]
        if (share[mask] >= least_share).any():
            counting.append((z, y, x))
    return counting


def _centers(
    windows: Iterable[tuple[Window, NDArray[np.float32]]],
    shape: Sequence[int],
    spans: list[tuple[Span, ...]],
    patch_size: Shape,
    refinement: Shape,
) -> NDArray[np.float32]:
    whole = np.empty(shape, np.float32)
    for window, probability in windows:
        inner = tuple(
            slice((s.first - s.start) * r, (s.last - s.start) * r)
            for s, r in zip(window, refinement, strict=True)
        )
        outer = tuple(
            slice(s.first * r, s.last * r) for s, r in zip(window, refinement, strict=True)
        )
        whole[outer] = probability[inner]
    return whole


def _gaussians(
    windows: Iterable[tuple[Window, NDArray[np.float32]]],
    shape: Sequence[int],
    spans: list[tuple[Span, ...]],
    patch_size: Shape,
    refinement: Shape,
) -> NDArray[np.float32]:
    whole = np.zeros(shape, np.float32)
    weights = [_bell(size * r) for size, r in zip(patch_size, refinement, strict=True)]
    weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
    for window, probability in windows:
        outer = tuple(
            slice(s.start * r, (s.start + size) * r)
            for s, size, r in zip(window, patch_size, refinement, strict=True)
        )
        whole[outer] += probability * weight
    # The windows are all combinations of the axes' windows, so their weights' sum is a product.
    for axis, bell in enumerate(weights):
        total = np.zeros(whole.shape[axis], np.float32)
        for span in spans[axis]:
            start = span.start * refinement[axis]
            total[start : start + bell.size] += bell
        whole /= total.reshape([-1 if a == axis else 1 for a in range(3)])
    return whole


def _probabilities(
    image: NDArray[np.float32],
    forward: Forward,
    spans: list[tuple[Span, ...]],
    patch_size: Shape,
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    for window in product(*spans):
        yield window, forward(image[window_slices(window, patch_size)][None])[0]


def _bell(size: int) -> NDArray[np.float32]:
    distance = (np.arange(size) - (size - 1) / 2) / (size * _GAUSSIAN_SIGMA)
    bell: NDArray[np.float32] = np.exp(-0.5 * distance**2).astype(np.float32)
    return bell
