"""The worst cases of an evaluation, and what went wrong in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kitspipe.evaluation.case_scores import HECS, CaseScore, Region, false_tumors_ml
from kitspipe.evaluation.lesions import FalseTumor, TrueTumor
from kitspipe.evaluation.metrics import HECScore

MOST = 10
# From where on something is worth a word beside a low score.
COVERED_SHARE = 0.5
CYST_SHARE = 0.5
VOLUME_PERCENT = 25.0
HAUSDORFF_MM = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstCase:
    """A case with a low score.

    Args:
        case_id: the case.
        mean_dice: of the three classes of KiTS21/23.
        reasons: what went wrong, the gravest first; at least one.
    """

    case_id: str
    mean_dice: float
    reasons: tuple[str, ...]


def worst_cases(scores: Sequence[CaseScore], most: int = MOST) -> list[WorstCase]:
    """The cases with the lowest mean Dice over the classes of KiTS21/23, lowest first.

    Of equal ones the lower Surface Dice comes first, then the lower id.
    """

    def rank(case: CaseScore) -> tuple[float, float, str]:
        classes = _classes(case)
        return mean_dice(case), sum(hec.surface_dice for hec in classes.values()), case.case_id

    return [
        WorstCase(case_id=case.case_id, mean_dice=mean_dice(case), reasons=tuple(reasons(case)))
        for case in sorted(scores, key=rank)[:most]
    ]


def mean_dice(case: CaseScore) -> float:
    """Mean Dice over the three classes, as KiTS21/23 rank by."""
    return sum(hec.dice for hec in _classes(case).values()) / len(HECS)


def reasons(case: CaseScore) -> list[str]:
    """What went wrong in a case, in words, the gravest first; at least its lowest score."""
    if case.failure is not None:
        return ["not scored: " + _found(case.failure)]
    kidneys, tumors = list(_of_kidneys(case)), list(_of_tumors(case))
    # Volumes and borders of what is missed or made up say the same again.
    unsaid = {
        name: region
        for name, region in _regions(case).items()
        if not (kidneys if name == "kidney_and_mass" else kidneys or tumors)
    }
    said = [*kidneys, *tumors, *_of_volumes(unsaid), *_of_borders(unsaid)]
    return said or [_lowest(case)]


def _of_kidneys(case: CaseScore) -> Iterator[str]:
    for kidney in case.findings.kidneys:
        if not kidney.is_found:
            labelled = _percent(kidney.covered_share)
            yield f"kidney of {kidney.volume_ml:.0f} ml missed, {labelled} labelled"
    for volume_ml in case.findings.false_kidneys_ml:
        yield f"false kidney of {volume_ml:.0f} ml"


def _of_tumors(case: CaseScore) -> Iterator[str]:
    for tumor in case.findings.tumors:
        if tumor.covered_share < COVERED_SHARE:
            yield _badly_found(tumor)
    false = case.findings.false_tumors or ()
    if false:
        many = f"{len(false)} false tumors" if len(false) > 1 else "false tumor"
        yield f"{many}, {false_tumors_ml(case):.2g} ml, {_places(false)}"


def _badly_found(tumor: TrueTumor) -> str:
    cyst = (
        f", {_percent(tumor.cyst_share)} of it called cyst"
        if tumor.cyst_share >= CYST_SHARE
        else ""
    )
    how = f"{_percent(tumor.covered_share)} found" if tumor.is_found else "missed"
    return f"tumor of {tumor.diameter_mm / 10:.1f} cm {how}{cyst}"


def _places(false: Sequence[FalseTumor]) -> str:
    places = [tumor.place for tumor in false]
    ordered = sorted(set(places), key=lambda place: (-places.count(place), place))
    names = {"cyst": "on cyst", "kidney": "on kidney", "background": "outside the kidney"}
    return ", ".join(names[place] for place in ordered)


def _of_volumes(regions: Mapping[str, Region]) -> Iterator[str]:
    for name, region in regions.items():
        if region.reference_ml == 0 < region.predicted_ml:
            yield f"{_spoken(name)} of {region.predicted_ml:.2g} ml where there is none"
        elif abs(region.error_percent) >= VOLUME_PERCENT:
            yield (
                f"{_spoken(name)} {region.predicted_ml:.3g} ml instead of "
                f"{region.reference_ml:.3g} ({region.error_percent:+.0f} %)"
            )


def _of_borders(regions: Mapping[str, Region]) -> Iterator[str]:
    for name, region in regions.items():
        if HAUSDORFF_MM <= region.hausdorff_mm < float("inf"):
            yield f"{_spoken(name)} border {region.hausdorff_mm:.0f} mm off"


def _lowest(case: CaseScore) -> str:
    named = {
        f"{kind} of {_spoken(name)}": value
        for name, hec in _classes(case).items()
        for kind, value in (("Dice", hec.dice), ("Surface Dice", hec.surface_dice))
    }
    name = min(named, key=named.__getitem__)
    return f"outline: {name} {named[name]:.3f}"


def _found(failure: str) -> str:
    """The line of an error's text that says what was found."""
    lines = [line.strip() for line in failure.splitlines()]
    found = [line for line in lines if line.startswith("found:")]
    return found[0].removeprefix("found:").strip() if found else lines[0]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _classes(case: CaseScore) -> dict[str, HECScore]:
    return {name: getattr(case.kits23, name) for name in HECS}


def _regions(case: CaseScore) -> dict[str, Region]:
    return {name: getattr(case.regions, name) for name in HECS}
