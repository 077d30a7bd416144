"""Weights and checkpoints: one safetensors file each, JSON in its header, nothing that executes.

Names of tensors: `weights/LAYER`, and `tensor/N` for those of the optimizer. The header has one
key, `kitspipe`, with all the rest, and a checksum of everything.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kitspipe import workspace
from kitspipe.errors import UserError
from kitspipe.workspace import Stage

N = TypeVar("N", bound=nn.Module)
Kind = Literal["checkpoint", "weights"]

_WEIGHTS, _TENSOR = "weights/", "tensor/"
_HEADER, _CHECKSUM = "kitspipe", "crc32"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """All that a training needs to go on as if it had never stopped.

    Args:
        stage: kidney or tumor.
        plan_sha256: hash of the plan values that the training depends on.
        weights: the network's `state_dict()`.
        optimizer: the optimizer's `state_dict()`.
        state: progress (epoch, step), settings and sampler: numbers, text, lists, dicts.
    """

    stage: Stage
    plan_sha256: str
    weights: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint beside and rename it."""
    tensors = _with_prefix(_WEIGHTS, checkpoint.weights)
    content = {
        "kind": "checkpoint",
        "stage": checkpoint.stage,
        "plan_sha256": checkpoint.plan_sha256,
        "state": _pack(checkpoint.state, tensors),
        "optimizer": _pack(checkpoint.optimizer, tensors),
    }
    _write(path, tensors, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file; everything is as it was saved, bit for bit.

    Raises:
        UserError: no such file, a torn or damaged one, a pickle, or weights alone.
    """
    tensors, content = _read(path, "checkpoint")
    if content.get("kind") != "checkpoint":
        raise _unusable(path, "weights alone, nothing to go on training from", "checkpoint")
    try:
        return Checkpoint(
            stage=content["stage"],
            plan_sha256=content["plan_sha256"],
            weights=_under(tensors, _WEIGHTS),
            optimizer=cast("dict[str, Any]", _unpack(content["optimizer"], tensors)),
            state=cast("dict[str, Any]", _unpack(content["state"], tensors)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, f"a header without {error}", "checkpoint") from None


def save_weights(path: Path, network: nn.Module, *, plan_sha256: str, stage: Stage) -> None:
    """Write a trained network's weights beside and rename them."""
    content = {"kind": "weights", "stage": stage, "plan_sha256": plan_sha256}
    _write(path, _with_prefix(_WEIGHTS, network.state_dict()), content)


def load_weights(network: N, path: Path, plan_sha256: str | None = None) -> N:
    """The network with the weights of a file, of a checkpoint too.

    Args:
        network: takes the weights.
        path: written by `save_weights` or `save_checkpoint`.
        plan_sha256: of the plan that the weights must belong to; None: any.

    Raises:
        UserError: no such file, a torn or damaged one, a pickle, or weights of another network
            or plan.
    """
    tensors, content = _read(path, "weights")
    if plan_sha256 is not None and content.get("plan_sha256") != plan_sha256:
        raise UserError(
            path,
            found="weights that were trained with another plan",
            expected="weights of the plan as it is now",
            remedy="bring the old plan back, or train anew with --restart",
        )
    try:
        network.load_state_dict(_under(tensors, _WEIGHTS))
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise _unusable(
            path, "weights of another network: " + "".join(first).strip(), "weights"
        ) from None
    return network


def warm_start(network: nn.Module, path: Path, stage: Stage) -> list[str]:
    """Take what fits from another model's weights; what did not fit, a line per tensor.

    Args:
        network: keeps its own values where nothing fits.
        path: weights or a checkpoint, or a fold's folder with some.
        stage: of the network.

    Raises:
        UserError: no weights there, damaged ones, a pickle, of the other stage, or none that fits.
    """
    if path.is_dir():
        names = ("final", "best", "last")
        files = [path / f"{name}.safetensors" for name in names]
        path = next((file for file in files if file.exists()), files[0])
    tensors, content = _read(path, "weights")
    given = _under(tensors, _WEIGHTS)
    own, fitting, misfits = network.state_dict(), {}, []
    for name, tensor in own.items():
        if name not in given:
            misfits.append(f"{name} {tuple(tensor.shape)}: not in the file, starts anew")
        elif given[name].shape != tensor.shape:
            shapes = f"{tuple(given[name].shape)} in the file, {tuple(tensor.shape)} here"
            misfits.append(f"{name}: {shapes}, starts anew")
        else:
            fitting[name] = given[name]
    misfits += [f"{name}: no such tensor here, left out" for name in given if name not in own]
    # Names that both stages' networks have may fit by chance.
    if not fitting or content["stage"] != stage:
        raise UserError(
            path,
            found=f"weights of a {content['stage']} stage, {len(fitting)} of {len(given)} "
            "tensors of which fit this network",
            expected=f"weights of a {stage} stage and of a network alike",
            remedy="give weights of a plan alike to this one, or leave --init-from out",
        )
    network.load_state_dict(own | fitting)
    return misfits


def _write(path: Path, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(content)
    header = {_HEADER: text, _CHECKSUM: str(_checksum(text, whole))}
    # Written by Python, which says why the system refused.
    workspace.write_bytes(path, save(whole, header))


def _read(path: Path, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _checksum(header[_HEADER], tensors) != int(header[_CHECKSUM]):
            raise _unusable(path, "values that differ from those written: damaged", kind)
        content = json.loads(header[_HEADER])
    except FileNotFoundError:
        raise _unusable(path, "no such file", kind) from None
    except OSError as error:
        raise _unusable(path, f"nothing that can be read: {error}", kind) from None
    except SafetensorError as error:
        found = (
            "a pickle, which is never opened: it could run code"
            if _is_pickle(path)
            else f"a torn file, or no safetensors file: {error}"
        )
        raise _unusable(path, found, kind) from None
    except (KeyError, ValueError):
        raise _unusable(path, "a safetensors file that kitspipe didn't write", kind) from None
    return tensors, content


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    # Safetensors itself notices a file cut short, but no changed bit.
    checksum = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        label = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        values = tensor.reshape(-1).view(torch.uint8).numpy().data
        checksum = zlib.crc32(values, zlib.crc32(label.encode(), checksum))
    return checksum


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLES)


def _pack(value: object, tensors: dict[str, Tensor]) -> object:
    """JSON for nested dicts, lists, tuples and tensors; tensors go into `tensors`.

    JSON alone would turn tuples into lists and the optimizer's number keys into text.
    """
    if isinstance(value, Tensor):
        name = f"{_TENSOR}{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(packed: object, tensors: Mapping[str, Tensor]) -> object:
    """What `_pack` was given."""
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "tuple" in packed:
        return tuple(_unpack(item, tensors) for item in packed["tuple"])
    return {key: _unpack(item, tensors) for key, item in packed["dict"]}


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _unusable(path: Path, found: str, kind: Kind) -> UserError:
    return UserError(
        path,
        found=found,
        expected=f"{kind} written by kitspipe_train",
        remedy="bring a whole copy of the file, or train anew with --restart",
    )
