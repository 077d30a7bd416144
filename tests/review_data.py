"""Scans, masks and references of a small review, some of them spoiled on purpose."""

import json

import numpy as np
from small_data import painted

from kitspipe.dataset.cases import find_images, find_masks
from kitspipe.evaluation.report import write_report
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume

NASTY = """<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'&"""
WHOLE, NO_TUMOR, ONE_KIDNEY, FAR_TUMOR = (f"case_{n:05d}" for n in range(4))


def spoiled(labels, number):
    """The second lacks its tumor, the third its left kidney, the fourth has a tumor far away."""
    array = np.array(labels.array)
    if number == 1:
        array[array == 2] = 1
    if number == 2:
        array[:, :, 33:] = 0
    if number == 3:
        array[6:9, 44:49, 30:36] = 2
    return Volume(array=array, grid=labels.grid)


def write_review_data(folder, cases=4):
    """Folders cts, refs and masks; the masks' run.json holds what would be HTML."""
    for number in range(cases):
        image, labels = painted(number)
        header = header_for(image.grid, axes="IPL")
        name = f"case_{number:05d}.nii.gz"
        write_image(folder / "cts" / name, image, header)
        write_labels(folder / "refs" / name, labels, header)
        write_labels(folder / "masks" / name, spoiled(labels, number), header)
    write_run(folder / "masks", {WHOLE: {"warnings": [NASTY]}}, device=NASTY)
    return folder


def write_run(folder, cases, device="cpu"):
    """A `run.json` of these cases."""
    recipe = {"kitspipe": "1", "plan": "p", "choice": None, "weights": {}, "options": {}}
    run = {"recipe": recipe, "job": {}, "device": device, "threads": 1, "versions": {}}
    records = {
        case: {"case_id": case, "status": "done", "run": "key", **facts}
        for case, facts in cases.items()
    }
    content = {"runs": {"key": {**run, "machine": "m"}}, "cases": records}
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")


def review(folder, *, references=True, **options):
    """The report of such folders."""
    return write_report(
        find_images(folder / "cts"),
        find_masks(folder / "masks"),
        find_masks(folder / "refs") if references else {},
        folder / "report",
        **options,
    )
