import json
import re
from pathlib import Path

import msgspec
import pytest
from data_sets import kits19_like
from hypothesis import given
from hypothesis import strategies as st
from small_plans import small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.errors import UserError
from kitspipe.planning.document import encode, read_document, sha256, write_document
from kitspipe.planning.plan import Labels, Plan
from kitspipe.planning.planner import plan_dataset, read_plan
from kitspipe.workspace import Workspace

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"


@pytest.fixture
def plan_file(tmp_path):
    file = tmp_path / "plans" / "small.json"
    write_document(file, small_plan())
    return file


def edited(file, path, value):
    """The file with the value at `path` (keys and indices) replaced."""
    content = json.loads(file.read_bytes())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    return file


def refusal(file):
    with pytest.raises(UserError) as raised:
        read_document(file, Plan, made_by="kitspipe_plan")
    return raised.value


def read(file):
    return read_document(file, Plan, made_by="kitspipe_plan")


@pytest.mark.parametrize("cyst", [None, 3])
def test_a_plan_is_read_as_it_was_written(tmp_path, cyst):
    plan = small_plan(cyst=cyst)
    write_document(tmp_path / "plan.json", plan)
    assert read(tmp_path / "plan.json") == plan


def test_a_plan_file_can_be_read_by_people(plan_file):
    text = plan_file.read_text()
    assert '\n  "kidney": {\n    "target_spacing_mm": [' in text
    assert text.endswith("}\n")


def test_the_hash_of_a_plan_is_that_of_its_content_not_its_layout(plan_file):
    dense = plan_file.with_name("dense.json")
    dense.write_text(json.dumps(json.loads(plan_file.read_bytes())))
    assert dense.read_bytes() != plan_file.read_bytes()
    assert sha256(read(dense)) == sha256(small_plan())
    other = msgspec.structs.replace(small_plan(), seed=8)
    assert sha256(other) != sha256(small_plan())


def test_a_missing_file_names_the_command_that_writes_it(tmp_path):
    error = refusal(tmp_path / "none.json")
    assert error.file == str(tmp_path / "none.json")
    assert error.found == "no such file"
    assert "kitspipe_plan" in error.expected
    assert "kitspipe_plan" in error.remedy


