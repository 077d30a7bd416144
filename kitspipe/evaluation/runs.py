"""How masks were made, as the files beside them say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

RUN_FILE = "run.json"
_HASH_LENGTH, _SHOWN = 40, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What is known of how masks were made, by case id.

    Args:
        facts: name and value as texts.
        warnings: a sentence each.
    """

    facts: Mapping[str, Mapping[str, str]]
    warnings: Mapping[str, Sequence[str]]


def read_run(folder: Path, case_ids: Sequence[str]) -> Run:
    """What `run.json` in a folder of masks says; masks of elsewhere have none.

    Its single values hold for all cases; what it has under `cases` and an id, for that one.
    """
    try:
        content = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        none = {"masks": f"no {RUN_FILE} beside them says how they were made"}
        return Run(facts=dict.fromkeys(case_ids, none), warnings={})
    common = _texts(content)
    cases = content.get("cases")
    by_case = cases if isinstance(cases, dict) else {}
    own = {
        case_id: by_case[case_id] if isinstance(by_case.get(case_id), dict) else {}
        for case_id in case_ids
    }
    return Run(
        facts={case_id: {**common, **_texts(own[case_id])} for case_id in case_ids},
        warnings={
            case_id: [str(text) for text in facts["warnings"]]
            for case_id, facts in own.items()
            if isinstance(facts.get("warnings"), list)
        },
    )


def _texts(content: Mapping[str, Any]) -> dict[str, str]:
    """Single values, and those one level down; no paths, which may hold names."""
    texts: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict) and key != "cases":
            texts.update({f"{key} {name}": text for name, text in _texts(value).items()})
        elif isinstance(value, str | int | float) and not any(c in str(value) for c in "/\\"):
            texts[key.replace("_", " ")] = _text(value)
    return texts


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return f"{text[:_SHOWN]}…" if len(text) >= _HASH_LENGTH and text.isalnum() else text
