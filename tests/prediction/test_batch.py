import json
import shutil

import pytest
from small_data import painted
from small_model import write_model

from kitspipe import cli
from kitspipe.dataset.cases import Case
from kitspipe.imaging.formats import write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume
from kitspipe.prediction.batch import part_of, predict_batch
from kitspipe.prediction.isolated import Limits
from kitspipe.prediction.job import make_job
from kitspipe.workspace import Workspace


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), seed=2).root


def write_scans(folder, count):
    image, _ = painted(0)
    header = header_for(image.grid, axes="IPL")
    write_image(folder / "scan_00.nii.gz", image, header)
    for number in range(1, count):
        shutil.copy(folder / "scan_00.nii.gz", folder / f"scan_{number:02d}.nii.gz")
    return folder


def predict(model, images, output, *options):
    given = ["-i", images, "-o", output, "-w", model, "--device", "cpu", *options]
    return cli.main(["predict", *map(str, given)])


def masks(output):
    """Name -> what shows whether a mask was made anew."""
    return {file.name: file.stat().st_mtime_ns for file in sorted(output.glob("*.nii.gz"))}


def report(output):
    return json.loads((output / "run.json").read_bytes())


def test_a_bad_scan_is_named_and_the_same_command_does_only_what_is_missing(
    model, tmp_path, capsys
):
    images, output = write_scans(tmp_path / "images", 4), tmp_path / "out"
    (images / "scan_02.nii.gz").write_bytes(b"no scan")
    assert predict(model, images, output) == 1
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert f"error: scan_02: {images / 'scan_02.nii.gz'}\n" in said
    assert [*masks(output)] == ["scan_00.nii.gz", "scan_01.nii.gz", "scan_03.nii.gz"]
    assert report(output)["count"] == {"done": 3, "failed": 1, "under way": 0}
    assert report(output)["cases"]["scan_02"]["failure"]["file"].endswith("scan_02.nii.gz")

    shutil.copy(images / "scan_00.nii.gz", images / "scan_02.nii.gz")
    before = masks(output)
    assert predict(model, images, output) == 0
    assert before.items() < masks(output).items()
    assert report(output)["count"] == {"done": 4, "failed": 0, "under way": 0}

    assert predict(model, images, output, "--overwrite", "--part", "1/2") == 0
    changed = {name for name, time in masks(output).items() if before.get(name, 0) < time}
    assert changed == {"scan_00.nii.gz", "scan_02.nii.gz"}


@pytest.mark.slow
def test_masks_of_another_model_are_kept_and_told(model, tmp_path, capsys):
    images, output = write_scans(tmp_path / "images", 1), tmp_path / "out"
    assert predict(model, images, output) == 0
    other, before = write_model(tmp_path / "other", seed=3).root, masks(output)
    # Nothing to do: no network is loaded for that.
    assert predict(other, images, output) == 1
    said = capsys.readouterr().err
    assert "error: scan_00: " in said
    assert "made by another model" in said
    assert "--overwrite" in said
    assert masks(output) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(memory_gib=0.01), "GiB of memory in use"),
        (Limits(seconds=0.001), "more than 0.001 s of work"),
    ],
    ids=["memory", "time"],
)
def test_a_case_over_its_limit_is_a_named_failure(model, tmp_path, limits, said):
    images, output = tmp_path / "images", tmp_path / "out"
    image, _ = painted(0)
    # Large enough to be seen under way.
    grid = image.grid.refined((1, 4, 4))
    array = image.array.repeat(4, axis=1).repeat(4, axis=2)
    write_image(images / "large.nii.gz", Volume(array=array, grid=grid), header_for(grid))
    case = Case(id="large", image=images / "large.nii.gz", labels=None)
    job = make_job(Workspace(root=model), output, None, "cpu")
    done = predict_batch([case], job, overwrite=False, limits=limits)
    [(name, reason)] = done.failures
    assert name == "large"
    assert said in reason
    assert masks(output) == {}
    assert report(output)["cases"]["large"]["status"] == "failed"


def test_parts_are_disjoint_and_whole():
    cases = [Case(id=f"c{n}", image=f"{n}", labels=None) for n in range(11)]
    parts = [part_of(cases, (number, 4)) for number in range(1, 5)]
    assert sorted(c.id for part in parts for c in part) == sorted(c.id for c in cases)
    assert part_of(cases, None) == cases


@pytest.mark.parametrize("wrong", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_a_part_that_is_none_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "-i", "x", "-o", "y", f"--part={wrong}"])
    assert "is no part" in capsys.readouterr().err


def test_masks_never_replace_scans(model, tmp_path, capsys):
    images = write_scans(tmp_path, 1)
    before = (images / "scan_00.nii.gz").read_bytes()
    assert predict(model, images, images) == 2
    assert "a scan whose mask would get its name" in capsys.readouterr().err
    assert (images / "scan_00.nii.gz").read_bytes() == before


@pytest.mark.slow
def test_damaged_weights_end_the_command_with_one_message(model, tmp_path, capsys):
    root = tmp_path / "model"
    shutil.copytree(model, root)
    [file] = root.glob("results/default/kidney/fold_0/*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    images = write_scans(tmp_path / "images", 1)
    assert predict(root, images, tmp_path / "out") == 2
    assert "a torn file" in capsys.readouterr().err
