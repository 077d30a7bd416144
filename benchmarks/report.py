"""Size of the review pages of many cases, time to write them, and time until they are open.

    python benchmarks/report.py --work FOLDER [--cases 100] [--painted 8] [--masks KITS]

Paints a few scans (around the masks of a KiTS folder if one is given, else invented ones of
1.5 x 0.8 x 0.8 mm), spoils nothing, and takes each several times under other names. Opening is
timed in headless Chromium from file:, to the load event, and for a case until its slices are
drawn; without chromium and chromedriver that part is left out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path

from kitspipe.dataset.cases import find_images, find_masks
from kitspipe.dataset.phantom_dataset import paint_demo
from kitspipe.evaluation.report import write_report

ROUNDS = 5


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--painted", type=int, default=8)
    parser.add_argument("--masks", type=Path, default=None)
    given = parser.parse_args()
    spacing = None if given.masks else (1.5, 0.8, 0.8)
    raw, held_out = paint_demo(
        given.work / "painted", masks=given.masks, cases=given.painted, spacing_mm=spacing
    )
    originals = [*sorted(raw.iterdir()), *sorted(held_out.iterdir())]
    linked = given.work / "cases"
    shutil.rmtree(linked, ignore_errors=True)
    linked.mkdir()
    for number in range(given.cases):
        folder = linked / f"case_{number:05d}"
        folder.mkdir()
        for file in originals[number % len(originals)].resolve().iterdir():
            (folder / file.name).symlink_to(file)
    output = given.work / "report"
    shutil.rmtree(output, ignore_errors=True)
    started, cpu = time.perf_counter(), time.process_time()
    masks = find_masks(linked)
    made = write_report(find_images(linked), masks, masks, output, jobs=1)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    sizes = [file.stat().st_size for file in output.rglob("*") if file.is_file()]
    scripts = [file.stat().st_size / 1e6 for file in output.glob("cases/*/volume.js")]
    print(f"{len(made.records)} cases, {len(made.failures)} failed")
    print(
        f"size: {sum(sizes) / 1e6:.1f} MB in {len(sizes)} files; index {made.index.stat().st_size}"
    )
    print(f"volume.js: median {statistics.median(scripts):.2f} MB, largest {max(scripts):.2f} MB")
    print(f"written in {seconds:.0f} s ({cpu:.0f} s of processor), one process")
    browse(made.index, made.records[0].title)


def browse(index: Path, case: str) -> None:
    """Print how long pages take to open."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        print("no chromium: opening is not timed")
        return
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--use-angle=swiftshader"):
        options.add_argument(argument)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    loaded = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd / 1000"
    try:
        for name, page, ready in (
            ("all cases", index, "true"),
            ("a case", index.parent / "cases" / case / "index.html", "!!window.kitspipeArrays"),
        ):
            events, whole = [], []
            for _ in range(ROUNDS):
                opened.get("about:blank")
                started = time.perf_counter()
                opened.get(page.as_uri())
                while not opened.execute_script(f"return {ready}"):
                    time.sleep(0.01)
                whole.append(time.perf_counter() - started)
                events.append(float(opened.execute_script(loaded)))
            print(
                f"{name}: load event {statistics.median(events):.2f} s, ready "
                f"{statistics.median(whole):.2f} s ({min(whole):.2f} to {max(whole):.2f})"
            )
    finally:
        opened.quit()


if __name__ == "__main__":
    main()
