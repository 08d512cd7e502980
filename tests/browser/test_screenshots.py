"""The page with its real network, trained and photographed: AST_HF_SCREENSHOTS names the folder for the pictures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.app_server import AppServer, running_app
from tests.browser.actions import RUN, give, give_scan, open_tab, score_batch, teach, verdict
from tests.browser.conftest import VIEWPORTS, OpenPage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with running_app(tmp_path_factory.mktemp("served")) as app:
        yield app


@pytest.mark.parametrize("viewport", VIEWPORTS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_photographed_and_a_trained_detector_finds_the_defect(
    open_page: OpenPage, parts: Path, tmp_path: Path, viewport: str, scheme: str
) -> None:
    page, folder = open_page(viewport, scheme), Path(os.environ.get("AST_HF_SCREENSHOTS", tmp_path))

    def photograph(name: str) -> None:
        page.wait_for_timeout(1000)  # until what moves has come to rest
        page.screenshot(path=folder / f"{name}_{viewport}_{scheme}.png", full_page=True)

    def inspect(kind: str) -> None:
        give(page, "inspect-image", parts / f"carpet_{kind}.png")
        expect(verdict(page)).to_have_text("Defect" if kind == "hole" else "No defect found", timeout=RUN)

    expect(page.locator("#inspect-run")).to_be_visible(timeout=RUN)
    photograph("empty")
    for kind in ("good", "hole"):
        inspect(kind)
        photograph(f"inspect_{kind}")
    give(page, "inspect-image", parts / "broken.png")
    expect(page.get_by_test_id("toast-body")).to_be_visible(timeout=RUN)
    photograph("error")
    score_batch(page, *sorted(parts.glob("*.png")))
    expect(page.locator("#batch-status")).to_contain_text("could not be read", timeout=RUN)
    photograph("batch")
    give_scan(page, parts)
    expect(page.locator("#scan-cloud canvas")).to_be_visible(timeout=RUN)
    photograph("scan")
    teach(page, tmp_path, 20)
    expect(page.locator("#teach-curves canvas, #teach-curves svg").first).to_be_visible(timeout=RUN)
    photograph("teach_running")
    page.locator("#teach-use").click(timeout=5 * RUN)
    for kind in ("good", "hole"):
        inspect(kind)
    open_tab(page, "Teach")
    photograph("teach_done")
