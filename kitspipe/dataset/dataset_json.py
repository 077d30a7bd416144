"""What an nnU-Net `dataset.json` says of labels and channels."""

from __future__ import annotations

import json
from pathlib import Path

from kitspipe.errors import UserError

LABEL_NAMES = ("kidney", "tumor", "cyst")
_SAME_NAMES = {
    "kidneys": "kidney",
    "tumour": "tumor",
    "tumors": "tumor",
    "tumours": "tumor",
    "cysts": "cyst",
    "masses": "mass",
}


def read_label_values(file: Path) -> dict[str, int]:
    """Values of kidney, tumor and, where it is labelled, cyst that a `dataset.json` names.

    A region (a list of values) stands for what no region inside it holds: of kidney [1, 2, 3],
    masses [2, 3], tumor 2 (KiTS in nnU-Net) the kidney is 1, the tumor 2 and the cyst, which only
    the masses name, 3. nnU-Net v1, which writes `"1": "kidney"`, is understood too.

    Raises:
        UserError: no file, no JSON, no `labels`, no kidney or tumor in them, a value that is not
            0..255 or not a name's own, or more than one channel.
    """
    content = _read_json(file)
    _require_one_channel(file, content)
    sets = _value_sets(file, content["labels"])
    own = {
        name: sorted(values.difference(*(other for other in sets.values() if other < values)))
        for name, values in sets.items()
    }
    if "cyst" not in own and own.get("mass"):
        own["cyst"] = own["mass"]
    named = {name: own[name] for name in LABEL_NAMES if name in own}
    values = {name: found[0] for name, found in named.items() if len(found) == 1}
    complete = {"kidney", "tumor"} <= values.keys() == named.keys()
    if not complete or len(set(values.values())) != len(values):
        raise _labels_error(file, content["labels"])
    return values


def _read_json(file: Path) -> dict[str, object]:
    found = 'no object with the key "labels"'
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        content, found = None, "no such file"
    except ValueError as error:
        content, found = None, f"no JSON: {error}"
    if not isinstance(content, dict) or "labels" not in content:
        raise UserError(
            file,
            found=found,
            expected='nnU-Net\'s dataset.json, with "labels": {"background": 0, "kidney": 1, ...}',
            remedy="add the file or mend it",
        )
    return content


def _require_one_channel(file: Path, content: dict[str, object]) -> None:
    channels = content.get("channel_names", content.get("modality"))
    if isinstance(channels, dict | list) and len(channels) > 1:
        raise UserError(
            file,
            found=f"{len(channels)} channels: {json.dumps(channels)}",
            expected="one channel, CT",
            remedy="keep the CT's channel alone, as _0000",
        )


def _value_sets(file: Path, labels: object) -> dict[str, frozenset[int]]:
    """The values that each name stands for, without background."""
    if not isinstance(labels, dict):
        raise _labels_error(file, labels)
    if all(name.isdigit() and isinstance(value, str) for name, value in labels.items()):
        labels = {value: int(name) for name, value in labels.items()}
    sets: dict[str, frozenset[int]] = {}
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if not all(type(v) is int and 0 <= v <= 255 for v in values):
            raise _labels_error(file, labels)
        lower = name.strip().lower()
        if any(values):
            sets[_SAME_NAMES.get(lower, lower)] = frozenset(values)
    return sets


def _labels_error(file: Path, labels: object) -> UserError:
    return UserError(
        file,
        found=f'"labels": {json.dumps(labels)}',
        expected=(
            "kidney and tumor, cyst if labelled, each with one value from 1 to 255 of its own "
            "(or regions, lists of values, from which these follow)"
        ),
        remedy='name them, e.g. {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}',
    )
