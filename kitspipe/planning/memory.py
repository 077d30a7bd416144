"""Bytes that a training takes, counted from the plan: planning starts without torch.

Counted are parameters, gradients, the optimizer's state and, of each sample, the maps that are kept
from the forward for the backward pass: what goes into convolutions, norms and activations, and the
loss. All as float32; under bfloat16 autocast, on CUDA, the maps take about half. The networks are
those of `networks/resunet3d.py` and `networks/vnet25d.py`, in the order of their forward pass.

Axes: (Z, Y, X).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from kitspipe.planning.plan import (
    Activation,
    KidneyPlan,
    Norm,
    ResUNet3DConfig,
    TumorPlan,
    VNet25DConfig,
)

Optimizer = Literal["adam", "adamw", "sgd"]

_VALUE_BYTES = 4
_STATES = {"adam": 2, "adamw": 2, "sgd": 1}
"""Values that an optimizer keeps per parameter (moments, momentum)."""
_KIDNEY_GRADIENTS, _TUMOR_GRADIENTS = 9, 2
"""Gradients that live beside all kept maps when the backward pass begins, in maps as large as
those of the first encoder level. Measured, see the test of peaks."""
_KIDNEY_KERNEL = 3**3
_SE_RATIO, _SE_FLOOR = 16, 4
_DILATED = 3
_TUMOR_LOSS_MAPS = 12
"""Per class: truth and its complement, both probabilities, and 8 of the focal loss's factors."""


def kidney_training_bytes(
    config: ResUNet3DConfig,
    patch_size: tuple[int, int, int],
    batch_size: int,
    optimizer: Optimizer,
) -> int:
    """Bytes that a training step of the kidney network takes at its peak."""
    gradients = _KIDNEY_GRADIENTS * config.channels[0] * math.prod(patch_size)
    values = kidney_kept_values(config, patch_size) + gradients
    return _training_bytes(kidney_parameters(config), values * batch_size, optimizer)


def tumor_training_bytes(
    config: VNet25DConfig, patch_size: tuple[int, int], batch_size: int, optimizer: Optimizer
) -> int:
    """Bytes that a training step of the tumor network takes at its peak."""
    gradients = _TUMOR_GRADIENTS * config.channels[0] * math.prod(patch_size)
    values = tumor_kept_values(config, patch_size) + gradients
    return _training_bytes(tumor_parameters(config), values * batch_size, optimizer)


def stage_bytes(
    plan: KidneyPlan | TumorPlan,
    *,
    batch_size: int | None = None,
    patch_size: tuple[int, ...] | None = None,
) -> int:
    """Bytes that a training step of a stage takes at its peak.

    Args:
        plan: of the stage.
        batch_size: in place of the plan's.
        patch_size: in place of the plan's.
    """
    batch, optimizer = batch_size or plan.schedule.batch_size, plan.schedule.optimizer
    if isinstance(plan, KidneyPlan):
        z, y, x = patch_size or plan.patch_size
        return kidney_training_bytes(plan.network, (z, y, x), batch, optimizer)
    y, x = patch_size or plan.patch_size
    return tumor_training_bytes(plan.network, (y, x), batch, optimizer)


def fitting_batch(bytes_of: Callable[[int], int], budget_bytes: int, most: int) -> int:
    """The largest batch size up to `most` within the budget; 1 where not even that fits.

    Args:
        bytes_of: bytes of a batch size, rising.
        budget_bytes: what there is.
        most: at least 1.
    """
    fits = (size for size in range(most, 1, -1) if bytes_of(size) <= budget_bytes)
    return next(fits, 1)


def kidney_parameters(config: ResUNet3DConfig) -> int:
    """Learned values of `ResUNet3D`."""
    return _kidney_tally(config, config.divisor).parameters


def tumor_parameters(config: VNet25DConfig) -> int:
    """Learned values of `VNet25D`."""
    return _tumor_tally(config, (config.divisor, config.divisor)).parameters


def kidney_kept_values(config: ResUNet3DConfig, patch_size: tuple[int, int, int]) -> int:
    """Values that one sample's forward pass and loss keep for the backward pass."""
    return _kidney_tally(config, patch_size).kept


def tumor_kept_values(config: VNet25DConfig, patch_size: tuple[int, int]) -> int:
    """Values that one sample's forward pass and loss keep for the backward pass."""
    return _tumor_tally(config, patch_size).kept