@pytest.mark.parametrize("content", [b"", b"{", b"epochs: 5", b'{"name": "\xff"}'])
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    error = refusal(file)
    assert error.file == str(file)
    assert "no JSON" in error.found or "utf-8" in error.found


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("colour",), 1, "unknown field `colour`"),
        (("kidney", "colour"), 1, "unknown field `colour` - at `$.kidney`"),
        (("tumor", "loss", "beta"), 1, "unknown field `beta` - at `$.tumor.loss`"),
        (("seed",), "seven", "Expected `int`, got `str` - at `$.seed`"),
        (("kidney", "patch_size", 2), "32", "got `str` - at `$.kidney.patch_size[2]`"),
        (("kidney", "patch_size", 2), 32.5, "got `float` - at `$.kidney.patch_size[2]`"),
        (("kidney", "patch_size"), [8, 32], "of length 3 - at `$.kidney.patch_size`"),
        (("kidney", "target_spacing_mm", 0), 0, "at `$.kidney.target_spacing_mm[0]`"),
        (("kidney", "target_spacing_mm", 0), "2x", "at `$.kidney.target_spacing_mm[0]`"),
        (("tumor", "network", "norm"), "layer", "'layer' - at `$.tumor.network.norm`"),
        (("tumor", "threshold"), 1, "at `$.tumor.threshold`"),
        (("tumor", "schedule", "epochs"), 0, "at `$.tumor.schedule.epochs`"),
        (("tumor", "augmentation", "mirror_axes", 0), "w", "augmentation.mirror_axes[0]"),
        (("labels", "tumor"), 256, "at `$.labels.tumor`"),
        (("schema",), 2, "2 - at `$.schema`"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_path(plan_file, path, value, found):
    error = refusal(edited(plan_file, path, value))
    assert error.file == str(plan_file)
    assert found in error.found
    assert "docs/plan.md" in error.expected


def test_a_missing_key_is_named(plan_file):
    content = json.loads(plan_file.read_bytes())
    del content["kidney"]["loss"]["mu"]
    plan_file.write_text(json.dumps(content))
    assert "missing required field `mu` - at `$.kidney.loss`" in refusal(plan_file).found


@pytest.mark.parametrize(
    ("path", "value", "found", "place"),
    [
        # Strides (1, 2, 2) and (2, 2, 2) ask for multiples of (2, 4, 4).
        (("kidney", "patch_size"), [8, 30, 32], "not divisible", "$.kidney"),
        (("kidney", "patch_size"), [7, 32, 32], "[2, 4, 4]", "$.kidney"),
        (("kidney", "window_stride"), [9, 16, 16], "larger than patch_size", "$.kidney"),
        (("kidney", "network", "levels"), 4, "levels asks for 4", "$.kidney.network"),
        (("kidney", "network", "channels"), [4, 8], "channels has 2", "$.kidney.network"),
        (("kidney", "network", "strides"), [[1, 2, 2]], "strides has 1", "$.kidney.network"),
        (
            ("tumor", "network", "convolutions_per_level"),
            [1, 1],
            "convolutions_per_level has 2",
            "$.tumor.network",
        ),
        (("tumor", "network", "kernel_size"), 4, "is even", "$.tumor.network"),
        (("kidney", "hu_window", "low_hu"), 245, "not below high_hu", "$.kidney.hu_window"),
        (("kidney", "augmentation", "scale"), [1.3, 1.25], "ends below", "augmentation"),
        (("tumor", "augmentation", "blur_sigma"), [2, 1], "ends below", "augmentation"),
        (("tumor", "network", "slab_depth"), 4, "slab needs a middle", "$.tumor.network"),
        (("tumor", "slab_depth"), 5, "differs from network.slab_depth 3", "$.tumor"),
        # 3 levels halve twice: multiples of 4.
        (("tumor", "patch_size"), [32, 42], "not divisible by the network's 4", "$.tumor"),
        (("tumor", "sampling", "positive_share"), 0.8, "above 1", "$.tumor.sampling"),
        (("labels", "cyst"), None, "classes is 2, the labels have 1", ""),
        (("labels", "cyst"), 2, "not all different", "$.labels"),
    ],
)
def test_what_can_not_work_together_is_refused(plan_file, path, value, found, place):
    error = refusal(edited(plan_file, path, value))
    assert found in error.found
    assert place in error.found


def test_a_loss_without_any_part_is_refused(plan_file):
    edited(plan_file, ("tumor", "loss", "focal_weight"), 0)
    edited(plan_file, ("tumor", "loss", "dice_weight"), 0)
    assert "nothing would be learned" in refusal(plan_file).found


def test_every_planned_field_needs_a_reason(plan_file):
    content = json.loads(plan_file.read_bytes())
    del content["tumor"]["why"]["threshold"]
    plan_file.write_text(json.dumps(content))
    assert "['threshold'] - at `$.tumor`" in refusal(plan_file).found


def test_a_reason_for_no_field_is_refused(plan_file):
    edited(plan_file, ("kidney", "why", "colour"), "it is nice")
    assert "['colour'] - at `$.kidney`" in refusal(plan_file).found


def test_the_divisor_of_a_network_is_the_product_of_its_strides():
    assert small_kidney_plan().network.divisor == (2, 4, 4)
    assert small_tumor_plan().network.divisor == 4


def test_label_values_leave_out_cysts_that_are_not_labelled():
    assert Labels().values == (1, 2)
    assert Labels(kidney=5, tumor=1, cyst=9).values == (5, 1, 9)


def number_paths(value, path=()):
    """Paths of all numbers in a JSON value."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return [path] if is_number else []
    return [found for key, child in children for found in number_paths(child, (*path, key))]


NUMBERS = number_paths(json.loads(encode(small_plan())))


@given(
    path=st.sampled_from(NUMBERS),
    value=st.integers(-3, 300) | st.floats(-3, 300, allow_nan=False),
)
def test_an_edited_number_is_read_back_or_refused_with_a_message(tmp_path_factory, path, value):
    file = tmp_path_factory.mktemp("edit") / "plan.json"
    write_document(file, small_plan())
    edited(file, path, value)
    try:
        plan = read(file)
    except UserError:
        # A combination is refused by what holds the value, at the top by its own words.
        assert any(str(key) in refusal(file).found for key in path if isinstance(key, str))
        return
    kept = msgspec.to_builtins(plan)
    for key in path:
        kept = kept[key]
    assert kept == value
    write_document(file, plan)
    assert read(file) == plan


def documented():
    """Plan key -> its default in each column that docs/plan.md has: "auto", "paper"."""
    found, prefixes, columns = {}, [], []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            prefixes = re.findall(r"`(\S+)`", line) or [""]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| key |"):
            columns = cells
        elif line.startswith("| `") and columns and len(cells) == len(columns):
            for prefix in prefixes:
                row = {
                    name.removeprefix(f"{prefix.split('.')[0]} "): cell
                    for name, cell in zip(columns, cells, strict=True)
                }
                found[f"{prefix}.{cells[0].strip('`')}".lstrip(".")] = row
    return found


def leaves(values, prefix=""):
    """Plan key -> value, nested ones with dots, without the reasons."""
    for key, value in values.items():
        if isinstance(value, dict) and key != "why":
            yield from leaves(value, f"{prefix}{key}.")
        elif key != "why":
            yield prefix + key, value


def test_every_field_has_its_line_in_the_docs_and_no_other():
    assert set(documented()) == {key for key, _ in leaves(msgspec.to_builtins(small_plan()))}


def test_every_line_says_what_a_field_is_and_how_to_choose_it():
    for row in documented().values():
        assert min(len(row["what, unit"]), len(row["how to choose"])) > 0


def shown(cell):
    """The value in a cell; a cell in words has none."""
    match = re.fullmatch(r"`(.+)`", cell)
    return [json.loads(match[1])] if match else []


@pytest.mark.parametrize("column", ["auto", "paper"])
def test_defaults_in_the_docs_are_those_of_the_plans(tmp_path, column):
    place = Workspace(root=tmp_path, plan_name="kits19_paper")
    plan = read_plan(place) if column == "paper" else plan_dataset(kits19_like(), name="default")
    values = dict(leaves(json.loads(msgspec.json.encode(plan))))
    rows = documented()
    stale = {
        key: values[key] for key in rows if shown(rows[key][column]) not in ([], [values[key]])
    }
    assert stale == {}
    in_words = {key.split(".")[-1] for key in rows if not shown(rows[key][column])}
    measured = {"fingerprint_sha256", "low_hu", "high_hu", "center_hu", "scale_hu"}
    assert in_words == (measured if column == "auto" else set())
