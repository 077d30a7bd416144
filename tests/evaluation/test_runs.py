import json

import pytest
from small_data import painted
from small_model import write_model

from kitspipe import cli
from kitspipe.evaluation.runs import read_made
from kitspipe.imaging.formats import write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A folder that kitspipe_predict wrote, of a scan and one of air, by two folds."""
    folder = tmp_path_factory.mktemp("Mustermann")
    image, _ = painted(0)
    write_image(folder / "scans" / "a.nii.gz", image, header_for(image.grid))
    air = Volume(array=image.array * 0 - 1000, grid=image.grid)
    write_image(folder / "scans" / "b.nii.gz", air, header_for(image.grid))
    place = write_model(folder / "model", folds=(0, 1))
    given = ["-i", folder / "scans", "-o", folder / "masks", "-w", place.root, "--device", "cpu"]
    assert cli.main(["predict", *map(str, given), "-q"]) == 0
    return folder / "masks"


def test_facts_are_those_of_the_run_and_the_case_without_paths(masks):
    record = json.loads((masks / "run.json").read_bytes())
    facts = read_made(masks, ["a"]).facts["a"]
    [run] = record["runs"].values()
    weights = run["recipe"]["weights"]
    assert f"fold 1 ({weights['kidney/fold_1'][:12]}…)" in facts["kidney networks"]
    assert facts["options"] == "none"
    assert facts["device"] == "cpu"
    assert f"total {record['cases']['a']['seconds']['total']:.1f}" in facts["seconds"]
    assert record["cases"]["a"]["input"]["sha256"].startswith(facts["scan's SHA-256"][:-1])
    told = " ".join([*facts, *facts.values()])
    assert "Mustermann" not in told
    assert "/" not in told


def test_warnings_and_agreement_of_each_case_are_read(masks):
    cases = json.loads((masks / "run.json").read_bytes())["cases"]
    made = read_made(masks, ["a", "b", "c"])
    assert made.warnings["b"] == tuple(cases["b"]["warnings"])
    assert made.warnings["b"]
    agreement = cases["a"]["quality"]["kidney_agreement"]
    assert made.quality["a"].kidney_agreement == agreement
    assert "does not name this case" in made.facts["c"]["masks"]


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "\xff", '{"cases": {"a": {}}}'])
def test_masks_of_elsewhere_have_no_facts(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    made = read_made(tmp_path, ["a"])
    assert (made.warnings, made.quality) == ({}, {})
    assert "no run.json" in made.facts["a"]["masks"]
