"""The page as visitors use it, in a browser."""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from ast_hf import ASTDetector
from benchmark.synthetic import draw_part
from tests.app_server import REPOSITORY, AppServer, running_app
from tests.browser.actions import NEW, RUN, give, give_scan, open_tab, score_batch, teach, verdict
from tests.browser.conftest import OpenPage
from tests.demo.hostile_files import MARKUP_NAME, zipped

TABS = ("Inspect", "Batch", "RGB + 3D", "Teach")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with running_app(tmp_path_factory.mktemp("served"), REPOSITORY / "tests" / "demo" / "quick_app.py") as app:
        yield app


@pytest.fixture(scope="module")
def borderline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good part on which the false-positive rate decides."""
    model, path = ASTDetector.from_pretrained("demo-carpet", device="cpu"), tmp_path_factory.mktemp("good") / "good.png"
    for number in range(NEW, NEW + 100):
        Image.fromarray(draw_part("carpet", number).rgb).save(path)
        if 0.1 < model.predict(path).p_value < 0.4:
            return path
    pytest.fail("All good parts have the same score.")


def is_drawn(image: Locator) -> bool:
    """Whether what is seen there is more than one flat colour."""
    return len(np.unique(np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("L")))) > 32


@pytest.mark.parametrize(("part", "says"), [("carpet_good", "No defect found"), ("carpet_hole", "Defect")])
def test_a_picture_gets_its_verdict_and_heat_map(page: Page, parts: Path, part: str, says: str) -> None:
    give(page, "inspect-image", parts / f"{part}.png")
    expect(verdict(page)).to_have_text(says, timeout=RUN)
    expect(page.locator("#inspect-verdict [role=img]")).to_have_attribute("aria-label", re.compile(r"Score [\d.]+"))
    pictures = page.locator("#inspect-slider img")
    expect(pictures).to_have_count(2)
    sources = [picture.get_attribute("src") for picture in pictures.all()]
    assert sources[0] != sources[1]
    for picture in pictures.all():
        expect(picture).to_have_js_property("naturalWidth", 320)


def test_the_rate_slider_changes_the_verdict_without_the_picture(page: Page, borderline: Path) -> None:
    give(page, "inspect-image", borderline)
    expect(verdict(page)).to_be_visible(timeout=RUN)
    rate = page.locator("#inspect-rate input[type=range]")
    for key, says in (("Home", "No defect found"), ("End", "Defect")):
        rate.focus()
        with page.expect_request(lambda request: "/queue/join" in request.url) as sent:
            page.keyboard.press(key)
        # Without the picture no network can run: what was kept of the first run is enough.
        assert "path" not in (sent.value.post_data or "")
        expect(verdict(page)).to_have_text(says, timeout=RUN)


def test_a_batch_gives_a_table_and_a_csv(page: Page, parts: Path, tmp_path: Path) -> None:
    good, bad = ((parts / f"carpet_{kind}.png").read_bytes() for kind in ("good", "hole"))
    (tmp_path / "two.zip").write_bytes(zipped({"a/good.png": good, "../hole.png": bad, MARKUP_NAME: good}))
    score_batch(page, tmp_path / "two.zip", parts / "broken.png")
    expect(page.locator("#batch-status")).to_contain_text("4 of 4 done, 1 could not be read", timeout=RUN)
    table = page.locator("#batch-table")
    expect(table).to_contain_text("cut short")
    expect(table).to_contain_text(MARKUP_NAME)
    assert page.evaluate("window.injected") is None
    expect(page.locator("#batch-gallery img")).to_have_count(3)
    with page.expect_download() as download:
        page.locator("#batch-download").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows[:1] + rows[-1:]] == ["hole.png", "broken.png"]
    assert [row["is_anomalous"] for row in rows] == ["True", "False", "False", ""]
    assert "cut short" in rows[-1]["error"]


def test_a_scan_becomes_a_point_cloud(page: Page, parts: Path) -> None:
    give_scan(page, parts)
    picture, scan = (str(parts / f"tire_cut.{kind}") for kind in ("png", "tiff"))
    says = ASTDetector.from_pretrained("demo-tire", device="cpu").predict(picture, scan)
    expect(verdict(page, "scan")).to_have_text("Defect" if says.is_anomalous else "No defect found", timeout=RUN)
    canvas = page.locator("#scan-cloud canvas")
    expect(canvas).to_be_visible(timeout=RUN)
    for _ in range(100):
        if is_drawn(canvas):
            return
        page.wait_for_timeout(200)
    pytest.fail("The point cloud stays empty.")


def test_a_trained_detector_answers_its_visitor_alone(page: Page, open_page: OpenPage, parts: Path) -> None:
    teach(page, parts, 16)
    expect(page.locator("#teach-use")).to_be_visible(timeout=5 * RUN)
    lines = page.locator("#teach-curves .mark-line path").filter(visible=True)
    assert len([line for line in lines.all() if "L" in (line.get_attribute("d") or "")]) == 4
    page.locator("#teach-use").click()
    expect(page.locator("#inspect-detector input")).to_have_value("Your own detector")
    give(page, "inspect-image", parts / "carpet_hole.png")
    expect(verdict(page)).to_have_text(re.compile("Defect|No defect found"), timeout=RUN)
    open_tab(page, "JSON")
    expect(page.locator("#inspect-json")).to_contain_text("Your own detector")
    other = open_page()
    other.locator("#inspect-detector input").click()
    expect(other.get_by_role("option").first).to_be_visible()
    assert "Your own detector" not in other.get_by_role("option").all_inner_texts()


def test_what_is_painted_over_is_what_the_detector_looks_at(page: Page, parts: Path, tmp_path: Path) -> None:
    open_tab(page, "Teach")
    page.locator("#teach-drawn").click()
    page.get_by_role("button", name="Region of interest").click()
    canvas = page.locator("#teach-region canvas").first
    expect(canvas).to_be_visible(timeout=RUN)
    page.wait_for_timeout(1000)  # the editor fades in, and drops what is painted before
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    left, middle = box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] / 2
    page.mouse.move(left, middle)
    page.mouse.down()
    page.mouse.move(left + 120, middle, steps=12)
    page.mouse.up()
    page.locator("#teach-run").click()
    expect(page.locator("#teach-done")).to_be_visible(timeout=5 * RUN)
    with page.expect_download() as download:
        page.locator("#teach-download").click()
    zipfile.ZipFile(download.value.path()).extractall(tmp_path)
    (config,) = tmp_path.rglob("config.json")
    region = ASTDetector.from_pretrained(config.parent, device="cpu").region.float()
    height, width = region.shape[2:]
    assert 0 < region.mean() < 0.5 and region[0, 0, height // 2, width // 2] and not region[0, 0, 0].any()


def test_a_bad_file_gets_a_sentence_in_place_of_results(page: Page, parts: Path) -> None:
    give(page, "inspect-image", parts / "carpet_hole.png")
    expect(verdict(page)).to_have_text("Defect", timeout=RUN)
    give(page, "inspect-image", parts / "broken.png")
    expect(page.get_by_test_id("toast-body")).to_contain_text(
        "broken.png: the data is damaged or cut short", timeout=RUN
    )
    expect(verdict(page)).to_be_hidden()  # it was another picture's
    give(page, "inspect-image", parts / "carpet_good.png")
    expect(verdict(page)).to_have_text("No defect found", timeout=RUN)


def test_the_keyboard_is_enough_to_run(page: Page) -> None:
    button = page.locator("#inspect-run")
    expect(button).to_be_visible()
    for _ in range(40):
        page.keyboard.press("Tab")
        if button.evaluate("button => button === document.activeElement"):
            break
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("toast-body")).to_contain_text("There is no picture yet", timeout=RUN)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_tab_without_scrolling_sideways(open_page: OpenPage, parts: Path, scheme: str) -> None:
    page = open_page("phone", scheme)
    give(page, "inspect-image", parts / "carpet_hole.png")
    expect(verdict(page)).to_be_visible(timeout=RUN)
    score_batch(page, parts / "carpet_hole.png", parts / "broken.png")
    expect(page.locator("#batch-table")).to_contain_text("broken.png", timeout=RUN)
    for name in TABS:
        open_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
