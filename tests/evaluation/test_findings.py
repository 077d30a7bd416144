import math

import pytest

from kitspipe.evaluation.findings import Evidence, find, urgency
from kitspipe.evaluation.measurements import (
    CaseMeasurement,
    Intensity,
    KidneyMeasurement,
    TumorMeasurement,
)
from kitspipe.evaluation.metrics import KiTS19Scores
from kitspipe.prediction.agreement import CaseQuality


def hu(mean):
    return Intensity(mean_hu=mean, sd_hu=20, p05_hu=mean - 30, median_hu=mean, p95_hu=mean + 30)


def kidney(**edits):
    usual = {
        "side": "right",
        "side_is_certain": True,
        "volume_ml": 180.0,
        "parenchyma_ml": 150.0,
        "parenchyma_share": 0.5,
        "tumor_count": 1,
        "tumor_ml": 30.0,
        "cyst_count": 0,
        "cyst_ml": 0.0,
        "length_mm": 110.0,
        "center_mm": (0.0, 0.0, 0.0),
        "center_voxel": (1, 2, 3),
        "is_cut": False,
        "parenchyma": hu(160),
    }
    return KidneyMeasurement(**{**usual, **edits})


def tumor(**edits):
    usual = {
        "number": 1,
        "side": "right",
        "pole": "upper",
        "volume_ml": 30.0,
        "axial_diameter_mm": 38.0,
        "perpendicular_mm": 33.0,
        "diameter_3d_mm": 41.0,
        "sphere_diameter_mm": 38.5,
        "axial_slice": 4,
        "axial_line_mm": ((0.0, 0.0, 0.0), (38.0, 0.0, 0.0)),
        "perpendicular_line_mm": ((0.0, 0.0, 0.0), (0.0, 33.0, 0.0)),
        "center_mm": (0.0, 0.0, 0.0),
        "center_voxel": (4, 5, 6),
        "exophytic_share": 0.4,
        "contact_area_mm2": 900.0,
        "kidney_gap_mm": 0.0,
        "sinus_distance_mm": 9.0,
        "t_size": "T1a",
        "is_cut": False,
        "tissue": hu(70),
        "renal": None,
    }
    return TumorMeasurement(**{**usual, **edits})


def case(kidneys=None, tumors=None, warnings=()):
    pair = (kidney(), kidney(side="left"))
    return CaseMeasurement(
        case_id="case_00000",
        kidneys=pair if kidneys is None else tuple(kidneys),
        tumors=(tumor(),) if tumors is None else tuple(tumors),
        warnings=warnings,
    )


def kinds(measurement=None, **evidence):
    findings = find(Evidence(measurement=measurement or case(), **evidence))
    return [(finding.kind, finding.severity) for finding in findings]


def test_a_usual_case_has_nothing_to_check():
    assert kinds() == []


@pytest.mark.parametrize(
    ("measurement", "expected"),
    [
        (case(kidneys=[]), ("kidney-missing", "high")),
        (case(kidneys=[kidney()]), ("kidney-missing", "medium")),
        (case([kidney(is_cut=True), kidney(side="left")]), ("cut-organ", "medium")),
        (case([kidney(parenchyma_ml=12.0), kidney()]), ("implausible-volume", "high")),
        (case([kidney(parenchyma_ml=900.0), kidney()]), ("implausible-volume", "high")),
        (case([kidney(parenchyma=hu(-90)), kidney()]), ("implausible-HU", "high")),
        (case([kidney(parenchyma=hu(35)), kidney()]), ("no-contrast", "low")),
        (case([kidney(side_is_certain=False), kidney()]), ("side", "low")),
        (case(tumors=[tumor(kidney_gap_mm=None, side=None)]), ("tumor-outside", "high")),
        (case(tumors=[tumor(kidney_gap_mm=12.0, side=None)]), ("tumor-outside", "high")),
        (case(tumors=[tumor(is_cut=True)]), ("cut-organ", "high")),
        (case(tumors=[tumor(tissue=hu(-95))]), ("implausible-HU", "high")),
        (case(tumors=[tumor(tissue=hu(600))]), ("implausible-HU", "high")),
        (case(tumors=[tumor(axial_diameter_mm=4.0)]), ("implausible-volume", "low")),
        (case(tumors=[tumor(volume_ml=3000.0)]), ("implausible-volume", "high")),
        (case(tumors=[]), ("no-tumor", "low")),
        (case(tumors=[tumor(number=n) for n in range(1, 6)]), ("many-tumors", "medium")),
        (case(warnings=("5.5 mm between voxels",)), ("warning", "medium")),
    ],
)
def test_each_rule_finds_its_case_and_nothing_else(measurement, expected):
    assert kinds(measurement) == [expected]


@pytest.mark.parametrize(
    ("measurement"),
    [
        case([kidney(parenchyma=None), kidney()], [tumor(tissue=None)]),  # no CT
        case([kidney(is_cut=True, parenchyma_ml=20.0), kidney()]),  # small because it is cut
        case(tumors=[tumor(kidney_gap_mm=2.0)]),  # a voxel's gap on thick slices
    ],
)
def test_what_is_explained_is_not_implausible(measurement):
    assert not {kind for kind, _ in kinds(measurement)} & {"implausible-volume", "tumor-outside"}


def test_a_finding_says_where_it_is():
    findings = find(Evidence(measurement=case(tumors=[tumor(kidney_gap_mm=12.0, side=None)])))
    assert findings[0].place == (4, 5, 6)
    assert "12 mm" in findings[0].text


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ((0.97, 0.9), []),
        ((0.97, 0.6), [("low-score", "medium")]),
        ((0.97, 0.1), [("low-score", "high")]),
        ((0.5, 0.6), [("low-score", "high"), ("low-score", "medium")]),
        ((0.97, math.nan), []),  # nothing to score
    ],
)
def test_low_scores_are_found(score, expected):
    assert kinds(score=KiTS19Scores(kidney=score[0], tumor=score[1])) == expected


def test_a_missed_tumor_is_said_as_such():
    evidence = Evidence(measurement=case(tumors=[]), score=KiTS19Scores(kidney=0.97, tumor=0.0))
    assert find(evidence)[0].text == "the reference has a tumor, the mask none"


def test_low_agreement_is_found_and_unknown_is_not():
    known = CaseQuality(kidney_agreement=0.96, tumor_agreement=0.6, expected_tumor_dice=0.3)
    assert kinds(quality=known) == [("low-agreement", "high")]
    assert kinds(quality=CaseQuality(tumor_agreement=0.6)) == [("low-agreement", "medium")]
    assert kinds(quality=CaseQuality(kidney_agreement=0.96)) == []


def test_a_warning_that_a_rule_tells_with_its_place_is_told_once():
    measurement = case([kidney()], warnings=("one kidney only, the right one", "tumor 1: cut"))
    assert kinds(measurement) == [("kidney-missing", "medium")]


def test_urgent_cases_come_first_then_those_of_lower_quality():
    outside = find(Evidence(measurement=case(tumors=[tumor(kidney_gap_mm=12.0, side=None)])))
    single = find(Evidence(measurement=case(kidneys=[kidney()])))
    cases = [((), 0.9), (single, None), ((), 0.4), (outside, 0.95), ((), None), ((), math.nan)]
    order = sorted(range(6), key=lambda n: urgency(*cases[n]))
    assert order == [3, 1, 2, 0, 4, 5]
