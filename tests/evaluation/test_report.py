import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dicom_files import write_series
from msgspec.structs import replace
from review_data import (
    FAR_TUMOR,
    NASTY,
    NO_TUMOR,
    ONE_KIDNEY,
    WHOLE,
    review,
    write_review_data,
    write_run,
)
from small_data import painted

from kitspipe import cli
from kitspipe.dataset.cases import find_images, find_masks
from kitspipe.errors import UserError
from kitspipe.evaluation.report import ASSETS, _write_pages, write_report
from kitspipe.imaging.formats import write_labels
from kitspipe.imaging.header import header_for


class Elements(HTMLParser):
    """Start tags with their attributes, and all text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return review(write_review_data(tmp_path_factory.mktemp("review")))


def page_of(made, case_id):
    return made.index.parent / "cases" / case_id / "index.html"


def all_pages(made):
    return [made.index, *(page_of(made, record.title) for record in made.records)]


def test_there_is_a_page_for_all_cases_and_one_for_each(made):
    assert all(page.is_file() for page in all_pages(made))
    assert len(made.records) == 4
    assert made.failures == ()


def test_every_file_that_a_page_names_is_in_the_folder(made):
    for page in all_pages(made):
        for _, attributes in Elements(page).tags:
            for name in ("src", "href", "data-niivue"):
                target = attributes.get(name) or ""
                if target and not target.startswith(("#", "data:")):
                    assert (page.parent / target).is_file(), (page, target)


def test_nothing_is_fetched_from_elsewhere(made):
    sources = [page.read_text(encoding="utf-8") for page in all_pages(made)]
    sources += [
        (made.index.parent / name).read_text(encoding="utf-8")
        for name in ASSETS
        if "niivue" not in name
    ]
    # The only addresses are links that nobody follows by loading a page; there are none at all.
    assert [
        found for text in sources for found in re.findall(r"(?:https?:)?//\w+\.\w+", text)
    ] == []


def test_cases_that_need_a_look_come_first(made):
    order = [record.title for record in made.records]
    assert order.index(WHOLE) == 3
    looks = {record.title: record.look for record in made.records}
    assert looks[FAR_TUMOR] == looks[NO_TUMOR] == looks[ONE_KIDNEY] == "high"


@pytest.mark.parametrize(
    ("case_id", "kind"),
    [(NO_TUMOR, "low-score"), (ONE_KIDNEY, "kidney-missing"), (FAR_TUMOR, "tumor-outside")],
)
def test_what_is_spoiled_is_named(made, case_id, kind):
    record = next(record for record in made.records if record.title == case_id)
    assert kind in {finding.kind for finding in record.findings}
    words = [finding.text for finding in record.findings if finding.kind == kind]
    assert words[0] in Elements(page_of(made, case_id)).text


def test_scores_are_those_of_the_official_metrics(made):
    scores = {r.title: (r.numbers["kidney_dice"], r.numbers["tumor_dice"]) for r in made.records}
    assert scores[WHOLE] == (1, 1)
    assert scores[NO_TUMOR] == (1, 0)
    assert scores[ONE_KIDNEY][0] < 0.7


def test_what_stands_in_files_is_text_on_the_pages(made):
    allowed = {"report.js", "volume.js", "../../report_case.js", "../../report_viewer.js"}
    for page in all_pages(made):
        elements = Elements(page)
        scripts = [a.get("src") for tag, a in elements.tags if tag == "script"]
        assert set(scripts) <= allowed
        pictures = [attributes for tag, attributes in elements.tags if tag == "img"]
        assert not any(name.startswith("on") for picture in pictures for name in picture)
    assert NASTY in Elements(page_of(made, WHOLE)).text


def test_a_nasty_case_id_injects_nothing(made, tmp_path):
    title = "\"><script>alert(1)<#%?'"
    _write_pages(tmp_path, [replace(made.records[0], title=title)], [(NASTY, NASTY)])
    for page in (tmp_path / "index.html", tmp_path / "cases" / title / "index.html"):
        elements = Elements(page)
        assert title in elements.text
        assert all("src" in a for tag, a in elements.tags if tag == "script")
    links = [a["href"] or "" for tag, a in Elements(tmp_path / "index.html").tags if tag == "a"]
    assert links[-1] == "cases/%22%3E%3Cscript%3Ealert%281%29%3C%23%25%3F%27/index.html"


def test_pictures_and_controls_have_a_text(made):
    for page in all_pages(made):
        for tag, attributes in Elements(page).tags:
            if tag == "img":
                assert "alt" in attributes
            if tag in ("canvas", "svg") or (tag == "input" and attributes.get("type") == "range"):
                assert attributes.get("aria-label"), (page, tag, attributes)


def test_what_did_not_change_is_kept(tmp_path):
    folder = write_review_data(tmp_path, cases=2)
    first = review(folder)
    scripts = [page_of(first, record.title).with_name("volume.js") for record in first.records]
    before = {script: script.stat().st_mtime_ns for script in scripts}
    (folder / "masks" / f"{NO_TUMOR}.nii.gz").touch()
    review(folder)
    after = {script: script.stat().st_mtime_ns for script in scripts}
    changed = {script.parent.name for script in scripts if after[script] != before[script]}
    assert changed == {NO_TUMOR}


def test_cases_of_an_earlier_report_go(tmp_path):
    folder = write_review_data(tmp_path, cases=2)
    review(folder)
    (folder / "masks" / f"{NO_TUMOR}.nii.gz").unlink()
    made = review(folder, references=False)
    assert [path.name for path in (folder / "report" / "cases").iterdir()] == [WHOLE]
    assert made.unmasked == (NO_TUMOR,)


def test_without_references_there_are_no_scores(tmp_path):
    made = review(write_review_data(tmp_path, cases=1), references=False)
    assert made.records[0].numbers["tumor_dice"] is None
    assert "tumor Dice" not in made.index.read_text(encoding="utf-8")


def test_a_predicted_quality_ranks_where_there_are_no_references(tmp_path):
    folder = write_review_data(tmp_path, cases=2)
    low = {"tumor_agreement": 0.55, "expected_tumor_dice": 0.31}
    qualities = {WHOLE: low, NO_TUMOR: {"kidney_agreement": 0.97}}
    write_run(folder / "masks", {case: {"quality": q} for case, q in qualities.items()})
    made = review(folder, references=False)
    assert made.records[0].title == WHOLE
    assert made.records[0].findings[0].kind == "low-agreement"
    assert "expected tumor Dice" in made.index.read_text(encoding="utf-8")
    page = Elements(made.index.parent / "cases" / WHOLE / "index.html").text
    assert "Predicted quality" in page
    assert "0.31" in page


def test_a_mask_on_another_grid_is_named_and_the_others_are_done(tmp_path):
    folder = write_review_data(tmp_path, cases=2)
    _, labels = painted(0, shape=(9, 50, 66))
    write_labels(folder / "masks" / f"{WHOLE}.nii.gz", labels, header_for(labels.grid))
    made = review(folder)
    assert [case_id for case_id, _ in made.failures] == [WHOLE]
    assert "9 x 50 x 66" in made.failures[0][1]
    assert WHOLE in Elements(made.index).text
    assert [record.title for record in made.records] == [NO_TUMOR]


def test_no_patient_name_appears_unless_asked_for(tmp_path):
    image, labels = painted(0)
    patient = tmp_path / "cts" / "Mustermann_CT"
    patient.parent.mkdir()
    write_series(patient, image, PatientName="Mustermann^Erika")
    write_labels(tmp_path / "masks" / "Mustermann_CT.nii.gz", labels, header_for(labels.grid))
    said = {"Mustermann_CT": {"warnings": ["folder MUSTERMANN has two series"]}}
    write_run(tmp_path / "masks", said)

    def told(**options):
        made = review(tmp_path, references=False, **options)
        files = [path for path in made.index.parent.rglob("*") if "niivue" not in path.name]
        names = b"\n".join(str(path.relative_to(tmp_path)).encode() for path in files)
        return names + b"\n".join(path.read_bytes() for path in files if path.is_file())

    assert re.search(rb"mustermann|erika", told(), re.IGNORECASE) is None
    assert b"Mustermann Erika" in told(names=True)
    assert re.search(rb"mustermann|erika", told(), re.IGNORECASE) is None


def test_a_page_of_somebody_else_is_not_overwritten(tmp_path):
    folder = write_review_data(tmp_path, cases=1)
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(UserError, match="did not write"):
        review(folder)


def test_masks_of_other_scans_are_refused(tmp_path):
    folder = write_review_data(tmp_path, cases=1)
    (folder / "masks" / f"{WHOLE}.nii.gz").rename(folder / "masks" / "other.nii.gz")
    with pytest.raises(UserError, match="masks of other"):
        review(folder)


@pytest.mark.parametrize(("module", "package"), [("jinja2", "jinja2"), ("PIL.Image", "pillow")])
def test_a_missing_package_is_named_with_what_to_do(tmp_path, monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{package} can't be imported(.|\n)*kitspipe\[report\]"):
        write_report([], {}, {}, tmp_path)


def test_the_command_writes_the_pages(tmp_path, capsys):
    folder = write_review_data(tmp_path, cases=2)
    given = {"-i": "cts", "-s": "masks", "-r": "refs", "-o": "report"}
    arguments = [text for flag, name in given.items() for text in (flag, str(folder / name))]
    assert cli.main(["report", *arguments, "-j", "1"]) == 0
    assert str(folder / "report" / "index.html") in capsys.readouterr().out


def test_ids_of_scans_and_masks_are_those_of_the_other_commands(tmp_path):
    folder = write_review_data(tmp_path, cases=1)
    assert [case.id for case in find_images(folder / "cts")] == [*find_masks(folder / "masks")]
