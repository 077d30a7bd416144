import json
import math

import nibabel
import numpy as np
import pytest

from kitspipe.errors import UserError
from kitspipe.evaluation import metrics
from kitspipe.evaluation.evaluate import evaluate, label_values
from kitspipe.planning.plan import Labels

SHAPE = (7, 15, 13)  # slices first, as KiTS has its files
IPL = np.array(  # oblique: turned by 10 degrees about the x axis, off origin
    [
        [0, 0, -0.8, 31],
        [2.5 * math.sin(0.17), -0.7 * math.cos(0.17), 0, -12],
        [-2.5 * math.cos(0.17), -0.7 * math.sin(0.17), 0, 405],
        [0, 0, 0, 1],
    ]
)


def save(path, labels, affine=IPL):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), affine), path)
    return path


def reference_labels():
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:6, 2:12, 3:10] = 1
    labels[2:5, 4:9, 5:9] = 2
    return labels


def predicted_labels():
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:6, 3:12, 3:11] = 1
    labels[2:5, 5:10, 4:9] = 2
    return labels


@pytest.fixture
def references(tmp_path):
    return {
        name: save(tmp_path / "refs" / f"{name}.nii.gz", reference_labels())
        for name in ("case_00001", "case_00002", "case_00003")
    }


@pytest.fixture
def predictions(tmp_path):
    return {
        "case_00001": save(tmp_path / "preds/case_00001.nii.gz", reference_labels()),
        "case_00002": save(tmp_path / "preds/case_00002.nii.gz", predicted_labels()),
        "case_00003": save(tmp_path / "preds/case_00003.nii.gz", np.zeros(SHAPE)),
    }


def test_scores_are_the_metrics_of_the_files_own_arrays(references, predictions):
    middle = evaluate(references, predictions).scores[1]
    on_file = reference_labels(), predicted_labels()
    assert middle.case_id == "case_00002"
    assert middle.kits19 == metrics.kits19_scores(*on_file)
    expected = metrics.kits23_scores(*on_file, spacing=(2.5, 0.7, 0.8))
    assert middle.kits23.tumor.dice == expected.tumor.dice
    assert middle.kits23.tumor.surface_dice == pytest.approx(expected.tumor.surface_dice, abs=1e-6)


def test_means_are_over_cases(references, predictions):
    evaluation = evaluate(references, predictions)
    one, two, three = evaluation.scores
    assert (one.kits19.tumor, three.kits19.tumor) == (1, 0)
    assert evaluation.kits19.tumor == pytest.approx((1 + two.kits19.tumor) / 3)
    assert evaluation.kits23.mass.dice == pytest.approx((1 + two.kits23.mass.dice) / 3)
    assert evaluation.failures == ()


def test_several_processes_give_the_same(references, predictions):
    assert evaluate(references, predictions, jobs=2) == evaluate(references, predictions)


def test_a_failed_prediction_misses_all_tumors_and_says_nothing_of_false_ones(
    references, predictions
):
    large = reference_labels()
    large[1:6, 3:9, 3:10] = 2
    save(references["case_00001"], large)
    del predictions["case_00001"]
    failed = evaluate(references, predictions).scores[0]
    assert [tumor.is_found for tumor in failed.findings.tumors] == [False]
    assert failed.findings.false_tumors is None
    assert failed.regions.tumor.hausdorff_mm == math.inf
    assert failed.regions.tumor.error_percent == -100


def test_labels_are_those_of_the_dataset_json_of_each_folder(tmp_path, references, predictions):
    # As nnU-Net has its KiTS: regions. The predictions' folder has other values.
    values = np.array([0, 4, 7, 9], np.uint8)
    for path in predictions.values():
        save(path, values[np.asarray(nibabel.load(path).dataobj)])
    expected = evaluate(references, predictions, predicted_labels=Labels(kidney=4, tumor=7, cyst=9))
    regions = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
    named = {"background": 0, "kidney": 4, "tumor": 7, "cyst": 9}
    for folder, labels in (("refs", regions), ("preds", named)):
        content = {"labels": labels, "channel_names": {"0": "CT"}}
        (tmp_path / folder / "dataset.json").write_text(json.dumps(content))
    given, predicted = label_values(tmp_path / "refs", tmp_path / "preds")
    assert (given, predicted) == (Labels(cyst=3), Labels(kidney=4, tumor=7, cyst=9))
    found = evaluate(references, predictions, given, predicted_labels=predicted)
    assert found == expected
    assert found.failures == ()
    assert found.scores[0].kits23.tumor.dice == 1


