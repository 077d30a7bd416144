"""A real Chromium without a window, driven by Selenium; pages from a folder or a local server."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 60
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    # WebGL in software, for the volume viewer.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """The browser; skips the test where there is none."""
    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.set_script_timeout(PATIENCE_S)
    try:
        yield opened
    finally:
        opened.quit()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a server of this machine."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def wide(browser: webdriver.Chrome, width: int) -> None:
    """Make the page this many CSS pixels wide; a telephone's below 500."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(browser: webdriver.Chrome, script: str) -> object:
    """What a JavaScript expression gives as soon as that is true."""
    return WebDriverWait(browser, PATIENCE_S).until(
        lambda page: page.execute_script(f"return {script}"), f"never true: {script}"
    )


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Errors and warnings of the console since the last call."""
    lines = browser.get_log("browser")
    return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]
