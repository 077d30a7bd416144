"""The pages of kitspipe_report in a real browser; skipped where there is none."""

import json

import numpy as np
import pytest
from browser import chromium, complaints, served, until, wide
from review_data import FAR_TUMOR, NO_TUMOR, ONE_KIDNEY, WHOLE, review, write_review_data
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from kitspipe.imaging.formats import read_labels

pytestmark = pytest.mark.slow
SPOILED = {NO_TUMOR, ONE_KIDNEY, FAR_TUMOR}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_review_data(tmp_path_factory.mktemp("browser"))
    review(made)
    return made


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def cohort(browser, folder):
    wide(browser, 1280)
    browser.get((folder / "report" / "index.html").as_uri())
    return browser


@pytest.fixture
def case(browser, folder):
    wide(browser, 1280)
    open_case(browser, (folder / "report").as_uri(), WHOLE)
    return browser


def open_case(browser, root, case_id):
    browser.get(f"{root}/cases/{case_id}/index.html")
    until(browser, "window.kitspipeArrays !== undefined")


def listed(browser):
    """The ids of the rows that are shown, from the top."""
    links = browser.find_elements(By.CSS_SELECTOR, ".cases tbody tr:not([hidden]) .name a")
    return [link.text for link in links]


def press(browser, text):
    browser.find_element(By.XPATH, f"//th/button[text()='{text}']").click()


def told(browser, plane):
    return browser.find_element(By.CSS_SELECTOR, f"#{plane} output").text


def slice_number(browser, plane):
    return int(told(browser, plane).split(" of ")[0])


def pixels(browser, plane):
    return browser.execute_script(f"return document.querySelector('#{plane} canvas').toDataURL()")


