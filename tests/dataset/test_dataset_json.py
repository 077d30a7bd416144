import json

import pytest

from kitspipe.dataset.dataset_json import read_label_values
from kitspipe.errors import UserError


def written(folder, content):
    file = folder / "dataset.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "kidney": 1, "tumor": 2}, {"kidney": 1, "tumor": 2}),
        (
            {"background": 0, "Kidney": 3, "TUMOUR": 1, "Cysts": 2},
            {"kidney": 3, "tumor": 1, "cyst": 2},
        ),
        # Dataset220_KiTS2023 of nnU-Net: the cyst has no name, it is what the masses add.
        (
            {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2},
            {"kidney": 1, "tumor": 2, "cyst": 3},
        ),
        (
            {"kidney": [1, 2, 3], "tumor": [2], "cyst": [3]},
            {"kidney": 1, "tumor": 2, "cyst": 3},
        ),
        ({"kidney": [1, 2], "tumor": [2]}, {"kidney": 1, "tumor": 2}),
        # nnU-Net v1 and the decathlon.
        ({"0": "background", "1": "kidney", "2": "Tumor"}, {"kidney": 1, "tumor": 2}),
    ],
)
def test_label_names_and_regions_are_mapped(tmp_path, labels, expected):
    assert read_label_values(written(tmp_path, {"labels": labels})) == expected


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "kidney": 1},  # nothing to find in the kidney
        {"background": 0, "tumor": 2},
        {"kidney": 1, "tumor": 1},  # cannot be told apart
        {"kidney": [1, 2, 3], "tumor": 2},  # two values are kidney only
        {"kidney": [2], "tumor": [2]},
        {"kidney": 1, "tumor": 300},  # masks are uint8
        {"kidney": 1, "tumor": -1},
        {"kidney": 1, "tumor": "2"},
        {"kidney": 2, "tumor": True},
        {"kidney": 1, "tumor": None},
        {"kidney": 0, "tumor": 1},
        ["background", "kidney", "tumor"],
        {},
    ],
)
def test_labels_that_do_not_tell_kidney_and_tumor_are_refused(tmp_path, labels):
    file = written(tmp_path, {"labels": labels})
    with pytest.raises(UserError) as refused:
        read_label_values(file)
    assert refused.value.file == str(file)
    assert json.dumps(labels) in refused.value.found
    assert '"kidney": 1, "tumor": 2' in refused.value.remedy


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{labels:", "no JSON"),
        ("\udcff".encode("utf-8", "surrogateescape"), "no JSON"),
        ("[1, 2]", "labels"),
        ({"name": "KiTS"}, "labels"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_dataset_json_is_refused(tmp_path, content, found):
    file = tmp_path / "dataset.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        written(tmp_path, content)
    with pytest.raises(UserError) as refused:
        read_label_values(file)
    assert (refused.value.file, found in refused.value.found) == (str(file), True)


@pytest.mark.parametrize("key", ["channel_names", "modality"])
def test_several_channels_are_refused(tmp_path, key):
    labels = {"kidney": 1, "tumor": 2}
    file = written(tmp_path, {"labels": labels, key: {"0": "CT", "1": "PET"}})
    with pytest.raises(UserError, match="PET"):
        read_label_values(file)
    file = written(tmp_path, {"labels": labels, key: {"0": "CT"}})
    assert read_label_values(file) == labels
