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


@dataclass(frozen=True, kw_only=True, slots=True)
class StageDescription:
    """A stage's network on one patch of its plan.

    Args:
        title: stage and network.
        parameters: number of learned values.
        multiply_adds: of one forward pass for one patch.
        levels: name and output shape of each level, in the order of the pass.
    """

    title: str
    parameters: int
    multiply_adds: int
    levels: tuple[tuple[str, str], ...]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Rows for a summary."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("multiply-adds per patch", f"{self.multiply_adds / 1e9:,.2f} G"),
        ]


def describe(plan: Plan) -> tuple[StageDescription, StageDescription]:
    """Both stages' networks; nothing is allocated or computed."""
    kidney, tumor = plan.kidney, plan.tumor
    # Tensors on "meta" have shapes but no values.
    with torch.device("meta"):
        return (
            _described(
                "kidney: 3D residual U-Net",
                ResUNet3D(kidney.network),
                torch.empty(1, 1, *kidney.patch_size),
            ),
            _described(
                "tumor: 2.5D multi-scale V-Net",
                VNet25D(tumor.network),
                torch.empty(1, tumor.slab_depth, *tumor.patch_size),
            ),
        )


def _described(title: str, network: nn.Module, patch: Tensor) -> StageDescription:
    levels: list[tuple[str, str]] = [("input", _shape(patch))]

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, _, output: levels.append((name, _shape(output)))

    for name, module in network.named_modules():
        parent, _, index = name.rpartition(".")
        is_level = parent in ("encoder", "decoder", "heads") and index.isdecimal()
        if is_level or name in ("bottom", "head"):
            module.register_forward_hook(record(name.replace(".", " ")))
    with FlopCounterMode(display=False) as counter:
        output = network(patch)
    finest = output[-1] if isinstance(output, list) else output
    levels.append(("output", _shape(finest)))
    return StageDescription(
        title=title,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        levels=tuple(levels),
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape)
