"""`python -m benchmark.run` from data to tables, with real workers, on a small tree in MVTec AD's layout."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ast_hf import ImageReadError, from_pretrained
from ast_hf.data.folders import find_images
from benchmark import run
from benchmark.experiment import run_job
from benchmark.jobs import Job, forget, job_folder, read_result
from tests import tiny
from tests.benchmark import tiny_run
from tests.benchmark.fake_jobs import FakeLauncher


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return tiny_run.command(tmp_path)


def test_trains_evaluates_and_reports(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bottle = tmp_path / "data" / "mvtec_ad" / "bottle"
    tiny_run.write_category(bottle.with_name("cable"))
    (bottle.with_name("cable") / "ground_truth" / "hole" / "000_mask.png").write_text("no picture")
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
        assert result["seconds"].keys() == {"features", "training", "evaluation", "total"}
        folder = tmp_path / "out" / "jobs" / result["id"]
        assert np.load(folder / "anomaly_maps.npy").shape == (8, 4, 4)
        rows = list(csv.DictReader((folder / "scores.csv").open()))
        assert [float(row["score"]) > 0 for row in rows] == [True] * 8
        assert Image.open(folder / "heat_maps.png").width > 600
        with pytest.raises(ImageReadError, match="no pictures"):
            find_images(folder)  # heat maps are no parts
    for name in ("tables.md", "tables.tex", "results.csv", "receipt.json", "report.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "tables.md").read_text().strip()
    detector = from_pretrained("ast-mvtec-bottle", device="cpu")
    assert detector.metrics is not None
    assert detector.metrics["seeds"] == [0, 1]
    assert detector.metrics["published"]["image_auroc"] == "100.0 (paper)"
    assert detector.predict(tiny.picture(0)).score >= 0
    assert "cable-rgb-seed0" in caplog.text
    assert "000_mask.png" in caplog.text, "the damaged mask is named"
    cable = next((tmp_path / "out" / "jobs").glob("*cable*seed0*"))
    assert not (cable / "model").exists(), "and found before the training"


def planned(command: list[str]) -> tuple[Job, Path]:
    from benchmark.plan import plan

    options = run.parser().parse_args(command)
    (job,) = plan(options)
    return job, options.output


TRAINING = ["train set", "teacher", "student", "local teacher", "local student"]


def stages_of(job: Job, output: Path, stop_at: str = "") -> list[str]:
    """Runs a job here, or as far as a stage; gives the stages it came through."""
    stages: dict[str, None] = {}

    def progress(stage: str, done: int, total: int, loss: float | None = None) -> None:
        stages[stage] = None
        if stage == stop_at:
            raise MemoryError

    try:
        run_job(job, output, device="cpu", progress=progress)
    except MemoryError:
        assert stop_at
    return list(stages)


def test_a_trained_detector_is_only_evaluated(command: list[str], tmp_path: Path) -> None:
    job, output = planned(command)
    assert stages_of(job, output) == [*TRAINING, "test set", "evaluation"]
    undisturbed: dict[str, Any] = read_result(output, job) or {}
    forget(output, job)
    assert stages_of(job, output, stop_at="evaluation") == [*TRAINING, "test set", "evaluation"]
    weights = job_folder(output, job) / "model" / "model.safetensors"
    trained = weights.stat().st_mtime_ns
    assert read_result(output, job) is None
    assert stages_of(job, output) == ["test set", "evaluation"]
    result = read_result(output, job) or {}
    assert result["figures"] == undisturbed["figures"]
    assert result["seconds"].keys() == undisturbed["seconds"].keys()
    assert result["receipt"].keys() == undisturbed["receipt"].keys()
    assert weights.stat().st_mtime_ns == trained
    # Neither half a checkpoint nor one of another trunk is the job's.
    (job_folder(output, job) / "result.json").unlink()
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "teacher" in stages_of(job, output)
    (job_folder(output, job) / "result.json").unlink()
    tiny_run.write_trunk(tmp_path)
    assert "teacher" in stages_of(job, output)


def test_a_finished_job_is_not_run_again_unless_forced(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    launcher = FakeLauncher({1: [1]})
    assert run.main(command, launcher=launcher) == 0
    assert launcher.started == [0]
    assert run.main([*command, "--seeds", "0", "1"], launcher=launcher) == 1
    assert launcher.started == [0, 1]
    assert "| bottle | 1 | 100.00 |" in capsys.readouterr().out
    assert "seed1" in caplog.text
    assert "failed (exit status 1)" in caplog.text
    model = next((tmp_path / "out" / "jobs").glob("*seed0*")) / "model"
    model.mkdir()
    assert run.main([*command, "--force"], launcher=launcher) == 0
    assert launcher.started == [0, 1, 0]
    assert not model.exists()
    launcher.statuses = {2: [1]}
    capsys.readouterr()
    assert run.main([*command, "--seeds", "2"], launcher=launcher) == 1
    assert capsys.readouterr().out == "", "without a result there are no tables"


def test_ctrl_c_keeps_and_reports_what_is_finished(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(FakeLauncher):
        def start(self, *args: Any) -> Any:
            if self.started:
                raise KeyboardInterrupt
            return super().start(*args)

    assert run.main([*command, "--seeds", "0", "1", "2"], launcher=Interrupted(slots=1)) == run.INTERRUPTED
    assert "| bottle | 1 | 100.00 |" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_a_sentence(
    command: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out" / "tables.md").mkdir(parents=True)
    assert run.main(command, launcher=FakeLauncher()) == 1
    assert "The report could not be written" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs-per-device", "0"], "must be 1 or more"),
        (["--retries", "-1"], "0 or more"),
        (["--timeout", "-5"], "0 or more"),
        (["--launcher-options", "gpus"], "is no NAME=VALUE"),
        (["--launcher-options", "gpus=1"], "takes no --launcher-options"),
        (["--launcher", "ray", "--launcher-options", "colour=1"], "not colour=1"),
        (["--launcher", "slurm", "--launcher-options", "cluster=local", "mem_gb=[]"], "mem_gb"),
        (["--data-root", "nowhere"], "holds nothing of: mvtec_ad"),
        (["--output", __file__], "(it is a file): give another folder"),
    ],
)
def test_what_cannot_be_is_a_sentence_with_exit_status_2(
    command: list[str], options: list[str], message: str, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    try:
        assert run.main([*command, *options]) == 2
    except SystemExit as exit:
        assert exit.code == 2
    assert message in caplog.text + capsys.readouterr().err


def test_the_help_needs_no_torch() -> None:
    code = "import sys; from benchmark import run; run.parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "timm", "matplotlib", "sklearn", "scipy", "ray", "submitit", "rich"} & set(loaded)
