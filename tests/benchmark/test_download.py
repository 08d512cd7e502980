"""`python -m benchmark.download` against a server of its own that does what servers do on bad days."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import re
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from benchmark import archives, download
from benchmark.archives import Archive, DownloadError, load_archives, unpack
from benchmark.datasets import DATASETS, list_categories, load_category

NOISE = hashlib.shake_256(b"noise").digest(20_000)


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`, with ETag and Range, unless `server.script` has another reply for this request."""

    def do_GET(self) -> None:
        self.server.requests.append(dict(self.headers))
        body = self.server.files.get(self.path)
        if self.server.script:
            self.server.script.pop(0)(self, body)
        elif body is None:
            self.reply(404, b"gone")
        else:
            self.ranged(body)

    def ranged(self, body: bytes) -> None:
        etag = self.server.etag
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        if start and self.headers.get("If-Range", etag) == etag:
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            late = start >= len(body)
            self.reply(416 if late else 206, body[start:], {"ETag": etag, "Content-Range": span})
        else:
            self.reply(200, body, {"ETag": etag})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def has_another_version(handler: Handler, body: bytes) -> None:
    handler.server.etag = '"v2"'
    handler.reply(503, b"later")


def sends_without_length(handler: Handler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body)


REPLIES: dict[str, Callable[[Handler, bytes], None]] = {
    "breaks off": lambda handler, body: handler.reply(200, body[:9000], {"ETag": '"v1"'}, length=len(body)),
    "ignores range": lambda handler, body: handler.reply(200, body),
    "is busy": lambda handler, body: handler.reply(503, b"later"),
    "another version": has_another_version,
    "web page": lambda handler, body: handler.reply(200, body, {"Content-Type": "text/html; charset=utf-8"}),
    "HTTP 206": lambda handler, body: handler.reply(206, body[8000:], {"Content-Range": f"bytes 8000-9/{len(body)}"}),
    "too long": lambda handler, body: sends_without_length(handler, body + bytes(100_000)),
    "too short": lambda handler, body: sends_without_length(handler, body[:-10]),
}


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.script, server.requests, server.etag = {}, [], [], '"v1"'
    server.handle_error = lambda *args: None  # clients that hang up are part of the tests
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def tree() -> dict[str, bytes]:
    """The files of an archive in the layout of MVTec AD, with two categories."""
    names = ["train/good/000.png", "test/good/000.png", "test/hole/000.png", "ground_truth/hole/000_mask.png"]
    files = {f"{category}/{name}": NOISE for category in ("bottle", "cable") for name in names}
    return {"license.txt": b"CC BY-NC-SA", **files}


