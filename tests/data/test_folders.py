"""Which pictures of a folder are taken, how they pair up, and what is refused to train on."""

import logging
from pathlib import Path

import pytest

from ast_hf.data.folders import SCAN_EXTENSIONS, check_good_parts, find_images, mark_output, pair_files, pair_scans
from ast_hf.errors import ImageReadError


def put(root: Path, *names: str) -> list[Path]:
    """Writes empty files, which listing does not open."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def test_find_images(tmp_path: Path) -> None:
    wanted = put(tmp_path, "a.PNG", "b.jpeg", "empty.tif", "sub/c.webp", "sub/deep/d.BMP")
    put(tmp_path, ".hidden.png", ".cache/e.png", "__MACOSX/a.png", "Thumbs.db", "notes.txt", "f.png.part", "none/g.gif")
    (tmp_path / "folder.png").mkdir()
    assert find_images(str(tmp_path)) == wanted
    assert find_images(tmp_path, SCAN_EXTENSIONS) == [tmp_path / "empty.tif"]
    for folder, reason in (("none", "no pictures"), ("x", "no such"), ("notes.txt", "a file")):
        with pytest.raises(ImageReadError, match=reason):
            find_images(tmp_path / folder)


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    wanted = put(own, "b/1.png", "link/2.png", "link/more/3.png")
    put(tmp_path, "beside.png")
    for name in ("2.png", "more/3.png"):
        put(elsewhere, name)
        (own / "link" / name).unlink()
    for folder in ("link/more", "link"):
        (own / folder).rmdir()
    links = {"link": elsewhere, "z": elsewhere, "a": own / "b", "b/loop": own, "b/up": tmp_path}
    for name, target in {**links, "b/nowhere": tmp_path / "gone"}.items():
        (own / name).symlink_to(target)
    (elsewhere / "back").symlink_to(own)
    assert find_images(own) == wanted
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "link").symlink_to(own)
    assert len(find_images(tmp_path / "only")) == 3


def test_what_this_program_wrote_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wanted = put(tmp_path, "overlays/mine.png", "part.png")
    mark_output(tmp_path / "out/overlays")
    put(tmp_path, "out/overlays/line/part.png", "before/overlays/part.png", "before/results.csv")
    assert find_images(tmp_path) == wanted
    assert f"{tmp_path / 'out' / 'overlays'} is left out" in caplog.text
    with pytest.raises(ImageReadError, match="no pictures"):
        find_images(tmp_path / "out" / "overlays")


def test_files_pair_by_their_path(tmp_path: Path) -> None:
    pictures = put(tmp_path / "rgb", "a/000.png", "b/000.png", "b/001.tif")
    scans = put(tmp_path / "xyz", "a/000.TIF", "b/000.tiff", "b/001.Tiff")
    put(tmp_path / "xyz", "a/000.png")  # a preview
    assert pair_scans(tmp_path) == list(zip(pictures, scans, strict=True))
    masks = put(tmp_path / "masks", "a/000_mask.png", "b/000.png", "b/001_mask.png", "b/spare.png")
    assert [mask for _, mask in pair_files(tmp_path / "rgb", tmp_path / "masks", "mask", suffix="_mask")] == masks[:3]


@pytest.mark.parametrize(
    ("pictures", "scans", "message"),
    [
        ("a/000.png", "b/000.tiff", r"xyz/b/000\.tiff: its picture is missing: add \S*rgb/b/000\.png"),
        ("a/000.png a/001.png", "a/000.tif", r"rgb/a/001\.png: its scan is missing: add \S*xyz/a/001\.tif,"),
        ("000.png", "000.tif 001.tif", r"xyz/001\.tif: its picture is missing"),
        ("000.png 000.jpg", "000.tif", r"rgb/000\.png: \S*rgb/000\.jpg differs by its ending only"),
        ("000.png", "000.tif 000.tiff", r"xyz/000\.tiff: \S*xyz/000\.tif differs by its ending only"),
    ],
)
def test_what_is_single_or_double_is_named(pictures: str, scans: str, message: str, tmp_path: Path) -> None:
    put(tmp_path / "rgb", *pictures.split())
    put(tmp_path / "xyz", *scans.split())
    with pytest.raises(ImageReadError, match=message):
        pair_scans(tmp_path)


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        ("bottle/train/good/0.png bottle/test/good/0.png bottle/ground_truth/hole/0_mask.png", "bottle/train/good"),
        ("Train/Good/0.png", "Train/Good"),
        ("OK/0.png NG/0.png", "OK"),
        ("line/0.png Masks/0.png", "give their folder."),
        ("0.png", None),
        ("good/0.png good/line/1.png", None),
        ("tests/0.png bad_light/0.png", None),
    ],
)
def test_a_datasets_root_is_not_trained_on(files: str, meant: str | None) -> None:
    names = [Path(name) for name in files.split()]
    if meant is None:
        check_good_parts("root/test", names)
    else:
        with pytest.raises(ImageReadError, match=f"^root: this is a dataset's root.*{meant}"):
            check_good_parts("root", names)
