import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ast_hf.demo import uploads
from ast_hf.demo.uploads import DemoError, find_uploads, read_cloud, read_picture, shown_name
from tests import tiny
from tests.demo.hostile_files import encoded, hidden_directory


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    return encoded(Image.new("RGB", size, "teal"))


def packed(folder: Path, members: dict[str, bytes], comment: bytes = b"", **options: int) -> str:
    path = folder / "parts.zip"
    with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[arg-type]
        archive.comment = comment
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def test_pictures_come_from_files_and_zips_alike(tmp_path: Path) -> None:
    (tmp_path / "single.png").write_bytes(png())
    members = {"a/b/one.png": png(), "../../two.png": png(), "__MACOSX/one.png": b"", ".DS_Store": b"", "x/": b""}
    found = find_uploads([str(tmp_path / "single.png"), packed(tmp_path, members)])
    assert [upload.name for upload in found] == ["single.png", "one.png", "two.png"]
    assert [upload.picture().size for upload in found] == [(40, 30)] * 3
    assert {path.name for path in tmp_path.iterdir()} == {"single.png", "parts.zip"}  # nothing is unpacked to disk


def test_a_bad_member_is_an_error_with_its_own_name(tmp_path: Path) -> None:
    (upload,) = find_uploads([packed(tmp_path, {"folder/notes.png": b"not a picture"})])
    with pytest.raises(DemoError, match=r"notes\.png: this is not a picture") as caught:
        upload.picture()
    assert caught.value.reason.startswith("this is not a picture") and "folder" not in str(caught.value)


def test_an_understated_size_gives_no_more_than_it_says(tmp_path: Path) -> None:
    path = Path(packed(tmp_path, {"a.png": png()}))
    true, false = (struct.pack("<LHH", size, 5, 0) for size in (len(png()), 8))
    path.write_bytes(path.read_bytes().replace(true, false))
    (upload,) = find_uploads([str(path)])
    with pytest.raises(DemoError, match="damaged"):
        upload.picture()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, method: int) -> None:
    (upload,) = find_uploads([packed(tmp_path, {"a.png": png()}, compression=method)])
    with pytest.raises(DemoError, match="unusual way"):
        upload.picture()


def test_zips_that_are_none_or_too_much_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.zip"
    cut_short = Path(packed(tmp_path, {"a.png": png()})).read_bytes()[:-9]
    for data in (b"", b"PK\x05\x06", b"hello" * 100, cut_short):
        broken.write_bytes(data)
        with pytest.raises(DemoError, match=r"broken\.zip is damaged"):
            find_uploads([str(broken)])
    monkeypatch.setattr(uploads, "MAX_UNPACKED_BYTES", 10)
    with pytest.raises(DemoError, match="unpacks to more than"):
        find_uploads([packed(tmp_path, {"a.png": png()})])


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "behind a false end record"])
def test_a_long_list_of_members_is_refused_unread(tmp_path: Path, hidden: bool) -> None:
    path = Path(packed(tmp_path, {f"{i}.png": b"" for i in range(20_000)}))
    if hidden:
        path.write_bytes(hidden_directory(path.read_bytes()))
        assert len(zipfile.ZipFile(path).infolist()) == 20_000
    with pytest.raises(DemoError, match="too many members"):
        find_uploads([str(path)])


@pytest.mark.parametrize("comment", [b"", b"packed by hand", b"PK\x05\x06 " * 9, bytes(2**16 - 1)])
def test_an_honest_zip_may_have_a_comment(tmp_path: Path, comment: bytes) -> None:
    path = packed(tmp_path, {f"{'long name ' * 20}{i}.png": png() for i in range(uploads.MAX_PICTURES)}, comment)
    if b"PK" in comment:  # where `zipfile` itself finds nothing, neither do we
        with pytest.raises(DemoError, match="damaged"):
            find_uploads([path])
    else:
        assert find_uploads([path])[-1].picture().size == (40, 30)


def test_an_honest_zip_may_be_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # so that it is written as ZIP64
    path = packed(tmp_path, {"a.png": png(), "b.png": png()})
    assert b"PK\x06\x06" in Path(path).read_bytes()
    assert [upload.name for upload in find_uploads([path])] == ["a.png", "b.png"]


def test_none_and_too_many_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no pictures yet"):
        find_uploads(None)
    with pytest.raises(DemoError, match="at most 2"):
        find_uploads([str(tmp_path / "a.png")] * 3, most=2)


@settings(max_examples=20)
@given(width=st.integers(100, 4000), height=st.integers(100, 4000))
def test_large_pictures_are_scaled_down_and_keep_their_shape(width: int, height: int) -> None:
    picture = read_picture(png((width, height)))
    assert picture.width * picture.height <= uploads.MAX_PIXELS
    if width * height <= uploads.MAX_PIXELS:
        assert picture.size == (width, height)
    else:
        assert picture.width / picture.height == pytest.approx(width / height, rel=0.02)


def test_scans_are_read_within_limits_and_known_by_their_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.tiff"
    tifffile.imwrite(path, tiny.scan(0), photometric="rgb")
    assert np.array_equal(read_cloud(path), tiny.scan(0))
    path.write_bytes(png())
    with pytest.raises(DemoError, match=r"scan\.tiff: this is not a TIFF"):
        read_cloud(path)


@given(st.text(), st.sampled_from(["/", "\\", ""]))
def test_shown_names_have_no_folders_and_no_control_characters(text: str, separator: str) -> None:
    name = shown_name(f"secret{separator}{text}" if separator else text)
    assert len(name) <= 80 and "/" not in name and "\\" not in name and all(c.isprintable() for c in name)