def pack(files: dict[str, bytes], mode: str = "w:xz", extra: list[tarfile.TarInfo] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o444  # MVTec's files are read-only
            tar.addfile(member, io.BytesIO(data))
        for member in extra or []:
            tar.addfile(member)
    return buffer.getvalue()


@functools.cache
def official(mode: str = "w:xz") -> bytes:
    return pack(tree(), mode)


class Bench:
    """A data root, the command, and a server with the archives that the command is made to know."""

    def __init__(self, server: Any, root: Path, log: pytest.LogCaptureFixture) -> None:
        self.server, self.root, self.log = server, root, log
        self.folder = root / "mvtec_ad"
        self.part = self.folder / "archive.tar.xz.part"
        self.waits: list[float] = []
        self.known: dict[str, Any] = {}
        self.address = f"http://127.0.0.1:{server.server_port}"

    def publish(self, data: bytes, dataset: str = "mvtec_ad", **changes: Any) -> Archive:
        """Puts an archive on the server in the place of the official one."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.server.files["/archive.tar.xz"] = data
        values = {"size": len(data), "exact": True, "checksum": digest, "expansion": 2.0, **changes}
        self.known[dataset] = Archive(f"{self.address}/archive.tar.xz", **values), {}
        return self.known[dataset][0]

    def script(self, *replies: str) -> None:
        """Says what the server answers to the next requests."""
        self.server.script = [REPLIES[reply] for reply in replies]

    def run(self, *arguments: str, datasets: tuple[str, ...] = ("mvtec_ad",), accept: bool = True) -> int:
        options = ["--data-root", str(self.root), *["--accept-license"] * accept]
        return download.main([*datasets, *options, *arguments])

    def assert_whole(self) -> None:
        for name in ("bottle", "cable"):
            category = load_category("mvtec_ad", name, self.root)
            assert [len(category.train), len(category.test)] == [1, 2]
            assert category.train[0].image.read_bytes() == NOISE
        assert {path.name for path in self.folder.iterdir()} == {"bottle", "cable"}


@pytest.fixture
def bench(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)
    bench = Bench(server, tmp_path / "data", caplog)
    monkeypatch.setattr(archives, "ATTEMPTS", 4)
    monkeypatch.setattr(archives, "TIMEOUT", 5.0)
    monkeypatch.setattr(archives, "time", SimpleNamespace(sleep=bench.waits.append))
    monkeypatch.setattr(download, "load_archives", lambda dataset: bench.known.get(dataset, (None, {})))
    for dataset, categories in {"mvtec_ad": ("bottle", "cable"), "visa": ("candle",)}.items():
        monkeypatch.setitem(DATASETS, dataset, replace(DATASETS[dataset], categories=categories))
    return bench


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_downloads_checks_and_unpacks_once(bench: Bench, mode: str) -> None:
    bench.publish(official(mode))
    assert bench.run() == 0
    bench.assert_whole()
    assert "CC BY-NC-SA 4.0 (no commercial use)" in bench.log.text and "CVPR 2019" in bench.log.text
    assert bench.run(accept=False) == 0  # nothing is missing
    assert len(bench.server.requests) == 1


def test_visa_comes_with_its_split(bench: Bench) -> None:
    data = pack({"VisA/split_csv/1cls.csv": b"object", "VisA/candle/0.JPG": NOISE, "VisA/cashew/0.JPG": NOISE}, "w")
    bench.publish(data, "visa", extra="split_csv")
    assert bench.run("--categories", "candle", datasets=("visa",)) == 0
    assert {path.name for path in (bench.root / "visa").iterdir()} == {"split_csv", "candle"}


def test_only_the_wanted_categories(bench: Bench) -> None:
    bench.publish(official())
    assert bench.run("--categories", "cable", "--keep-archive") == 0
    assert list_categories("mvtec_ad", bench.root) == ["cable"]
    assert bench.run("--categories", "bottle") == 0  # from the archive that was kept
    assert list_categories("mvtec_ad", bench.root) == ["bottle", "cable"] and len(bench.server.requests) == 1
    assert bench.run("--categories", "screw") == 1
    assert "choose from bottle, cable" in bench.log.text


def test_single_categories_come_in_archives_of_their_own(bench: Bench) -> None:
    whole = bench.publish(official())
    single = {name: Archive(f"{bench.address}/{name}.tar.xz", 50_000, expansion=2.0) for name in ("bottle", "cable")}
    bench.known["mvtec_ad"] = whole, single
    bench.server.files["/cable.tar.xz"] = pack({k: v for k, v in tree().items() if k.startswith("cable/")})
    bench.script("breaks off")
    assert bench.run("--categories", "cable") == 0
    assert list_categories("mvtec_ad", bench.root) == ["cable"]
    assert bench.server.requests[1]["If-Range"] == '"v1"'
    assert "only its size and format are checked" in bench.log.text


def test_continues_where_it_broke_off(bench: Bench) -> None:
    bench.publish(official())
    bench.script("breaks off", "is busy", "is busy", "is busy")
    assert bench.run() == 1
    assert "failed 4 times in a row (HTTP 503)" in bench.log.text and bench.waits == [1.0, 2.0, 4.0]
    assert bench.part.stat().st_size == 9000
    assert bench.run() == 0  # in another call
    assert "Range" not in bench.server.requests[0]
    for request in bench.server.requests[1:]:
        assert (request["Range"], request["If-Range"]) == ("bytes=9000-", '"v1"')
    bench.assert_whole()


def test_another_mirror_continues_it_and_the_checksum_tells(bench: Bench) -> None:
    data = official()
    bench.publish(data)
    bench.folder.mkdir(parents=True)
    bench.part.write_bytes(data[:5000])
    bench.server.files["/mirror"] = data
    assert bench.run("--url", f"{bench.address}/mirror") == 0
    assert bench.server.requests[0]["Range"] == "bytes=5000-" and "If-Range" not in bench.server.requests[0]
    bench.assert_whole()
    shutil.rmtree(bench.folder / "cable")
    bench.part.write_bytes(b"\0" * 5000)
    assert bench.run() == 1
    assert "should have" in bench.log.text and not bench.part.exists()


@pytest.mark.parametrize("exact", [True, False])
def test_a_part_that_is_longer_than_the_file_is_dropped_and_a_whole_one_used(bench: Bench, exact: bool) -> None:
    archive = bench.publish(official(), exact=exact)
    bench.folder.mkdir(parents=True)
    bench.part.write_bytes(bytes(archive.size + 7))
    assert bench.run("--keep-archive") == 0
    (bench.folder / archive.name).rename(bench.part)
    shutil.rmtree(bench.folder / "cable")
    bench.server.requests.clear()
    assert bench.run() == 0
    bench.assert_whole()
    assert len(bench.server.requests) == (0 if exact else 2)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        (["breaks off", "ignores range"], ""),
        (["breaks off", "another version"], ""),
        (["breaks off", "web page"], "web page"),
        (["breaks off", "HTTP 206"], "HTTP 206"),
        (["too short"], ""),
        (["too long"], "sends more than"),
    ],
)
def test_bad_days_of_servers_cost_nothing(bench: Bench, replies: list[str], message: str) -> None:
    bench.publish(official())
    bench.script(*replies)
    if message:
        assert bench.run() == 1
        assert message in bench.log.text and "--url" in bench.log.text
        assert DATASETS["mvtec_ad"].download_page in bench.log.text
        assert bench.part.stat().st_size >= 9000
    assert bench.run() == 0
    bench.assert_whole()


def test_dead_links(bench: Bench) -> None:
    bench.publish(official())
    urls = {f"{bench.address}/nothing": "answers with HTTP 404", "ftp://example.org/x": "cannot be followed"}
    for url, message in {**urls, "http://example.org:port/x": "cannot be followed"}.items():
        bench.log.clear()
        assert bench.run("--url", url) == 1
        assert message in bench.log.text and "--url" in bench.log.text
    assert not bench.waits


def test_wrong_files_are_refused(bench: Bench) -> None:
    data = official()
    archive = bench.publish(data)
    bench.server.files["/archive.tar.xz"] = data + b"more"  # told by its length, before it is loaded
    assert bench.run() == 1
    assert f"{archive.size + 4} bytes, and the archive has {archive.size}" in bench.log.text and not bench.part.exists()
    wrong = bench.server.files["/archive.tar.xz"] = bytes(len(data))
    assert bench.run() == 1
    assert hashlib.sha256(wrong).hexdigest() in bench.log.text
    assert archive.checksum.partition(":")[2] in bench.log.text
    assert list_categories("mvtec_ad", bench.root) == []
    bench.server.files["/archive.tar.xz"] = data
    assert bench.run() == 0


def test_an_archive_on_disk_is_checked_used_and_kept(bench: Bench) -> None:
    data = official()
    path = bench.folder / bench.publish(data).name
    bench.folder.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert bench.run() == 1
    assert (bench.folder / f"{path.name}.wrong").read_bytes() == b"mine"
    path.write_bytes(data)
    assert bench.run() == 0
    assert path.read_bytes() == data and not bench.server.requests


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def broken_header() -> bytes:
    # tarfile ends here without a word, when the folders that are looked for are there already.
    return b"xstar".join(official("w").rsplit(b"ustar", 1))


DAMAGES: dict[str, Callable[[], bytes]] = {
    "path outside": lambda: pack(tree(), extra=[member("bottle/../../../outside.txt")]),
    "symbolic link outside": lambda: pack(tree(), extra=[member("x", tarfile.SYMTYPE, "../../..")]),
    "symbolic link": lambda: pack(tree(), extra=[member("bottle/link", tarfile.SYMTYPE, "train")]),
    "hard link": lambda: pack(tree(), extra=[member("bottle/x", tarfile.LNKTYPE, "license.txt")]),
    "pipe": lambda: pack(tree(), extra=[member("bottle/pipe", tarfile.FIFOTYPE)]),
    "device": lambda: pack(tree(), extra=[member("bottle/device", tarfile.CHRTYPE)]),
    "bomb": lambda: pack({"bottle/zeros": bytes(1_000_000), "cable/x": b""}),
    "xz cut off": lambda: official()[:-3000],
    "xz cut off in its footer": lambda: official()[:-8],
    "gz cut off": lambda: official("w:gz")[:-8],
    "tar cut off in a file": lambda: official("w")[:90_000],
    "tar with a broken header": broken_header,
    "goes on for ever": lambda: official("w") + bytes(2**21),
    "no tar": lambda: NOISE,
    "lacks a category": lambda: pack({name: data for name, data in tree().items() if "cable" not in name}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_hostile_archives_leave_nothing_behind(bench: Bench, tmp_path: Path, damage: str) -> None:
    bench.publish(DAMAGES[damage](), checksum="")
    assert bench.run() == 1
    assert "archive.tar.xz cannot be used" in bench.log.records[-1].message
    assert list_categories("mvtec_ad", bench.root) == []
    assert not list(tmp_path.rglob("outside*")) and not list(bench.folder.glob(".*"))


def test_an_archive_of_too_many_files_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "archive.tar.xz").write_bytes(official())
    with pytest.raises(DownloadError, match="it has 5 files"):
        unpack(tmp_path / "archive.tar.xz", tmp_path, ["bottle"], max_bytes=1e9, max_files=5)
    assert not (tmp_path / "bottle").exists()


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_unpacking_is_never_taken_for_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, signal: BaseException
) -> None:
    bench.publish(official())
    real = os.replace

    def fail(source: Path, target: Path) -> None:
        if (source / "train").is_dir():
            raise signal
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert bench.run() == (130 if isinstance(signal, KeyboardInterrupt) else 1)
    stale = bench.folder / ".archive.tar.xz.unpacking" / "bottle" / "stale.png"
    stale.parent.mkdir(parents=True)  # a process that is killed tidies nothing
    stale.touch()
    assert list_categories("mvtec_ad", bench.root) == []
    assert bench.run() == 0 and len(bench.server.requests) == 1
    (bench.folder / "archive.tar.xz").unlink()
    bench.assert_whole()
    assert not list(bench.folder.rglob("stale.png"))


def test_the_licence_has_to_be_accepted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(official())
    terminal = io.StringIO("no\nyes\n")
    monkeypatch.setattr("sys.stdin", terminal)
    assert bench.run(accept=False) == 2
    assert "--accept-license" in bench.log.text
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    assert bench.run(accept=False) == 2 and not bench.server.requests
    assert bench.run(accept=False) == 0
    bench.assert_whole()


def test_a_full_disk_is_said_before_anything_is_loaded(bench: Bench) -> None:
    bench.publish(official(), size=10**18)
    assert bench.run() == 1
    assert "needs 3000000000.0 GB" in bench.log.text and not bench.server.requests


def test_two_downloads_of_a_dataset_do_not_meet(bench: Bench) -> None:
    bench.publish(official())
    bench.root.mkdir()
    with FileLock(bench.root / ".mvtec_ad.lock"):
        assert bench.run() == 1
    assert "Another download of mvtec_ad" in bench.log.text and not bench.server.requests


def test_one_dataset_that_fails_does_not_stop_the_others(bench: Bench) -> None:
    bench.publish(official())
    assert bench.run(datasets=("magnetic_tile", "visa", "nothing/at/all", "mvtec_ad")) == 1
    assert DATASETS["magnetic_tile"].download_page in bench.log.text
    assert "There is no dataset 'nothing/at/all'" in bench.log.text
    bench.assert_whole()


def test_list_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert "mvtec_ad: licence CC BY-NC-SA 4.0 (no commercial use); 5.3 GB" in text
    assert "python -m benchmark.download visa" in text and len(text.splitlines()) == 2 * len(DATASETS)


def test_the_table_of_archives_is_sound() -> None:
    for dataset in ("mvtec_ad", "mvtec_3d_ad", "mvtec_loco_ad", "visa"):
        whole, single = load_archives(dataset)
        assert whole is not None
        algorithm, _, digest = whole.checksum.partition(":")
        assert len(digest) == 2 * hashlib.new(algorithm).digest_size and whole.exact == (algorithm == "sha256")
        assert set(single) in (set(), set(DATASETS[dataset].categories))
        links = [whole.url, *(archive.url for archive in single.values())]
        assert Counter(links).most_common(1)[0][1] == 1
        assert all(re.fullmatch(r"https://[\w./-]+\.tar(\.xz)?", link) for link in links)
        assert all(archive.name == f"{name}.tar.xz" for name, archive in single.items())
