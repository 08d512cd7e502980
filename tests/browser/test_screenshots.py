"""Pictures of every tab, to be looked at: `AST_HF_SCREENSHOTS=FOLDER pytest -m slow tests/browser`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import RUN, give, open_tab, start_teaching, verdict, write_parts
from tests.browser.conftest import VIEWPORTS, OpenPage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize("viewport", VIEWPORTS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_photographed(open_page: OpenPage, parts: Path, viewport: str, scheme: str) -> None:
    folder = os.environ.get("AST_HF_SCREENSHOTS")
    if not folder:
        pytest.skip("AST_HF_SCREENSHOTS names the folder for the pictures")
    page = open_page(viewport, scheme)

    def photograph(name: str) -> None:
        page.wait_for_timeout(1000)  # until what moves has come to rest
        page.screenshot(path=Path(folder, f"{name}_{viewport}_{scheme}.png"), full_page=True)

    expect(page.locator("#inspect-run")).to_be_visible(timeout=RUN)
    photograph("empty")
    for kind in ("good", "hole"):
        give(page, "inspect-image", parts / f"carpet_{kind}.png")
        expect(verdict(page)).to_have_text("Defect" if kind == "hole" else "No defect found", timeout=RUN)
        photograph(f"inspect_{kind}")
    for name in ("Regions", "JSON"):
        open_tab(page, name)
        photograph(f"inspect_{name.lower()}")
    give(page, "inspect-image", parts / "broken.png")
    expect(page.get_by_test_id("toast-body")).to_be_visible(timeout=RUN)
    photograph("error")
    _batch(page, parts)
    photograph("batch")
    _scan(page, parts)
    expect(page.locator("#scan-cloud canvas")).to_be_visible(timeout=RUN)
    page.wait_for_timeout(3000)  # without a graphics card the point cloud is drawn slowly
    photograph("scan")
    open_tab(page, "Teach")
    photograph("teach_empty")
    start_teaching(page, parts, 20)
    expect(page.locator("#teach-curves polyline").first).to_be_visible(timeout=RUN)
    photograph("teach_running")
    expect(page.locator("#teach-use")).to_be_visible(timeout=5 * RUN)
    photograph("teach_done")


def _batch(page: Page, parts: Path) -> None:
    open_tab(page, "Batch")
    give(page, "batch-files", *sorted(parts.glob("*.png")))
    page.locator("#batch-run").click()
    expect(page.locator("#batch-status")).to_contain_text("could not be read", timeout=RUN)


def _scan(page: Page, parts: Path) -> None:
    open_tab(page, "RGB + 3D")
    give(page, "scan-scan", parts / "tire_cut.tiff")
    give(page, "scan-image", parts / "tire_cut.png")
    expect(verdict(page, "scan")).to_be_visible(timeout=RUN)
