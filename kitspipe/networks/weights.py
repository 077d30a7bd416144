"""Weights and checkpoints: one safetensors file each, JSON in its header, nothing that executes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kitspipe import workspace
from kitspipe.errors import UserError
from kitspipe.workspace import Stage

N = TypeVar("N", bound=nn.Module)

_WEIGHTS, _OPTIMIZER, _RNG = "weights/", "optimizer/", "rng/"
_HEADER = "kitspipe"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """All that a training needs to go on as if it had never stopped.

    Args:
        stage: kidney or tumor.
        plan_sha256: hash of the plan values that the training depends on.
        weights: the network's state.
        optimizer: the optimizer's `state_dict()`.
        state: progress and sampler, JSON.
        rng: device type -> state of its random generator, uint8.
    """

    stage: Stage
    plan_sha256: str
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]
    rng: dict[str, Tensor]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint beside and rename it."""
    tensors = {_WEIGHTS + name: tensor for name, tensor in checkpoint.weights.items()}
    tensors |= {_RNG + name: tensor for name, tensor in checkpoint.rng.items()}
    slots: dict[str, dict[str, Any]] = {}
    for index, values in checkpoint.optimizer["state"].items():
        slots[str(index)] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}/{name}"] = value
            else:
                slots[str(index)][name] = value
    header = {
        "kind": "checkpoint",
        "stage": checkpoint.stage,
        "plan_sha256": checkpoint.plan_sha256,
        "state": checkpoint.state,
        "optimizer": {"groups": checkpoint.optimizer["param_groups"], "values": slots},
    }
    _save(path, tensors, header)


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        UserError: the file is torn, no checkpoint, or of another kind.
    """
    tensors, header = _load(path, "checkpoint")
    slots: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in header["optimizer"]["values"].items()
    }
    for name, tensor in _under(tensors, _OPTIMIZER).items():
        index, _, slot = name.partition("/")
        slots.setdefault(int(index), {})[slot] = tensor
    return Checkpoint(
        stage=header["stage"],
        plan_sha256=header["plan_sha256"],
        weights=_under(tensors, _WEIGHTS),
        optimizer={"state": slots, "param_groups": header["optimizer"]["groups"]},
        state=header["state"],
        rng=_under(tensors, _RNG),
    )


def save_weights(path: Path, network: nn.Module, *, plan_sha256: str, stage: Stage) -> None:
    """Write a trained network's weights beside and rename them."""
    tensors = {_WEIGHTS + name: tensor for name, tensor in network.state_dict().items()}
    _save(path, tensors, {"kind": "weights", "stage": stage, "plan_sha256": plan_sha256})


def load_weights(network: N, path: Path, plan_sha256: str) -> N:
    """The network with the weights of a file.

    Raises:
        UserError: the file is torn, holds no weights, or those of another plan.
    """
    tensors, header = _load(path, "weights")
    if header["plan_sha256"] != plan_sha256:
        raise UserError(
            path,
            found="weights that were trained with another plan",
            expected="weights of the plan as it is now",
            remedy="bring the old plan back, or train anew with --restart",
        )
    network.load_state_dict(_under(tensors, _WEIGHTS))
    return network


def _save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    # Copies, as safetensors refuses tensors that share memory.
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with workspace.replacing(path) as temporary:
        save_file(whole, temporary, {_HEADER: msgspec.json.encode(header).decode()})


def _load(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = msgspec.json.decode((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise _no_weights(path, "no such file", kind) from None
    except (SafetensorError, KeyError, msgspec.DecodeError, struct.error) as error:
        raise _no_weights(path, f"no whole safetensors file of kitspipe ({error})", kind) from None
    if header.get("kind") != kind:
        raise _no_weights(path, f"a file that holds {header.get('kind')}", kind)
    return tensors, header


def _no_weights(path: Path, found: str, kind: str) -> UserError:
    return UserError(
        path,
        found=found,
        expected=f"{kind} written by kitspipe_train",
        remedy="train again, or bring a whole copy of the file",
    )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
