"""What visitors do on the page, and what they bring."""

from pathlib import Path

import tifffile
from PIL import Image
from playwright.sync_api import Locator, Page

from benchmark.synthetic import draw_part
from tests.demo.hostile_files import encoded, zipped

RUN = 60_000  # milliseconds until a result is given up; on a busy machine the first one takes a while
NEW = 600  # parts from this number on are new to the embedded detectors; one in twenty is a false alarm, as 500


def write_parts(folder: Path) -> Path:
    """Draws carpet_good.png, carpet_hole.png, tire_cut.png with its .tiff, and broken.png into a folder."""
    for category, defect in (("carpet", None), ("carpet", "hole"), ("tire", "cut")):
        part = draw_part(category, NEW, defect)
        path = folder / f"{category}_{defect or 'good'}.png"
        Image.fromarray(part.rgb).save(path)
        if part.xyz is not None:
            tifffile.imwrite(path.with_suffix(".tiff"), part.xyz, photometric="rgb")
    (folder / "broken.png").write_bytes((folder / "carpet_good.png").read_bytes()[:20_000])
    return folder


def give(page: Page, element: str, *paths: Path) -> None:
    """Puts files into a box."""
    page.locator(f"#{element} input[type=file]").set_input_files(list(paths))


def open_tab(page: Page, name: str) -> None:
    """Opens a tab, or one inside of the open tab."""
    page.get_by_role("tab", name=name, exact=True).filter(visible=True).click()


def give_scan(page: Page, parts: Path) -> None:
    """Puts the tire into "RGB + 3D"."""
    open_tab(page, "RGB + 3D")
    give(page, "scan-scan", parts / "tire_cut.tiff")
    give(page, "scan-image", parts / "tire_cut.png")


def score_batch(page: Page, *paths: Path) -> None:
    """Starts a batch."""
    open_tab(page, "Batch")
    give(page, "batch-files", *paths)
    page.locator("#batch-run").click()


def teach(page: Page, folder: Path, count: int) -> None:
    """Begins to train a detector of carpet, with `count` pictures in a zip."""
    good = {f"{index}.png": encoded(Image.fromarray(draw_part("carpet", index).rgb)) for index in range(count)}
    (folder / "good.zip").write_bytes(zipped(good))
    open_tab(page, "Teach")
    give(page, "teach-files", folder / "good.zip")
    page.locator("#teach-run").click()


def verdict(page: Page, tab: str = "inspect") -> Locator:
    """The verdict in "inspect" or "scan"."""
    return page.locator(f"#{tab}-verdict .ast-verdict strong")
