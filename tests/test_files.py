"""Files appear whole or not at all, also after a power cut, with the permissions of the process."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from ast_hf.errors import OutputError
from ast_hf.files import check_folder, home, write_atomic, write_or_rescue


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_permissions_are_those_of_the_process(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_data_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Mock(fsync=Mock(wraps=os.fsync), replace=Mock(wraps=os.replace))
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(os, "replace", disk.replace)
    write_atomic(tmp_path / "file", b"in", memoryview(b" pieces"))
    assert [call[0] for call in disk.mock_calls] == ["fsync", "replace", "fsync"]
    assert (tmp_path / "file").read_bytes() == b"in pieces"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failed_write_leaves_what_was_there(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"earlier")
    monkeypatch.setattr(os, step, Mock(side_effect=OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


def test_a_folder_that_takes_no_files_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=full))
    with pytest.raises(OutputError, match=r"written to .*new \(No space left on device\): take another"):
        check_folder(tmp_path / "new", "take another")


def test_what_no_place_takes_is_the_first_places_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []

    def write(folder: Path) -> None:
        tried.append(folder)
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(OSError, match="No space left on device: '/first'"):
        write_or_rescue(write, Path("/first"))
    assert [path.parent for path in tried] == [Path("/"), home() / "rescued", tmp_path / "temporary"]