def show_viewer(browser):
    browser.execute_script("document.querySelector('#viewer').scrollIntoView()")
    until(browser, "document.querySelector('#viewer').dataset.state === 'ready'")


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_from_a_folder_without_a_complaint(browser, folder, width):
    wide(browser, width)
    complaints(browser)
    browser.get((folder / "report" / "index.html").as_uri())
    assert len(listed(browser)) == 4
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    open_case(browser, (folder / "report").as_uri(), FAR_TUMOR)
    show_viewer(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert complaints(browser) == []
    assert browser.execute_script("return window.hacked") is None


def test_pages_load_from_a_server_without_a_complaint(browser, folder):
    wide(browser, 1280)
    with served(folder / "report") as root:
        browser.get(root)
        complaints(browser)
        assert len(listed(browser)) == 4
        browser.find_element(By.LINK_TEXT, WHOLE).click()
        until(browser, "window.kitspipeArrays !== undefined")
        show_viewer(browser)
        assert complaints(browser) == []


def test_the_table_sorts_by_a_click_and_back(cohort):
    assert listed(cohort)[-1] == WHOLE
    press(cohort, "case")
    assert listed(cohort) == [WHOLE, NO_TUMOR, ONE_KIDNEY, FAR_TUMOR]
    press(cohort, "case")
    assert listed(cohort) == [FAR_TUMOR, ONE_KIDNEY, NO_TUMOR, WHOLE]
    header = cohort.find_element(By.CSS_SELECTOR, "th[aria-sort]")
    assert header.get_attribute("aria-sort") == "descending"


def test_the_lowest_score_comes_first_and_what_is_missing_last(cohort):
    press(cohort, "tumor Dice")
    assert listed(cohort)[0] == NO_TUMOR
    press(cohort, "largest tumor, mm")
    assert listed(cohort)[-1] == NO_TUMOR
    press(cohort, "largest tumor, mm")
    assert listed(cohort)[-1] == NO_TUMOR


def test_the_table_sorts_by_the_list_too(cohort):
    Select(cohort.find_element(By.ID, "sort-by")).select_by_visible_text("case, A to Z")
    assert listed(cohort) == [WHOLE, NO_TUMOR, ONE_KIDNEY, FAR_TUMOR]


def test_filters_leave_what_fits_and_say_how_many(cohort):
    cohort.find_element(By.ID, "search").send_keys("outside")
    assert listed(cohort) == [FAR_TUMOR]
    assert cohort.find_element(By.ID, "shown").text == "1 of 4 cases"
    cohort.find_element(By.ID, "clear").click()
    Select(cohort.find_element(By.ID, "look")).select_by_value("high")
    assert set(listed(cohort)) == SPOILED
    Select(cohort.find_element(By.ID, "kind")).select_by_value("kidney-missing")
    assert listed(cohort) == [ONE_KIDNEY]


def test_the_keyboard_reaches_sorting_and_cases(cohort):
    cohort.find_element(By.XPATH, "//th/button[text()='case']").send_keys(Keys.ENTER)
    assert listed(cohort)[0] == WHOLE
    cohort.find_element(By.LINK_TEXT, WHOLE).send_keys(Keys.ENTER)
    until(cohort, "window.kitspipeArrays !== undefined")
    assert cohort.find_element(By.TAG_NAME, "h1").text == WHOLE


def test_the_page_has_the_labels_of_the_mask(case, folder):
    counts = case.execute_script(
        "const n = [0, 0, 0, 0]; for (const v of kitspipeArrays.labels) n[v]++; return n"
    )
    mask, _ = read_labels(folder / "masks" / f"{WHOLE}.nii.gz")
    assert counts[1:] == np.bincount(mask.array.ravel(), minlength=4)[1:].tolist()


def test_slices_scroll_by_wheel_keys_and_slider(case):
    canvas = case.find_element(By.CSS_SELECTOR, "#axial canvas")
    first, picture = slice_number(case, "axial"), pixels(case, "axial")
    canvas.send_keys(Keys.ARROW_UP)
    assert slice_number(case, "axial") == first + 1
    assert pixels(case, "axial") != picture
    canvas.send_keys(Keys.ARROW_DOWN)
    assert pixels(case, "axial") == picture
    canvas.send_keys(Keys.HOME)
    assert slice_number(case, "axial") == 1
    case.execute_script(
        "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: 100, cancelable: true}))",
        canvas,
    )
    assert slice_number(case, "axial") == 3
    case.find_element(By.CSS_SELECTOR, "#axial input").send_keys(Keys.END)
    number, count = told(case, "axial").split(":")[0].split(" of ")
    assert number == count


def test_a_click_leads_the_other_planes_there(case):
    canvas = case.find_element(By.CSS_SELECTOR, "#coronal canvas")
    far = canvas.size["width"] // 2 - 2
    ActionChains(case).move_to_element_with_offset(canvas, far, 0).click().perform()
    number, count = told(case, "sagittal").split(":")[0].split(" of ")
    assert int(number) >= int(count) - 1


def test_show_leads_to_what_is_to_check(browser, folder):
    wide(browser, 1280)
    open_case(browser, (folder / "report").as_uri(), FAR_TUMOR)
    checks = browser.find_elements(By.CSS_SELECTOR, ".checks li")
    button = next(c for c in checks if "outside" in c.text).find_element(By.TAG_NAME, "button")
    button.click()
    for plane in ("axial", "coronal", "sagittal"):
        assert "tumor" in told(browser, plane).split(";")[0]


def test_masks_and_reference_can_be_hidden(case):
    body = case.find_element(By.TAG_NAME, "body")
    with_all = pixels(case, "axial")
    body.send_keys("r")
    without_reference = pixels(case, "axial")
    body.send_keys("m")
    without_masks = pixels(case, "axial")
    assert len({with_all, without_reference, without_masks}) == 3
    assert case.find_element(By.ID, "masks").get_attribute("aria-pressed") == "false"


def test_the_text_says_what_a_slice_shows(case):
    label = case.find_element(By.CSS_SELECTOR, "#axial canvas").get_attribute("aria-label")
    assert label.startswith("axial slice ")
    assert "tumor" in label
    assert "cm²" in label


def test_the_viewer_holds_scan_and_masks_in_place(case):
    show_viewer(case)
    names = case.execute_script("return kitspipeViewer.volumes.map((v) => v.name)")
    assert names == ["scan.nii", "masks.nii"]
    shown = case.execute_script(
        "const v = kitspipeViewer.volumes[0]; return JSON.stringify("
        "{affine: v.hdr.affine, shape: kitspipeVolume.shape, mine: kitspipeVolume.affine})"
    )
    read = json.loads(shown)
    np.testing.assert_allclose(read["affine"], read["mine"], atol=1e-3)
    same = case.execute_script(
        "const [a, b] = [kitspipeViewer.volumes[1].img, kitspipeArrays.labels];"
        "return a.length === b.length && a.every((value, i) => value === b[i])"
    )
    assert same


def test_the_viewer_turns_to_slices(case):
    show_viewer(case)
    Select(case.find_element(By.ID, "view")).select_by_visible_text("axial")
    assert case.execute_script("return kitspipeViewer.opts.sliceType") == 0


def test_next_and_previous_follow_the_order_of_review(cohort):
    first, second = listed(cohort)[:2]
    cohort.find_element(By.LINK_TEXT, first).click()
    until(cohort, "window.kitspipeArrays !== undefined")
    cohort.find_element(By.TAG_NAME, "body").send_keys("n")
    until(cohort, f"document.querySelector('h1').textContent.trim() === '{second}'")
    cohort.find_element(By.ID, "previous").click()
    until(cohort, f"document.querySelector('h1').textContent.trim() === '{first}'")
