import json
import re
import zipfile

import pytest
from small_data import write_cases
from small_model import write_model
from small_plans import small_plan

from kitspipe import cli
from kitspipe.errors import UserError
from kitspipe.planning.planner import read_plan
from kitspipe.prediction.export import export_model
from kitspipe.prediction.model_card import model_card


@pytest.fixture
def place(tmp_path):
    return write_model(tmp_path / "work", folds=(0, 1), threshold=0.4)


def names(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename for info in archive.infolist()}


def test_all_that_prediction_needs_is_in_the_file_and_nothing_else(place, tmp_path, capsys):
    (place.fold_folder("kidney", 0) / "last.safetensors").write_bytes(b"a checkpoint")
    (place.fold_folder("kidney", 0) / "log.jsonl").write_text("case_00000")
    path = tmp_path / "model.kitspipe"
    assert cli.main(["export", "-w", str(place.root), "-o", str(path)]) == 0
    assert re.search(r"networks +4\n", capsys.readouterr().out)
    assert names(path) == {
        "manifest.json",
        "model_card.md",
        "plans/default.json",
        "results/default/choice.json",
        *(
            f"results/default/{stage}/fold_{fold}/final.safetensors"
            for stage in ("kidney", "tumor")
            for fold in (0, 1)
        ),
    }
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("results/default/choice.json"))["threshold"] == 0.4


def test_the_same_model_is_the_same_file(place, tmp_path):
    for name in ("a", "b"):
        export_model(place, tmp_path / name, None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_single_folds_can_be_chosen(place, tmp_path):
    done = export_model(place, tmp_path / "one", [1])
    assert done.networks == 2
    assert not [name for name in names(tmp_path / "one") if "fold_0" in name]


def test_a_model_that_is_not_trained_is_not_exported(place, tmp_path):
    with pytest.raises(UserError, match="kitspipe_train kidney 0"):
        export_model(place, tmp_path / "model.kitspipe", [0, 4])
    assert not (tmp_path / "model.kitspipe").exists()


def test_weights_of_another_plan_are_not_exported(place, tmp_path):
    text = place.plan_file.read_text().replace('"seed": 7', '"seed": 8')
    place.plan_file.write_text(text)
    with pytest.raises(UserError, match="not trained with the plan"):
        export_model(place, tmp_path / "model.kitspipe", None)
    assert not (tmp_path / "model.kitspipe").exists()


def test_the_card_tells_the_data_and_names_no_case_or_path(tmp_path):
    write_cases(tmp_path / "raw", 3)
    root = tmp_path / "work"
    assert cli.main(["fingerprint", "-d", str(tmp_path / "raw"), "-w", str(root)]) == 0
    place = write_model(root, plan=small_plan(cyst=None))
    scores = {"mean": 0.912, "cases": {"case_00001": 0.912}}
    validation = place.fold_folder("kidney", 0) / "validation"
    validation.mkdir()
    (validation / "kidney.json").write_text(json.dumps(scores))
    whole = place.fold_folder("tumor", 0) / "validation_end_to_end"
    whole.mkdir()
    (whole / "summary.json").write_text(json.dumps({"kits19": {"kidney": 0.95, "tumor": None}}))
    card = model_card(place, read_plan(place), None)
    assert "Not a medical device" in card
    assert "| scans | 3 |" in card
    assert "| slice distance, mm | 5, 5, 5 |" in card
    assert "| 0 | 0.912 | 0.950 | - |" in card
    assert "1 kidney, 2 tumor; 0 is everything else" in card
    assert "case_0" not in card
    assert str(tmp_path) not in card