def test_predictions_without_dataset_json_have_the_references_labels(tmp_path):
    content = {"labels": {"kidney": 5, "tumor": 6}, "channel_names": {"0": "CT"}}
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "dataset.json").write_text(json.dumps(content))
    labels = Labels(kidney=5, tumor=6)
    assert label_values(tmp_path / "refs", tmp_path / "preds") == (labels, labels)
    assert label_values(tmp_path / "preds", tmp_path / "preds") == (Labels(cyst=3), Labels(cyst=3))


def test_another_axis_order_on_disk_is_the_same_place(references, predictions):
    # The same labels with the file's axes reversed and turned: z, y, x -> x, z, y.
    labels = np.flip(reference_labels(), 0).transpose(2, 0, 1)
    flip = np.diag([-1, 1, 1, 1.0])
    flip[0, 3] = SHAPE[0] - 1
    affine = (IPL @ flip)[:, [2, 0, 1, 3]]
    save(predictions["case_00002"], labels, affine)
    assert evaluate(references, predictions).scores[1].kits19.composite == 1


def test_a_missing_prediction_scores_0_and_is_named(references, predictions):
    del predictions["case_00001"]
    evaluation = evaluate(references, predictions)
    assert evaluation.scores[0].kits19.kidney == 0
    assert [name for name, _ in evaluation.failures] == ["case_00001"]
    assert "no prediction" in evaluation.failures[0][1]
    assert len(evaluation.scores) == 3


@pytest.mark.parametrize("shift_mm", [0.2, 40])
def test_a_prediction_beside_its_place_is_named_and_the_others_go_on(
    references, predictions, shift_mm
):
    moved = IPL.copy()
    moved[2, 3] += shift_mm
    path = save(predictions["case_00001"], reference_labels(), moved)
    evaluation = evaluate(references, predictions)
    [(name, reason)] = evaluation.failures
    assert name == "case_00001"
    assert str(path) in reason
    assert "the reference's grid" in reason
    assert evaluation.scores[0].kits23.kidney_and_mass.dice == 0
    assert evaluation.scores[1].kits19.kidney > 0.5


def test_a_prediction_of_another_size_is_named(references, predictions):
    save(predictions["case_00002"], reference_labels()[:, :-1])
    [(name, reason)] = evaluate(references, predictions).failures
    assert name == "case_00002"
    assert "14" in reason


def test_rounded_headers_are_the_same_place(references, predictions):
    rounded = IPL.copy()
    rounded[:3, 3] += 0.01
    save(predictions["case_00001"], reference_labels(), rounded)
    assert evaluate(references, predictions).failures == ()


def test_an_unknown_label_is_named(references, predictions):
    labels = reference_labels()
    labels[0, 0, 0] = 3
    save(predictions["case_00001"], labels)
    assert evaluate(references, predictions).failures == ()  # a cyst
    [(name, reason)] = evaluate(references, predictions, Labels()).failures
    assert name == "case_00001"
    assert "[3]" in reason


def test_a_reference_that_cannot_be_read_is_left_out_of_the_means(references, predictions):
    references["case_00003"].write_bytes(b"no gzip")
    evaluation = evaluate(references, predictions)
    assert [score.case_id for score in evaluation.scores] == ["case_00001", "case_00002"]
    assert [name for name, _ in evaluation.failures] == ["case_00003"]
    assert evaluation.kits19.tumor > 0.5


def test_an_undefined_case_is_left_out_of_the_kits19_mean(tmp_path, references, predictions):
    save(references["case_00003"], np.zeros(SHAPE))
    evaluation = evaluate(references, predictions)
    assert math.isnan(evaluation.scores[2].kits19.kidney)
    two = evaluation.scores[1].kits19
    assert evaluation.kits19.composite == pytest.approx((2 + two.kidney + two.tumor) / 4)


def test_predictions_without_reference_are_listed(references, predictions):
    predictions["case_00099"] = predictions["case_00001"]
    assert evaluate(references, predictions).without_reference == ("case_00099",)


def test_nothing_to_compare_is_a_wrong_request(references, predictions):
    with pytest.raises(UserError, match="no masks"):
        evaluate({}, predictions)
    with pytest.raises(UserError, match="case_00001, case_00002, case_00003"):
        evaluate(references, {"scan": predictions["case_00001"]})


def test_a_real_mask_against_its_shifted_self(shared_data, tmp_path):
    source = shared_data / "kits_masks" / "case_00016" / "segmentation.nii.gz"
    image = nibabel.load(source)
    moved = np.roll(np.asarray(image.dataobj), 1, 1)
    path = tmp_path / "case_00016.nii.gz"
    nibabel.save(nibabel.Nifti1Image(moved.astype(np.uint8), image.affine), path)
    [score] = evaluate({"case_00016": source}, {"case_00016": path}).scores
    assert score.kits23.kidney_and_mass.surface_dice == 1  # 0.65 mm is within the tolerance
    assert 0.9 < score.kits23.tumor.dice < 1
