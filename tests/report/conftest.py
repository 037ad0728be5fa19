"""A made-up study, its page, and a real browser to open pages in."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import make_study

from mmlabel.report import StudyReport, write_study_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def study_page(study: StudyReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_report(tmp_path_factory.mktemp("page"), study)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the page was not tried in a browser")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: the page was not tried in a browser")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=found, headless=True, args=quiet
        )
        yield context
        context.close()


@pytest.fixture
def open_page(browser) -> Iterator:
    """Opens a file and fails the test if the page complained or asked for anything else."""
    tab, trouble = browser.new_page(), []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or trouble.append(request.url),
    )

    def open_file(path: Path, width: int):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(path.as_uri())
        return tab

    yield open_file
    tab.close()
    assert trouble == []
