"""Which jobs a command line stands for, and what it says of data that are not there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ast_hf.errors import ASTError, ConfigError
from benchmark import plan as plan_module
from benchmark.jobs import VARIANTS, Job
from benchmark.plan import plan
from benchmark.run import parser
from tests import tiny

BOTTLE = ("--datasets", "mvtec_ad", "--categories", "bottle")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Empty categories of two datasets, which planning does not look into."""
    for folder in ("mvtec_ad/bottle", "mvtec_ad/cable", "mvtec_3d_ad/bagel"):
        (tmp_path / folder / "train" / "good").mkdir(parents=True)
    return tmp_path


def jobs(data: Path, *arguments: str) -> list[Job]:
    return plan(parser().parse_args([*arguments, "--data-root", str(data)]))


def test_all_takes_what_is_there_and_names_what_is_not(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    planned = jobs(data, "--all", "--seeds", "0", "1")
    assert len({job.id for job in planned}) == len(planned) == 2 * (2 + 3)
    assert {job.config["modality"] for job in planned if job.category == "bagel"} == {"rgb", "depth", "rgb+depth"}
    for dataset in ("visa", "mvtec_loco_ad", "magnetic_tile"):
        assert f"{dataset}: not there" in caplog.text
    assert "CC BY-NC-SA 4.0" in caplog.text
    assert f"python -m benchmark.download visa --data-root {data}" in caplog.text
    assert "mvtec_ad: lacks capsule" in caplog.text
    assert "folder: not there" not in caplog.text
    with pytest.raises(ASTError, match=r"--data-root, or --data synthetic"):
        jobs(data / "nowhere", "--all")


def test_presets_follow_the_dataset_and_modality(data: Path) -> None:
    by_modality = {job.config["modality"]: job for job in jobs(data, "--datasets", "mvtec_3d_ad")}
    for modality, score in (("rgb+depth", "max"), ("rgb", "mean"), ("depth", "max")):
        config = by_modality[modality].config
        assert (config["image_score"], config["teacher_channels"], config["coupling_clamp"]) == (score, 64, 1.9)
    assert by_modality["rgb"].recipe["epochs"] == 72
    (bottle,) = jobs(data, *BOTTLE)
    assert (bottle.preset, bottle.recipe["epochs"], bottle.recipe["calibration_fraction"]) == ("mvtec-ad", 240, 0.0)
    (own,) = jobs(data, *BOTTLE, "--set", "image_score=max", "learning_rate=1e-3", "--epochs", "3")
    assert (own.config["image_score"], own.recipe["learning_rate"], own.recipe["epochs"]) == ("max", 1e-3, 3)


def test_modalities_and_categories_choose(data: Path) -> None:
    assert [j.category for j in jobs(data, "--all", "--modalities", "depth")] == ["bagel"]
    assert [j.category for j in jobs(data, "--all", "--categories", "cable")] == ["cable"]
    with pytest.raises(ConfigError, match=r"no category 'botle'.*bottle, cable"):
        jobs(data, "--datasets", "mvtec_ad", "--categories", "botle")


def test_ablations(data: Path) -> None:
    of_3d = jobs(data, "--datasets", "mvtec_3d_ad", "--modalities", "rgb+depth", "--ablations")
    assert {job.variant for job in of_3d} == set(VARIANTS)
    assert {job.variant for job in jobs(data, *BOTTLE, "--ablations")} == set(VARIANTS) - {"no mask"}
    for job in of_3d:
        assert VARIANTS[job.variant].items() <= job.config.items()
    some = jobs(data, "--datasets", "mvtec_3d_ad", "--ablations", "raw patches", "no mask")
    assert {(job.config["modality"], job.variant) for job in some} == {
        ("rgb+depth", "AST"), ("rgb+depth", "raw patches"), ("rgb+depth", "no mask"),
        ("rgb", "AST"), ("rgb", "raw patches"), ("depth", "AST"), ("depth", "no mask"),
    }  # fmt: skip
    same = jobs(data, *BOTTLE, "--ablations", "--set", "position_channels=0")  # which is that ablation already
    assert "no positional encoding" not in {job.variant for job in same}


def test_synthetic_data_are_drawn_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "write_synthetic", lambda root: tmp_path)
    (tmp_path / "mvtec_ad" / "carpet").mkdir(parents=True)
    (job,) = plan(parser().parse_args(["--all", "--data", "synthetic"]))
    assert (job.data, job.preset) == ("synthetic", "compact")


def test_backbone_weights_are_part_of_the_id_by_content(data: Path, tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (jobs(data, *BOTTLE, "--backbone-weights", str(tmp_path / name))[0] for name in "abc")
    assert a.id == b.id != c.id
    assert Path(a.backbone_weights).is_absolute()
    with pytest.raises(ConfigError, match="cannot be read"):
        jobs(data, *BOTTLE, "--backbone-weights", str(tmp_path / "none"))


def test_a_users_own_folder_and_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.folder_of_pictures(tmp_path / "parts" / "good", 2)
    (job,) = jobs(tmp_path / "parts", "--datasets", "folder")
    assert (job.category, job.preset) == ("parts", "compact")
    (tmp_path / "parts" / "good").rename(tmp_path / "parts" / "gut")
    with pytest.raises(ASTError, match=r"parts holds gut/, and none of good parts"):
        jobs(tmp_path / "parts", "--datasets", "folder")
    (named,) = jobs(tmp_path / "parts", "--datasets", "folder", "--good", "gut")
    assert named.good == "gut" and named.id != job.id
    with pytest.raises(ConfigError, match="needs --datasets folder"):
        jobs(tmp_path / "parts", "--datasets", "visa", "--good", "gut")
    asked: list[Any] = []
    monkeypatch.setattr("benchmark.datasets.hub.materialize", lambda *args, **kwargs: asked.append((args, kwargs)))
    options = ["--datasets", "hub", "--hub-dataset", "org/set@abc", "--hub-columns", "image=photo", "mask="]
    (job,) = jobs(tmp_path, *options, "--categories", "bottle")
    ((repository, category, folder), named) = asked[0]
    assert (repository, category, folder.name) == ("org/set", "bottle", "org--set@abc")
    assert named == {"columns": {"image": "photo", "mask": ""}, "revision": "abc"}
    assert (job.dataset, job.category, job.data_root) == ("hub", "bottle", str(folder))
    with pytest.raises(ConfigError, match="--hub-dataset"):
        jobs(tmp_path, "--datasets", "hub")
