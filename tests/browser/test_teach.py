"""A lesson as visitors get it, with the real network."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from benchmark.synthetic import draw_part
from tests.browser.actions import NEW, RUN, give, teach, verdict

pytestmark = pytest.mark.slow


def test_what_was_taught_from_twenty_pictures_finds_a_defect(page: Page, tmp_path: Path) -> None:
    teach(page, tmp_path, 20)
    page.locator("#teach-use").click()
    for defect, says in ((None, "No defect found"), ("hole", "Defect")):
        Image.fromarray(draw_part("carpet", NEW, defect).rgb).save(tmp_path / "carpet.png")
        give(page, "inspect-image", tmp_path / "carpet.png")
        expect(verdict(page)).to_have_text(says, timeout=RUN)
