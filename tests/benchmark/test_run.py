"""`python -m benchmark.run` from data to tables, on a small tree in MVTec AD's layout."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from ast_hf.backbone import FeatureExtractor
from benchmark import run
from benchmark.datasets import Sample
from benchmark.evaluate import paper_mask
from benchmark.heatmaps import choose
from benchmark.jobs import Job
from benchmark.report import write_report
from tests import tiny

SETTINGS = [
    "backbone=test_efficientnet", "backbone_layer=blocks.3", "feature_channels=48", "image_size=64",
    "position_channels=8", "teacher_channels=8", "student_channels=8", "student_blocks=1",
]  # fmt: skip


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A command line that trains a tiny detector on a tiny bottle."""
    bottle = tmp_path / "data" / "mvtec_ad" / "bottle"
    tiny.folder_of_pictures(bottle / "train" / "good", 10)
    tiny.folder_of_pictures(bottle / "test" / "good", 4, start=50)
    for folder in ("test", "ground_truth"):
        (bottle / folder / "hole").mkdir(parents=True)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:40] = 255
    for i in range(4):
        tiny.picture(i, defect=True).save(bottle / "test" / "hole" / f"{i:03}.png")
        Image.fromarray(mask).save(bottle / "ground_truth" / "hole" / f"{i:03}_mask.png")
    weights = tmp_path / "trunk.safetensors"
    trunk = FeatureExtractor("test_efficientnet", "blocks.3", weights=None).trunk
    save_file({k: v.contiguous() for k, v in trunk.state_dict().items()}, weights)
    options = ["--data-root", str(tmp_path / "data"), "--backbone-weights", str(weights), "--device", "cpu"]
    output = ["--output", str(tmp_path / "out"), "--preset", "compact", "--epochs", "2", "--set", *SETTINGS]
    return ["--datasets", "mvtec_ad", *options, *output]


def test_trains_evaluates_and_reports(command: list[str], tmp_path: Path) -> None:
    assert run.main([*command, "--seeds", "0", "1"]) == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("jobs/*/result.json")]
    assert {result["job"]["seed"] for result in results} == {0, 1}
    for result in results:
        assert all(0 <= value <= 1 for value in result["figures"].values())
        assert {"image_auroc", "pixel_auroc_paper", "au_pro_0.3"} <= result["figures"].keys()
        folder = tmp_path / "out" / "jobs" / result["id"]
        assert np.load(folder / "anomaly_maps.npy").shape == (8, 4, 4)
        assert len(list(csv.DictReader((folder / "scores.csv").open()))) == 8
        assert Image.open(folder / "heat_maps.png").width > 600
    table = (tmp_path / "out" / "tables.md").read_text()
    assert "| bottle | 2 |" in table
    assert "±" in table
    assert len(list(csv.DictReader((tmp_path / "out" / "results.csv").open()))) == 2


def test_a_finished_job_is_not_run_again(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.main(command) == 0
    started: list[Job] = []
    monkeypatch.setattr(run, "run_job", lambda job, *args, **kwargs: started.append(job))
    assert run.main(command) == 0
    assert not started
    run.main([*command, "--force"])
    assert len(started) == 1


def test_a_failing_job_is_written_down_and_the_others_go_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.run_job

    def fail_on_seed_0(job: Job, *args: object, **kwargs: object) -> None:
        if job.seed == 0:
            raise RuntimeError("out of luck")
        real(job, *args, **kwargs)

    monkeypatch.setattr(run, "run_job", fail_on_seed_0)
    assert run.main([*command, "--seeds", "0", "1"]) == 1
    assert len(list((tmp_path / "out").glob("jobs/*/result.json"))) == 1
    assert "out of luck" in next((tmp_path / "out").glob("jobs/*/error.txt")).read_text()


def test_calibrated_jobs_report_the_decision(command: list[str], tmp_path: Path) -> None:
    tiny.folder_of_pictures(tmp_path / "data" / "mvtec_ad" / "bottle" / "train" / "good", 10, start=20)
    assert run.main([*command, "--set", *SETTINGS, "calibration_fraction=0.1"]) == 0
    result = json.loads(next((tmp_path / "out").glob("jobs/*/result.json")).read_text())
    assert result["figures"]["calibration_parts"] == 8
    assert {"false_positive_rate", "recall"} <= result["figures"].keys()


def test_nothing_to_run_is_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run.main(["--datasets", "mvtec_ad", "--data-root", str(tmp_path), "--preset", "compact"]) == 2
    assert "holds none of: mvtec_ad" in caplog.text


def test_job_ids_are_stable_and_cover_the_settings() -> None:
    config, recipe = run.settings("compact", [], None)

    def job(seed: int = 0, **changes: object) -> Job:
        settings = {"preset": "compact", "config": config.to_dict(), "recipe": recipe.to_dict(), **changes}
        return Job("mvtec_ad", "bottle", seed, **{"data_root": "data", "backbone_weights": "w", **settings})

    assert Job.from_dict(json.loads(json.dumps(job().to_dict()))).id == job().id
    assert job(data_root="elsewhere").id == job().id
    assert len({job().id, job(1).id, job(recipe={**recipe.to_dict(), "epochs": 1}).id}) == 3


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


def test_report_tells_settings_apart(tmp_path: Path) -> None:
    def result(seed: int, epochs: int, auroc: float) -> dict:
        config, recipe = run.settings("compact", [], epochs)
        job = Job("mvtec_ad", "bottle", seed, "compact", config.to_dict(), recipe.to_dict(), "data", "w")
        return {"id": job.id, "job": job.to_dict(), "figures": {"image_auroc": auroc}, "seconds": {"total": 1.0}}

    text = write_report(tmp_path, [result(0, 2, 0.9), result(1, 2, 1.0), result(0, 3, 0.5)])
    assert "| bottle | 2 | 95.00 ± 7.07 |" in text
    assert "| bottle | 1 | 50.00 |" in text
    assert text.count("###") == 2
