"""How masks were made, as the `run.json` beside them says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kitspipe.prediction.agreement import CaseQuality
from kitspipe.prediction.records import RUN_FILE, CaseRecord, Run

_HASH_SHOWN = 12


class _File(msgspec.Struct):
    runs: dict[str, Run]
    cases: dict[str, CaseRecord]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What is known of how masks were made, by case id.

    Args:
        facts: name and value as texts.
        warnings: a sentence each; cases without are missing.
        quality: what networks and mirrored passes agree on; cases of a single pass are missing.
    """

    facts: Mapping[str, Mapping[str, str]]
    warnings: Mapping[str, Sequence[str]]
    quality: Mapping[str, CaseQuality]


def read_made(folder: Path, case_ids: Sequence[str]) -> Made:
    """What `run.json` in a folder of masks says; masks of elsewhere have none.

    No path and no name of a machine is told, which may hold names of people.
    """
    try:
        content = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        none = {"masks": f"no {RUN_FILE} of this version beside them says how they were made"}
        return Made(facts=dict.fromkeys(case_ids, none), warnings={}, quality={})
    known = {case_id: content.cases[case_id] for case_id in case_ids if case_id in content.cases}
    missing = {"masks": f"{RUN_FILE} beside them does not name this case"}
    return Made(
        facts={
            case_id: missing
            if case_id not in known
            else _facts(known[case_id], content.runs.get(known[case_id].run or ""))
            for case_id in case_ids
        },
        warnings={case_id: case.warnings for case_id, case in known.items() if case.warnings},
        quality={case_id: case.quality for case_id, case in known.items() if case.quality},
    )


def _facts(case: CaseRecord, run: Run | None) -> dict[str, str]:
    facts = {"begun": case.started[:19].replace("T", " ") + " UTC"} if case.started else {}
    if run is not None:
        recipe = run.recipe
        asked = [name for name, value in recipe.options.items() if value]
        facts |= {
            "kitspipe": recipe.kitspipe,
            **_networks(recipe.weights),
            "options": ", ".join(asked) or "none",
            "plan": _short(recipe.plan),
            "choice of the cross-validation": _short(recipe.choice),
            "device": run.device,
            "threads": str(run.threads),
            "versions": ", ".join(f"{name} {text}" for name, text in run.versions.items()),
        }
    if case.seconds:
        facts["seconds"] = ", ".join(f"{name} {value:.1f}" for name, value in case.seconds.items())
    if case.peak_memory_mib is not None:
        facts["memory"] = f"{case.peak_memory_mib:.0f} MiB"
    if case.peak_gpu_memory_mib is not None:
        facts["GPU memory"] = f"{case.peak_gpu_memory_mib:.0f} MiB"
    if case.input is not None:
        facts["scan's SHA-256"] = _short(case.input.sha256)
    return facts


def _networks(weights: Mapping[str, str]) -> dict[str, str]:
    """By stage: its folds, each with the beginning of its hash."""
    stages: dict[str, list[str]] = defaultdict(list)
    for name, sha256 in weights.items():
        stage, _, fold = name.partition("/")
        stages[stage].append(f"{fold.replace('_', ' ')} ({_short(sha256)})")
    return {f"{stage} networks": ", ".join(folds) for stage, folds in stages.items()}


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else f"{sha256[:_HASH_SHOWN]}…"
