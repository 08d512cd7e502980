"""`python -m benchmark.run` from data to tables, with real workers, on a small tree in MVTec AD's layout."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ast_hf import from_pretrained
from benchmark import launch, run
from benchmark.datasets import Sample
from benchmark.evaluate import paper_mask
from benchmark.heatmaps import choose
from tests import tiny
from tests.benchmark import tiny_run
from tests.benchmark.fake_jobs import FakeLauncher


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return tiny_run.command(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    """A launcher that starts nothing, in the place of the real ones."""
    launcher = FakeLauncher({})
    monkeypatch.setattr(run, "make_launcher", lambda *args, **kwargs: launcher)
    monkeypatch.setattr(run, "write_report", lambda *args: "the tables")
    monkeypatch.setattr(run, "store_detectors", lambda output: None)
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.0)
    return launcher


def test_trains_evaluates_and_reports(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bottle = tmp_path / "data" / "mvtec_ad" / "bottle"
    tiny_run.write_category(bottle.with_name("cable"))
    (bottle.with_name("cable") / "ground_truth" / "hole" / "000_mask.png").unlink()
    tiny.folder_of_pictures(bottle / "train" / "good", 10, start=20)
    calibrate = ["--set", *tiny_run.SETTINGS, "calibration_fraction=0.1"]
    assert run.main([*command, *calibrate, "--seeds", "0", "1", "--jobs-per-device", "2"]) == 1
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("jobs/*/result.json")]
    assert {(result["job"]["category"], result["job"]["seed"]) for result in results} == {("bottle", 0), ("bottle", 1)}
    for result in results:
        figures = dict(result["figures"])
        assert figures.pop("calibration_parts") == 6
        assert all(0 <= value <= 1 for value in figures.values())
        assert {"image_auroc", "pixel_auroc_paper", "au_pro_0.3", "false_positive_rate"} <= figures.keys()
        folder = tmp_path / "out" / "jobs" / result["id"]
        assert np.load(folder / "anomaly_maps.npy").shape == (8, 4, 4)
        assert len(list(csv.DictReader((folder / "scores.csv").open()))) == 8
        assert Image.open(folder / "heat_maps.png").width > 600
        assert (folder / "model" / "model.safetensors").exists()
    for name in ("tables.md", "tables.tex", "results.csv", "receipt.json", "report.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "tables.md").read_text().strip()
    detector = from_pretrained("ast-mvtec-bottle", device="cpu")
    assert detector.metrics is not None
    assert detector.metrics["seeds"] == [0, 1]
    assert detector.metrics["published"]["image_auroc"] == "100.0 (paper)"
    assert detector.predict(tiny.picture(0)).score >= 0
    assert "cable-rgb-seed0" in caplog.text
    assert "has no mask" in caplog.text or "000_mask.png" in caplog.text


def test_a_finished_job_is_not_run_again(command: list[str], fake: FakeLauncher) -> None:
    assert run.main(command) == 0
    assert fake.started == [0]
    assert run.main([*command, "--seeds", "0", "1"]) == 0
    assert fake.started == [0, 1]
    assert run.main([*command, "--force"]) == 0
    assert fake.started == [0, 1, 0]


def test_failures_are_listed_and_make_the_exit_status(
    command: list[str], fake: FakeLauncher, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.statuses = {1: [1]}
    assert run.main([*command, "--seeds", "0", "1"]) == 1
    assert "seed1" in caplog.text
    assert "failed (exit status 1)" in caplog.text
    assert capsys.readouterr().out == "the tables\n"


def test_all_failing_writes_no_tables(
    command: list[str], fake: FakeLauncher, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.statuses = {0: [1]}
    assert run.main(command) == 1
    assert capsys.readouterr().out == ""


def test_ctrl_c_keeps_and_reports_what_is_finished(
    command: list[str], fake: FakeLauncher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = run.run_jobs

    def stop_after_one(board: launch.Board, *args: object, show: object, **kwargs: object) -> None:
        def show_until(board: launch.Board) -> None:
            if board.done:
                run._interrupt()

        real(board, *args, show=show_until, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "run_jobs", stop_after_one)
    fake.slots = 1
    assert run.main([*command, "--seeds", "0", "1", "2"]) == run.INTERRUPTED
    assert fake.handles[-1].stopped
    assert capsys.readouterr().out == "the tables\n"


def test_a_report_that_cannot_be_written_is_a_sentence(
    command: list[str], fake: FakeLauncher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_report", full)
    assert run.main(command) == 1
    assert "No space left on device" in caplog.text


def test_nothing_to_run_is_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run.main(["--datasets", "mvtec_ad", "--data-root", str(tmp_path), "--preset", "compact"]) == 2
    assert "holds nothing of: mvtec_ad" in caplog.text


def test_paper_mask_enlarges() -> None:
    mask = np.zeros((384, 384), bool)
    mask[100, 100] = True
    assert paper_mask(mask).shape == (192, 192)
    assert paper_mask(mask).sum() == 1
    assert paper_mask(np.ones((100, 50), bool)).all()
    one = np.zeros((96, 96), bool)
    one[48, 48] = True
    assert paper_mask(one).sum() == 16  # bilinear upsampling spreads one pixel over 4 x 4


def test_choose_takes_each_kind_in_turn() -> None:
    kinds = ["good"] * 5 + ["a"] * 6 + ["b"] * 2
    samples = [Sample(Path(str(i)), int(kind != "good"), kind) for i, kind in enumerate(kinds)]
    assert choose(samples, defects=4, good=2) == [5, 11, 10, 12, 0, 4]