class _Tally:
    """Parameters and kept values, summed as a forward pass goes.

    A map is counted where it is made, if any layer keeps it: convolutions, norms and PReLU keep
    what goes in, leaky ReLU works in place and keeps what comes out, sums and joins keep nothing.
    """

    def __init__(self, norm: Norm, activation: Activation) -> None:
        self.parameters = 0
        self.kept = 0
        self._normed = norm != "none"
        self._prelu = activation == "prelu"

    def finished(
        self, inputs: int, outputs: int, kernel: int, voxels: int, *, goes_on: bool = True
    ) -> None:
        """A convolution with norm and activation; `goes_on` says that a layer keeps its result."""
        values = 1 + self._normed + self._prelu
        self.parameters += inputs * outputs * kernel + values * outputs
        maps = self._normed + self._prelu + (goes_on or not self._prelu)
        self.kept += maps * outputs * voxels

    def series(self, inputs: int, outputs: int, kernel: int, count: int, voxels: int) -> None:
        """Convolutions one after the other, the last one's result added to something."""
        for index in range(count):
            incoming = inputs if index == 0 else outputs
            self.finished(incoming, outputs, kernel, voxels, goes_on=index < count - 1)

    def residual_block(self, inputs: int, width: int, kernel: int, count: int, voxels: int) -> None:
        """`ResidualBlock`, what comes in counted before."""
        self.series(inputs, width, kernel, count, voxels)
        self.parameters += self._prelu * width + (inputs != width) * inputs * width
        self.kept += (1 + self._prelu) * width * voxels  # the sum, and its activation


def _kidney_tally(config: ResUNet3DConfig, patch_size: tuple[int, int, int]) -> _Tally:
    tally = _Tally(config.norm, config.activation)
    fine, counts = config.channels, config.convolutions_per_level
    with_mask = 2 if config.dropout > 0 else 1
    voxels = [math.prod(patch_size)]
    tally.kept += voxels[0]  # the image
    tally.series(1, fine[0], _KIDNEY_KERNEL, counts[0], voxels[0])
    tally.kept += fine[0] * voxels[0]
    for k, stride in enumerate(config.strides, start=1):
        voxels.append(voxels[-1] // math.prod(stride))
        tally.finished(fine[k - 1], fine[k], math.prod(stride), voxels[k])
        tally.series(fine[k], fine[k], _KIDNEY_KERNEL, counts[k], voxels[k])
        tally.kept += with_mask * fine[k] * voxels[k]
    for k in reversed(range(config.levels)):
        wide, joined = 2 * fine[k], fine[k]
        if k == config.levels - 1:
            tally.finished(fine[k], wide, _KIDNEY_KERNEL, voxels[k], goes_on=False)  # widen
        else:
            joined = wide + fine[k]
            kernel = math.prod(config.strides[k])
            tally.finished(2 * fine[k + 1], wide, kernel, voxels[k], goes_on=False)
            tally.kept += joined * voxels[k]
        tally.series(joined, wide, _KIDNEY_KERNEL, counts[k], voxels[k])
        tally.kept += (with_mask if k > 0 else 1) * wide * voxels[k]
        tally.parameters += wide + 1  # map
    target = voxels[0] * math.prod(config.target_refinement)
    # Each map's probabilities and, for the cross-entropy, its logits; the truth and its weights.
    tally.kept += (2 * config.levels + 2) * target
    return tally


def _tumor_tally(config: VNet25DConfig, patch_size: tuple[int, int]) -> _Tally:
    tally = _Tally(config.norm, config.activation)
    widths, counts = config.channels, config.convolutions_per_level
    kernel = config.kernel_size**2
    pixels = [math.prod(patch_size) // 4**k for k in range(config.levels)]
    tally.kept += config.inputs * pixels[0]
    tally.residual_block(config.inputs, widths[0], kernel, counts[0], pixels[0])
    for k in range(1, config.levels):
        _count_arrival(tally, config, k, pixels[k])
        tally.residual_block(widths[k], widths[k], kernel, counts[k], pixels[k])
    if config.dilated_bottom:
        tally.series(widths[-1], widths[-1], 3**2, _DILATED, pixels[-1])
        tally.kept += widths[-1] * pixels[-1]
    below = widths[-1]
    for k in reversed(range(config.levels - 1)):
        width, hidden = widths[k], max(1, widths[k] // 2)
        tally.finished(below, width, 2**2, pixels[k], goes_on=config.attention_gates)
        if config.attention_gates:
            tally.parameters += 2 * width * hidden + 2 * hidden + 1
            tally.kept += (hidden + 1) * pixels[k]
        tally.kept += 2 * width * pixels[k]  # upsampled and skip, joined
        tally.residual_block(2 * width, 2 * width, kernel, counts[k], pixels[k])
        below = 2 * width
    tally.parameters += (below + 1) * config.classes
    tally.kept += _TUMOR_LOSS_MAPS * config.classes * pixels[0]
    return tally


def _count_arrival(tally: _Tally, config: VNet25DConfig, level: int, pixels: int) -> None:
    """What lies between a level and the one above: down, the slab at its scale, SE."""
    above, width = config.channels[level - 1], config.channels[level]
    tally.finished(above, width, 2**2, pixels, goes_on=not config.multi_scale)
    if config.multi_scale:
        tally.finished(config.inputs, width, 3**2, pixels, goes_on=False)
        tally.finished(2 * width, width, 1, pixels)
        tally.kept += (config.inputs + 2 * width) * pixels
    if config.squeeze_excitation:
        hidden = max(_SE_FLOOR, width // _SE_RATIO)
        tally.parameters += 2 * width * hidden + hidden + width
        tally.kept += width * pixels


def _training_bytes(parameters: int, values: int, optimizer: Optimizer) -> int:
    return _VALUE_BYTES * (parameters * (2 + _STATES[optimizer]) + values)
