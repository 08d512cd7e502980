"""Watching a folder: every part gets one row, whatever happens to its files and to the program."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from filelock import FileLock

from ast_hf.cli import main
from ast_hf.inference import Calibration
from tests import tiny

pytest.importorskip("watchfiles")


class Watcher:
    """The program in a process of its own, on one core so that the line goes on being fed."""

    def __init__(self, model: str, folder: Path, output: Path, kind: str = "jsonl") -> None:
        self._results = output / f"results.{kind}"
        self._command = [sys.executable, "-m", "ast_hf", "predict", model, "--watch", str(folder), "--settle", "0.4"]
        self._command += ["--output", str(output), "--format", kind, "--device", "cpu"]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs inherit that they do not
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=environment, preexec_fn=hear)

    def rows(self) -> list[dict[str, str]]:
        text = self._results.read_text() if self._results.exists() else ""
        if self._results.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def wait_for(self, count: int, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while len(self.rows()) < count:
            assert self._process.poll() is None and time.monotonic() < end, f"{len(self.rows())} of {count} rows"
            time.sleep(0.05)

    def kill(self) -> None:
        """As the power does, in the middle of a row."""
        self._process.kill()
        self._process.wait()
        with self._results.open("ab") as file:
            file.write(self._results.read_bytes().splitlines(keepends=True)[-1][:40])

    def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)


def feed(paths: list[Path], *, slow: int = 0) -> None:
    """Writes parts in a burst; the first of them side by side in pieces, with pauses."""
    png = io.BytesIO()
    tiny.picture(0).save(png, "PNG")
    data = png.getvalue()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in paths[slow:]:
        path.write_bytes(data)
    for piece in range(4 if slow else 0):
        for path in paths[:slow]:
            with path.open("ab") as file:
                file.write(data[piece * len(data) // 4 : (piece + 1) * len(data) // 4])
        # Once longer than a file takes to settle, which it then does unreadable.
        time.sleep((0.1, 1.2, 0.1, 0)[piece])


def watch_here(command: list[str], until: Callable[[], bool]) -> int:
    """Runs the program in this process, with Ctrl-C as soon as something is so."""

    def interrupt() -> None:
        end = time.monotonic() + 120
        while not until() and time.monotonic() < end:
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread, before = threading.Thread(target=interrupt), signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        return main([*command, "--settle", "0.2", "--device", "cpu"])
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_each_part_gets_one_row_over_a_kill(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    paths = [folder / f"{number:03}.png" for number in range(30)]
    paths += [folder / "lot" / "2" / f"{number:03}.png" for number in range(30)]
    feed(paths[:20])
    watcher = Watcher(model, folder, folder / "out")
    watcher.wait_for(10)
    watcher.kill()
    watcher.start()
    (folder / "damaged.png").write_bytes(b"no picture")
    feed(paths[20:40])
    watcher.wait_for(40)
    feed(paths[40:], slow=10)
    watcher.wait_for(61)
    time.sleep(1)
    assert watcher.stop() == 130
    rows = watcher.rows()
    assert sorted(row["image"] for row in rows) == sorted(map(str, [*paths, folder / "damaged.png"]))
    assert [row["image"] for row in rows if "error" in row] == [str(folder / "damaged.png")]


@pytest.mark.slow
def test_a_thousand_parts_get_one_row_each_over_two_kills(model: str, tmp_path: Path) -> None:
    folder, chance = tmp_path / "parts", random.Random(0)
    paths = [folder / f"lot {number % 7}" / f"{number:04}.png" for number in range(1000)]
    folder.mkdir()
    watcher = Watcher(model, folder, tmp_path / "out", "csv")

    def bursts() -> None:
        for start in range(0, 1000, 50):
            feed(paths[start : start + 50], slow=5)
            time.sleep(chance.uniform(0, 1))

    line = threading.Thread(target=bursts)
    line.start()
    for count in (250, 600):
        watcher.wait_for(count, 600)
        watcher.kill()
        watcher.start()
    watcher.wait_for(1000, 600)
    line.join()
    time.sleep(2)
    assert watcher.stop() == 130
    assert sorted(row["image"] for row in watcher.rows()) == sorted(map(str, paths))
    assert not any(row["error"] for row in watcher.rows())


def test_a_part_is_complete_with_its_scan(tmp_path: Path) -> None:
    tiny.detector("rgb+depth").save_pretrained(tmp_path / "model")
    pictures = sorted(tiny.folder_of_pictures(tmp_path / "parts" / "rgb", 2).iterdir())
    scan, results = tmp_path / "parts" / "xyz" / "001.tiff", tmp_path / "out" / "results.jsonl"
    scan.parent.mkdir()
    command = ["predict", str(tmp_path / "model"), "--watch", str(tmp_path / "parts"), "--output", str(results.parent)]

    def is_done() -> bool:
        rows = len(results.read_text().splitlines()) if results.exists() else 0
        if not rows:  # until the other picture has been given up
            with scan.open("ab") as file:
                file.write(b"!")
        elif scan.stat().st_size < 10_000:
            tifffile.imwrite(scan, tiny.scan(0), photometric="rgb")
        return rows == 2

    assert watch_here(command, is_done) == 130
    failed, scored = map(json.loads, results.open())
    assert failed["image"] == str(pictures[0]) and "its scan is missing" in failed["error"]
    assert scored["image"] == str(pictures[1]) and "score" in scored


def test_drift_is_told_when_it_is_found_and_known_over_restarts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tiny.detector()
    detector.calibration = Calibration(tuple(np.linspace(0.02, 1, 40).tolist()), (1.0,))
    detector.save_pretrained(tmp_path / "model")
    folder = tiny.folder_of_pictures(tmp_path / "parts", 30)
    command = ["predict", str(tmp_path / "model"), "--watch", str(folder), "--output", str(folder)]
    alarm = f"Since {folder / '000.png'} the parts called good no longer look like"
    assert watch_here(command, lambda: alarm in caplog.text) == 130
    count = len((folder / "results.jsonl").read_text().splitlines())
    caplog.clear()
    assert watch_here(command, lambda: len((folder / "results.jsonl").read_text().splitlines()) == 30) == 130
    assert f"{count} parts have been scored before" in caplog.text and count >= 10
    assert caplog.text.count(alarm) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "or --watch FOLDER"),
        (". --watch . --output out", "and not both"),
        ("--watch .", "--watch needs --output"),
        ("--watch . --output out --format coco", "--format jsonl or csv"),
        ("--watch . --output out --settle -1", "--settle is -1.0"),
        ("--watch missing --output out", "No such file or directory: 'missing'"),
        ("--watch . --output out", "Another --watch writes to out"),
    ],
)
def test_what_cannot_be_watched_is_told(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    with FileLock("out/.lock"):
        assert main(["predict", "no model", *command.split()]) == 2
    assert message in caplog.text
