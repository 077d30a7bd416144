"""What a plan's networks are: parameters, operations, shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.plan import Plan
from kitspipe.workspace import Stage

_NUMBERED = ("encoder", "decoder")


def _nothing(*_shapes: object, **_options: object) -> int:
    return 0


_NOT_COUNTED = {torch.ops.aten.mm: _nothing}
"""The maps' upsampling: sparse weights that are multiplied as if they were dense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageDescription:
    """A stage's network on one patch of its plan.

    Args:
        stage: kidney or tumor.
        title: stage and network, for a reader.
        parameters: number of learned values.
        flops: of one forward pass for one patch; a multiplication and an addition are two.
            Convolutions and linear maps are counted, which is nearly all.
        shapes: level -> shape of what it gives (N, C, Z, Y, X) or (N, C, Y, X), in the order of
            the pass.
    """

    stage: Stage
    title: str
    parameters: int
    flops: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Rows for a summary."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("operations per patch", f"{self.flops / 1e9:,.2f} GFLOP"),
        ]

    @property
    def levels(self) -> list[tuple[str, str]]:
        """Rows for a table: level and shape."""
        return [(name, " x ".join(map(str, shape))) for name, shape in self.shapes]


def describe(plan: Plan) -> tuple[StageDescription, StageDescription]:
    """Both stages' networks; nothing is allocated or computed, whatever the patch."""
    kidney, tumor = plan.kidney, plan.tumor
    # Tensors on "meta" have shapes but no values.
    with torch.device("meta"):
        return (
            _describe(
                "kidney",
                "kidney: 3D residual U-Net",
                ResUNet3D(kidney.network),
                torch.empty(1, 1, *kidney.patch_size),
            ),
            _describe(
                "tumor",
                "tumor: 2.5D multi-scale V-Net",
                VNet25D(tumor.network),
                torch.empty(1, tumor.network.inputs, *tumor.patch_size),
            ),
        )


def _describe(stage: Stage, title: str, network: nn.Module, patch: Tensor) -> StageDescription:
    shapes = [("input", tuple(patch.shape))]

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: shapes.append((name, tuple(output.shape)))

    for group in _NUMBERED:
        for number, level in enumerate(network.get_submodule(group).children(), start=1):
            level.register_forward_hook(record(f"{group} {number}"))
    with FlopCounterMode(display=False, custom_mapping=_NOT_COUNTED) as counter, torch.no_grad():
        output = network(patch)
    logits = output if isinstance(output, list) else [output]
    shapes += [(f"logits {n}", tuple(level.shape)) for n, level in enumerate(logits, start=1)]
    return StageDescription(
        stage=stage,
        title=title,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=counter.get_total_flops(),
        shapes=tuple(shapes),
    )
