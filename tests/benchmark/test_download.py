"""`python -m benchmark.download` against a server of its own that does what servers do on bad days."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import re
import shutil
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark import archives, download
from benchmark.archives import Archive, DownloadError, Patience, load_archives, unpack
from benchmark.datasets import DATASETS, list_categories, load_category

Reply = Callable[["Handler", bytes], None]
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
            if start >= len(body):
                self.reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.reply(206, body[start:], {"ETag": etag, "Content-Range": span})
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


def breaks_off(handler: Handler, body: bytes) -> None:
    handler.reply(200, body[:9000], {"ETag": handler.server.etag}, length=len(body))


def ignores_range(handler: Handler, body: bytes) -> None:
    handler.reply(200, body)


def busy(handler: Handler, body: bytes) -> None:
    handler.reply(503, b"later")


def web_page(handler: Handler, body: bytes) -> None:
    handler.reply(200, b"<!DOCTYPE html>" + bytes(len(body) - 15), {"Content-Type": "application/octet-stream"})


def web_page_by_type(handler: Handler, body: bytes) -> None:
    handler.reply(200, body, {"Content-Type": "text/html; charset=utf-8"})


def without_length(handler: Handler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body)


def trickle(handler: Handler, body: bytes) -> None:
    handler.reply(200, b"", {"ETag": handler.server.etag}, length=len(body))
    for index in range(len(body)):
        handler.wfile.write(body[index : index + 1])
        time.sleep(0.01)


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


def tree(dataset: str) -> dict[str, bytes]:
    """The files of an archive in the layout of the official one: two categories of MVTec AD, one of VisA."""
    if dataset == "visa":
        rows = ["object,split,label,image,mask"]
        normal = [f"candle/Data/Images/Normal/{index}.JPG" for index in range(4)]
        rows += [f"candle,{'test' if name[-5] == '3' else 'train'},normal,{name}," for name in normal]
        image, mask = "candle/Data/Images/Anomaly/0.JPG", "candle/Data/Masks/Anomaly/0.png"
        rows.append(f"candle,test,anomaly,{image},{mask}")
        return {"split_csv/1cls.csv": "\n".join(rows).encode()} | dict.fromkeys([*normal, image, mask], b"picture")
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
    """The archive of MVTec AD, cut down to two categories."""
    return pack(tree("mvtec_ad"), mode)


@pytest.fixture
def bench(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """`publish(data)` puts an archive on the server in the place of the official one; `run(...)` is the command."""
    caplog.set_level(logging.INFO)
    waits: list[float] = []
    bench = SimpleNamespace(server=server, root=tmp_path / "data", log=caplog, waits=waits, known={})
    bench.folder = bench.root / "mvtec_ad"
    bench.patience = Patience(attempts=4, timeout=5, stall_seconds=0.2, stall_rate=1000, sleep=waits.append)
    address = f"http://127.0.0.1:{server.server_port}"

    def publish(data: bytes, dataset: str = "mvtec_ad", name: str = "archive.tar.xz", **changes: Any) -> Archive:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        values = {"size": len(data), "exact": True, "checksum": digest, "expansion": 2.0, **changes}
        server.files[f"/{name}"] = data
        bench.known[dataset] = Archive(f"{address}/{name}", **values), {}
        return bench.known[dataset][0]

    def run(*arguments: str, datasets: tuple[str, ...] = ("mvtec_ad",), accept: bool = True) -> int:
        options = ["--data-root", str(bench.root), *["--accept-license"] * accept]
        return download.main([*datasets, *options, *arguments], bench.patience)

    bench.publish, bench.run, bench.address = publish, run, address
    monkeypatch.setattr(download, "load_archives", lambda dataset: bench.known.get(dataset, (None, {})))
    # The archives of these tests have two categories.
    facts = DATASETS["mvtec_ad"]
    monkeypatch.setitem(DATASETS, "mvtec_ad", type(facts)(**{**vars(facts), "categories": ("bottle", "cable")}))
    monkeypatch.setitem(DATASETS, "visa", type(facts)(**{**vars(DATASETS["visa"]), "categories": ("candle",)}))
    return bench


def assert_whole(bench: Any) -> None:
    for name in ("bottle", "cable"):
        category = load_category("mvtec_ad", name, bench.root)
        assert [len(category.train), len(category.test)] == [1, 2]
        assert category.train[0].image.read_bytes() == NOISE
    assert {path.name for path in bench.folder.iterdir()} <= {"bottle", "cable", ".mvtec_ad.lock"}


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_downloads_checks_and_unpacks(bench: Any, mode: str) -> None:
    bench.publish(official(mode))
    assert bench.run() == 0
    assert_whole(bench)
    assert len(bench.server.requests) == 1
    assert "CC BY-NC-SA 4.0 (no commercial use)" in bench.log.text
    assert "CVPR 2019" in bench.log.text


def test_visa_comes_with_its_split(bench: Any) -> None:
    bench.publish(pack(tree("visa"), "w"), "visa", extra="split_csv")
    assert bench.run("--categories", "candle", datasets=("visa",)) == 0
    assert len(load_category("visa", "candle", bench.root).train) == 3


def test_nothing_is_asked_for_where_all_is_there(bench: Any) -> None:
    bench.publish(official())
    assert bench.run() == 0
    bench.server.requests.clear()
    assert bench.run(accept=False) == 0
    assert not bench.server.requests


def test_what_is_there_is_not_touched(bench: Any) -> None:
    bench.publish(official())
    (bench.folder / "bottle").mkdir(parents=True)
    (bench.folder / "bottle" / "mine.txt").write_text("mine")
    assert bench.run() == 0
    assert [path.name for path in (bench.folder / "bottle").iterdir()] == ["mine.txt"]
    assert load_category("mvtec_ad", "cable", bench.root).train


def test_the_data_root_may_be_the_dataset(bench: Any) -> None:
    bench.publish(official())
    (bench.root / "cable").mkdir(parents=True)
    assert bench.run() == 0
    assert list_categories("mvtec_ad", bench.root) == ["bottle", "cable"]
    assert (bench.root / "bottle" / "train").is_dir()


def test_only_the_wanted_categories(bench: Any) -> None:
    bench.publish(official())
    assert bench.run("--categories", "cable", "--keep-archive") == 0
    assert list_categories("mvtec_ad", bench.root) == ["cable"]
    assert bench.run("--categories", "bottle") == 0  # from the archive that was kept
    assert list_categories("mvtec_ad", bench.root) == ["bottle", "cable"]
    assert len(bench.server.requests) == 1
    assert bench.run("--categories", "screw") == 1
    assert "choose from bottle, cable" in bench.log.text


def test_single_categories_come_in_archives_of_their_own(bench: Any) -> None:
    whole = bench.publish(official())
    data = pack({name: data for name, data in tree("mvtec_ad").items() if name.startswith("cable/")})
    single = {name: Archive(f"{bench.address}/{name}.tar.xz", 50_000, expansion=2.0) for name in ("bottle", "cable")}
    bench.known["mvtec_ad"] = whole, single
    bench.server.files["/cable.tar.xz"] = data
    bench.server.script = [breaks_off]
    assert bench.run("--categories", "cable") == 0
    assert list_categories("mvtec_ad", bench.root) == ["cable"]
    assert bench.server.requests[1]["If-Range"] == '"v1"'
    assert "only its size and format are checked" in bench.log.text


def test_a_single_category_without_checksum_is_still_checked_for_damage(bench: Any) -> None:
    data = official()
    bench.publish(data[:-30], checksum="")
    assert bench.run() == 1
    assert "is damaged" in bench.log.text
    assert list_categories("mvtec_ad", bench.root) == []


def test_continues_where_it_broke_off(bench: Any) -> None:
    bench.publish(official())
    bench.server.script = [breaks_off]
    assert bench.run() == 0
    assert_whole(bench)
    assert "Range" not in bench.server.requests[0]
    assert bench.server.requests[1]["Range"] == "bytes=9000-"
    assert bench.server.requests[1]["If-Range"] == '"v1"'
    assert bench.waits == [1.0]


def test_continues_in_another_call(bench: Any) -> None:
    archive = bench.publish(official())
    bench.server.script = [breaks_off, *[busy] * 4]
    assert bench.run() == 1
    assert "HTTP 503" in bench.log.text
    assert (bench.folder / f"{archive.name}.part").stat().st_size == 9000
    assert bench.run() == 0
    assert bench.server.requests[-1]["Range"] == "bytes=9000-"
    assert_whole(bench)


def test_another_mirror_continues_it_and_the_checksum_tells(bench: Any) -> None:
    data = official()
    archive = bench.publish(data)
    bench.folder.mkdir(parents=True)
    part = bench.folder / f"{archive.name}.part"
    part.write_bytes(data[:5000])
    bench.server.files["/mirror"] = data
    assert bench.run("--url", f"{bench.address}/mirror") == 0
    assert bench.server.requests[0]["Range"] == "bytes=5000-"
    assert_whole(bench)
    shutil.rmtree(bench.folder / "cable")
    part.write_bytes(b"\0" * 5000)
    assert bench.run() == 1
    assert "should have" in bench.log.text
    assert not part.exists()


@pytest.mark.parametrize("kind", ["ignores ranges", "has another version now"])
def test_starts_anew_where_it_cannot_continue(bench: Any, kind: str) -> None:
    bench.publish(official())
    bench.server.script = [breaks_off, ignores_range]
    if kind == "has another version now":
        bench.server.script = [
            breaks_off,
            lambda handler, body: (setattr(bench.server, "etag", '"v2"'), busy(handler, body)),
        ]
    assert bench.run() == 0
    assert_whole(bench)


def test_a_part_that_is_longer_than_the_file_is_dropped(bench: Any) -> None:
    archive = bench.publish(official())
    bench.folder.mkdir(parents=True)
    (bench.folder / f"{archive.name}.part").write_bytes(bytes(archive.size + 7))
    assert bench.run() == 0
    assert_whole(bench)


def test_a_part_that_is_whole_is_used(bench: Any) -> None:
    data = official()
    bench.folder.mkdir(parents=True)
    (bench.folder / "archive.tar.xz.part").write_bytes(data)
    bench.publish(data, exact=False)
    assert bench.run("--keep-archive") == 0  # the server says so (416)
    assert load_category("mvtec_ad", "cable", bench.root).train
    assert (bench.folder / "archive.tar.xz").read_bytes() == data


def test_server_errors_pass(bench: Any) -> None:
    bench.publish(official())
    bench.server.script = [busy, busy]
    assert bench.run() == 0
    assert bench.waits == [1.0, 2.0]
    assert_whole(bench)


def test_gives_up_after_some_failures(bench: Any) -> None:
    bench.publish(official())
    bench.server.script = [busy] * 9
    assert bench.run() == 1
    assert len(bench.server.requests) == 4
    assert bench.waits == [1.0, 2.0, 4.0]
    assert "failed 4 times in a row (HTTP 503)" in bench.log.text


def test_a_transfer_without_length_is_held_to_the_known_one(bench: Any) -> None:
    data = official()
    bench.publish(data)
    bench.server.script = [without_length]
    assert bench.run("--keep-archive") == 0
    shutil.rmtree(bench.folder)
    bench.server.script = [lambda handler, body: without_length(handler, body + bytes(100_000))]
    assert bench.run() == 1
    assert "sends more than" in bench.log.text
    bench.server.script = [lambda handler, body: without_length(handler, body[:-10])]
    shutil.rmtree(bench.folder)
    assert bench.run() == 0


def test_a_trickle_is_given_up_and_kept(bench: Any) -> None:
    archive = bench.publish(official())
    bench.server.script = [trickle]
    assert bench.run() == 1
    assert "stalls" in bench.log.text
    kept = (bench.folder / f"{archive.name}.part").stat().st_size
    assert 0 < kept < 200
    assert bench.run() == 0
    assert bench.server.requests[1]["Range"] == f"bytes={kept}-"
    assert_whole(bench)


def test_a_range_that_was_not_asked_for_is_refused(bench: Any) -> None:
    archive = bench.publish(official())
    span = {"Content-Range": f"bytes 8000-{archive.size - 1}/{archive.size}"}
    bench.server.script = [breaks_off, lambda handler, body: handler.reply(206, body[8000:], span)]
    assert bench.run() == 1
    assert "answers with HTTP 206" in bench.log.text
    assert bench.run() == 0
    assert_whole(bench)


@pytest.mark.parametrize("reply", [web_page, web_page_by_type])
def test_a_web_page_is_no_archive_and_costs_nothing(bench: Any, reply: Reply) -> None:
    archive = bench.publish(official())
    bench.server.script = [breaks_off, reply]
    assert bench.run() == 1
    assert "is a web page" in bench.log.text
    assert "--url" in bench.log.text
    assert DATASETS["mvtec_ad"].download_page in bench.log.text
    assert (bench.folder / f"{archive.name}.part").stat().st_size == 9000


def test_dead_links(bench: Any) -> None:
    bench.publish(official())
    for url, message in {
        f"{bench.address}/nothing": "answers with HTTP 404",
        "ftp://example.org/x": "cannot be followed",
        "http://example.org:port/x": "cannot be followed",
    }.items():
        bench.log.clear()
        assert bench.run("--url", url) == 1
        assert message in bench.log.text
        assert "--url" in bench.log.text
    assert not bench.waits


def test_wrong_length_is_refused_before_it_is_loaded(bench: Any) -> None:
    archive = bench.publish(official())
    bench.server.files["/archive.tar.xz"] += b"more"
    assert bench.run() == 1
    assert f"{archive.size + 4} bytes, and the archive has {archive.size}" in bench.log.text
    assert not (bench.folder / f"{archive.name}.part").exists()


def test_wrong_bytes_are_refused_with_both_digests(bench: Any) -> None:
    data = official()
    archive = bench.publish(data)
    wrong = bench.server.files["/archive.tar.xz"] = bytes(len(data))
    assert bench.run() == 1
    assert hashlib.sha256(wrong).hexdigest() in bench.log.text
    assert archive.checksum.partition(":")[2] in bench.log.text
    assert list_categories("mvtec_ad", bench.root) == []
    bench.server.files["/archive.tar.xz"] = data
    assert bench.run() == 0


def test_an_archive_on_disk_is_checked_used_and_kept(bench: Any) -> None:
    data = official()
    archive = bench.publish(data)
    bench.folder.mkdir(parents=True)
    (bench.folder / archive.name).write_bytes(data)
    assert bench.run() == 0
    assert not bench.server.requests
    assert (bench.folder / archive.name).read_bytes() == data
    shutil.rmtree(bench.folder / "cable")
    (bench.folder / archive.name).write_bytes(b"mine")
    assert bench.run() == 0
    assert len(bench.server.requests) == 1
    assert (bench.folder / f"{archive.name}.wrong").read_bytes() == b"mine"


def test_md5_is_said_to_be_weak(bench: Any) -> None:
    data = official()
    bench.publish(data, checksum="md5:" + hashlib.md5(data).hexdigest())
    assert bench.run() == 0
    assert "only its MD5 is known" in bench.log.text
    shutil.rmtree(bench.folder)
    bench.publish(data, checksum="md5:" + "0" * 32)
    assert bench.run() == 1
    assert "should have 00000" in bench.log.text


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside.txt"),
        tarfile.TarInfo("bottle/../../../outside.txt"),
        tarfile.TarInfo("/tmp/outside.txt"),
        tarfile.TarInfo("//tmp/outside.txt"),
        link("bottle/link", tarfile.SYMTYPE, "../../.."),
        link("bottle/link", tarfile.SYMTYPE, "train"),
        link("bottle/hard", tarfile.LNKTYPE, "bottle/train/good/000.png"),
        link("bottle/pipe", tarfile.FIFOTYPE, ""),
        link("bottle/device", tarfile.CHRTYPE, ""),
    ],
    ids=lambda member: f"{member.name}-{member.type!r}",
)
def test_unsafe_archives_are_not_unpacked(bench: Any, tmp_path: Path, member: tarfile.TarInfo) -> None:
    bench.publish(pack(tree("mvtec_ad"), extra=[member]))
    assert bench.run() == 1
    assert "is not unpacked" in bench.log.text
    assert list_categories("mvtec_ad", bench.root) == []
    assert not list(tmp_path.rglob("outside*"))
    assert not list(bench.folder.glob(".*unpacking"))


def test_bombs_are_not_unpacked(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(pack({"bottle/zeros": bytes(1_000_000), "cable/x": b""}))
    assert bench.run() == 1
    assert "is not unpacked" in bench.log.text
    bench.log.clear()
    (bench.folder / "archive.tar.xz").unlink()
    bench.publish(official())
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 5)
    assert bench.run() == 1
    assert "is not unpacked" in bench.log.text
    assert list_categories("mvtec_ad", bench.root) == []


DAMAGES: dict[str, Callable[[], bytes]] = {
    "xz cut off": lambda: official()[:-3000],
    "xz cut off in its footer": lambda: official()[:-8],
    "gz cut off": lambda: official("w:gz")[:-8],
    "tar cut off in a file": lambda: official("w")[:90_000],
    # tarfile ends here without a word, when the folders that are looked for are there already.
    "tar with a broken header": lambda: b"xstar".join(official("w").rsplit(b"ustar", 1)),
    "goes on for ever": lambda: official("w") + bytes(2**21),
    "no tar": lambda: NOISE,
    "empty": lambda: b"\0" * 10,
    "lacks a category": lambda: pack({name: data for name, data in tree("mvtec_ad").items() if "cable" not in name}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives_leave_nothing_behind(bench: Any, damage: str) -> None:
    bench.publish(DAMAGES[damage]())
    assert bench.run() == 1
    assert "archive" in bench.log.records[-1].message
    assert list_categories("mvtec_ad", bench.root) == []
    assert not list(bench.folder.glob(".*unpacking"))


@pytest.mark.parametrize("signal", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_unpacking_is_never_taken_for_whole(
    bench: Any, monkeypatch: pytest.MonkeyPatch, signal: BaseException
) -> None:
    bench.publish(official())
    real, seen = tarfile.TarFile.extract, []

    def extract(tar: tarfile.TarFile, member: tarfile.TarInfo, *args: Any, **kwargs: Any) -> None:
        seen.append(member.name)
        assert list_categories("mvtec_ad", bench.root) == []
        if len(seen) == 6:
            raise signal
        real(tar, member, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", extract)
        patch.setattr(
            archives.shutil, "rmtree", lambda *args, **kwargs: None
        )  # a process that is killed tidies nothing
        assert bench.run() == (130 if signal is KeyboardInterrupt else 1)
    assert list(bench.folder.glob(".*unpacking/bottle"))
    assert list_categories("mvtec_ad", bench.root) == []
    assert bench.run() == 0
    assert len(bench.server.requests) == 1
    (bench.folder / "archive.tar.xz").unlink()
    assert_whole(bench)


def test_ctrl_c_keeps_what_came(bench: Any) -> None:
    archive = bench.publish(official())

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    bench.patience = Patience(sleep=interrupt)
    bench.server.script = [breaks_off]
    assert bench.run() == 130
    assert (bench.folder / f"{archive.name}.part").stat().st_size == 9000


def test_a_full_disk_is_said_before_anything_is_loaded(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(official(), size=5_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=14_900_000_000))
    assert bench.run() == 1
    assert "needs 5.0 GB to download it and 10.0 GB to unpack it" in bench.log.text
    assert "14.9 GB" in bench.log.text
    assert not bench.server.requests


def test_the_licence_has_to_be_accepted(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(official())
    terminal = io.StringIO("no\n")
    monkeypatch.setattr("sys.stdin", terminal)
    assert bench.run(accept=False) == 2
    assert "--accept-license" in bench.log.text
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    assert bench.run(accept=False) == 2
    assert not bench.server.requests
    terminal.write("yes\n")
    terminal.seek(3)
    assert bench.run(accept=False) == 0
    assert_whole(bench)


def test_two_downloads_of_a_dataset_do_not_meet(bench: Any) -> None:
    bench.publish(official())
    bench.folder.mkdir(parents=True)
    with FileLock(bench.folder / ".mvtec_ad.lock"):
        assert bench.run() == 1
    assert "Another download of mvtec_ad" in bench.log.text
    assert not bench.server.requests


def test_one_dataset_that_fails_does_not_stop_the_others(bench: Any) -> None:
    bench.publish(official())
    assert bench.run(datasets=("magnetic_tile", "visa", "nothing", "mvtec_ad")) == 1
    assert DATASETS["magnetic_tile"].download_page in bench.log.text
    assert "There is no dataset 'nothing'" in bench.log.text
    assert_whole(bench)


def test_a_data_root_that_is_a_file_is_a_sentence(bench: Any) -> None:
    bench.publish(official())
    bench.root.write_text("")
    assert bench.run() == 1
    assert str(bench.root) in bench.log.records[-1].message


def test_list_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert "mvtec_ad: licence CC BY-NC-SA 4.0 (no commercial use); 5.3 GB" in text
    assert "python -m benchmark.download visa" in text
    assert all(len(download.how_to_get(dataset).splitlines()) == 2 for dataset in DATASETS)


def test_the_table_of_archives_is_sound() -> None:
    for dataset in ("mvtec_ad", "mvtec_3d_ad", "mvtec_loco_ad", "visa"):
        whole, single = load_archives(dataset)
        assert whole is not None
        algorithm, _, digest = whole.checksum.partition(":")
        assert len(digest) == 2 * hashlib.new(algorithm).digest_size
        assert whole.exact == (algorithm == "sha256")
        assert set(single) in (set(), set(DATASETS[dataset].categories))
        links = [whole.url, *(archive.url for archive in single.values())]
        assert Counter(links).most_common(1)[0][1] == 1
        assert all(re.fullmatch(r"https://[\w./-]+\.tar(\.xz)?", link) for link in links)
        assert all(archive.name == f"{name}.tar.xz" for name, archive in single.items())


PARTS = st.sampled_from(["..", ".", "", "bottle", "cable", "x", "~", "C:", "a\\b", "bottle\n"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(bool), min_size=1, max_size=4))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_leads_out_of_the_dataset(tmp_path: Path, names: list[str]) -> None:
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    root = tmp_path / "a" / "b" / "data"
    root.mkdir(parents=True)
    path = tmp_path / "archive.tar"
    path.write_bytes(pack(dict.fromkeys(names, b"x"), "w"))
    try:
        unpack(path, root, ["bottle"], max_bytes=1000)
    except (DownloadError, OSError):  # OSError: a name is both a file and a folder
        assert not any(root.iterdir())
    assert [path.name for path in root.iterdir()] in ([], ["bottle"])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "archive.tar"}
    assert sorted(path.name for path in (tmp_path / "a").rglob("*") if root not in path.parents) == ["b", "data"]
