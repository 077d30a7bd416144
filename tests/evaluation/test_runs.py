import json

import pytest

from kitspipe.evaluation.runs import read_run


def test_facts_of_all_and_of_one_case_are_told_apart(tmp_path):
    run = {
        "kitspipe": "0.1.0",
        "weights": "0f9e" * 16,
        "options": {"mirror": True, "folds": 5},
        "image": "/home/somebody/Mustermann",
        "cases": {"a": {"seconds": 12.345, "warnings": ["no kidney"]}},
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    read = read_run(tmp_path, ["a", "b"])
    common = {
        "kitspipe": "0.1.0",
        "weights": "0f9e0f9e0f9e…",
        "options mirror": "True",
        "options folds": "5",
    }
    assert read.facts == {"a": {**common, "seconds": "12.35"}, "b": common}
    assert read.warnings == {"a": ["no kidney"]}


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "\xff"])
def test_masks_of_elsewhere_have_no_facts(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    read = read_run(tmp_path, ["a"])
    assert read.warnings == {}
    assert "no run.json" in read.facts["a"]["masks"]
