from __future__ import annotations

import csv
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file

from ast_hf import ASTDetector, from_pretrained
from ast_hf.backbone import FeatureExtractor
from ast_hf.cli import main
from tests import tiny
from tests.hub_server import Hub, logged_in
from tests.test_golden import GoldenFeatures, golden_config, original_state

SETTINGS = [
    "backbone=test_efficientnet", "backbone_layer=blocks.3", "feature_channels=48", "image_size=64", "depth_size=32",
    "position_channels=8", "teacher_channels=8", "student_channels=8", "student_blocks=1", "batch_size=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector trained by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    weights = folder / "trunk.safetensors"
    trunk = FeatureExtractor("test_efficientnet", "blocks.3", weights=None).trunk
    save_file({k: v.contiguous() for k, v in trunk.state_dict().items()}, weights)
    tiny.folder_of_pictures(folder / "good", 20)
    command = ["train", str(folder / "good"), "--output", str(folder / "model"), "--epochs", "1", "--device", "cpu"]
    assert main([*command, "--backbone-weights", str(weights), "--set", *SETTINGS]) == 0
    return folder / "model"


def test_a_detector_trained_under_a_name_is_found_by_it(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk, good = model_folder.parent / "trunk.safetensors", model_folder.parent / "good"
    command = ["train", str(good), "--output", str(tmp_path / "model"), "--epochs", "0", "--device", "cpu"]
    assert main([*command, "--name", "plate", "--backbone-weights", str(trunk), "--set", *SETTINGS]) == 0
    assert main(["predict", "plate", str(good / "000.png"), "--device", "cpu"]) == 0
    expected = from_pretrained(tmp_path / "model", device="cpu").predict(good / "000.png").score
    assert json.loads(capsys.readouterr().out)["score"] == expected


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from logged_in(monkeypatch)


def test_train_saves_a_calibrated_detector(model_folder: Path) -> None:
    model = from_pretrained(model_folder, device="cpu")
    assert len(model.calibration.scores) == 6
    assert model.config.feature_normalization == "channel"  # from the compact preset


def test_predict_prints_one_row_a_picture(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.folder_of_pictures(tmp_path / "parts", 2)
    tiny.picture(7).save(tmp_path / "parts" / "000.jpg")
    command = ["predict", str(model_folder), str(tmp_path / "parts"), "--output", str(tmp_path / "out"), "--raw-maps"]
    assert main([*command, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["000.jpg", "000.png", "001.png"]
    expected = from_pretrained(model_folder, device="cpu").predict(tmp_path / "parts" / "001.png")
    assert rows[2]["score"] == pytest.approx(expected.score, rel=1e-5)
    assert rows[2]["threshold"] == expected.threshold
    for row in rows:
        assert Image.open(row["overlay"]).size == (80, 60)
        assert np.load(row["raw_map"]).shape == (60, 80)
    assert len({row["overlay"] for row in rows}) == 3
    assert (tmp_path / "out" / "results.jsonl").read_text() == printed


def test_another_false_positive_rate_moves_the_threshold(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.picture(0).save(tmp_path / "part.png")
    command = ["predict", str(model_folder), str(tmp_path / "part.png"), "--device", "cpu"]
    assert main(command) == 0
    assert main([*command, "--false-positive-rate", "0.4"]) == 0
    strict, lax = (json.loads(line)["threshold"] for line in capsys.readouterr().out.splitlines())
    assert lax < strict
    assert main([*command, "--false-positive-rate", "5"]) == 2


def test_bad_files_are_rows_and_exit_status_1(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.folder_of_pictures(tmp_path, 2)
    (tmp_path / "001.png").write_bytes((tmp_path / "000.png").read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "000.png", tmp_path / "001.png", tmp_path / "missing.png", tmp_path / "empty"]
    assert main(["predict", str(model_folder), *map(str, paths), "--format", "csv", "--device", "cpu"]) == 1
    rows = {Path(row["image"]).name: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert len(rows) == 4
    assert rows["000.png"]["error"] == ""
    assert json.loads(rows["000.png"]["regions"]) is not None
    assert "damaged" in rows["001.png"]["error"]
    assert "no such file" in rows["missing.png"]["error"]
    assert "no pictures" in rows["empty"]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a.png"], "nowhere is not a folder"),
        (["train", "nowhere", "--output", "x", "--set", "colour=red"], "colour=red"),
        (["train", "nowhere", "--output", "x", "--set", "backbone=test_efficientnet"], "nowhere: there is no"),
    ],
)  # fmt: skip
def test_faults_are_sentences_with_exit_status_2(
    arguments: list[str], message: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in caplog.text
    assert not capsys.readouterr().out


def run_folder(folder: Path, seeds: int = 2) -> Path:
    """A benchmark run's results: bottle with some seeds, and a part in 3D with all three modalities."""
    for modality, dataset, category in (
        ("rgb", "mvtec_ad", "bottle"), ("rgb+depth", "mvtec_3d_ad", "rope"), ("rgb", "mvtec_3d_ad", "rope"),
    ):  # fmt: skip
        for seed in range(seeds):
            torch.manual_seed(seed)
            job = folder / "jobs" / f"{dataset}-{category}-{modality}-seed{seed}"
            ASTDetector(tiny.config(modality)).save_pretrained(job / "model")
            spec = {"dataset": dataset, "category": category, "seed": seed, "config": {"modality": modality}}
            spec |= {"recipe": {"epochs": 3}, "preset": "mvtec-ad", "variant": "AST", "data": "files"}
            figures = {"image_auroc": 0.9 + 0.02 * seed, "calibration_parts": 8}
            result = {"id": job.name, "job": spec, "figures": figures, "receipt": {"commit": "abc"}}
            (job / "result.json").write_text(json.dumps(result))
    return folder


def test_push_says_what_it_would_push(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_folder(tmp_path)
    caplog.set_level("INFO")
    assert main(["push", str(folder), "--org", "org", "--dry-run"]) == 0
    assert "Not pushed: org/ast-mvtec-bottle <- " in caplog.text
    table = json.loads(capsys.readouterr().out)
    assert table["ast-mvtec-bottle"] == {"repo": "org/ast-mvtec-bottle", "revision": None}
    assert sorted(table) == ["ast-mvtec-bottle", "ast-mvtec3d-rope"]
    assert main(["push", str(folder), "--org", "org", "--dry-run", "--all-modalities"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)) == [*sorted(table), "ast-mvtec3d-rope-rgb"]


def test_push_uploads_a_run_and_pins_it(server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, aliases = run_folder(tmp_path / "run"), tmp_path / "aliases.json"
    aliases.write_text(json.dumps({"other": {"repo": "org/other", "revision": None}}))
    command = ["push", str(folder), "--org", "org", "--private", "--collection", "AST", "--aliases", str(aliases)]
    assert main(command) == 0
    assert main(command) == 0, "again, which changes nothing"
    table = json.loads(aliases.read_text())
    assert json.loads(capsys.readouterr().out.partition("\n}\n")[0] + "}") == table
    heads = {name: server.repos[f"org/{name}"].refs["main"] for name in ("ast-mvtec-bottle", "ast-mvtec3d-rope")}
    assert {name: entry["revision"] for name, entry in table.items()} == {**heads, "other": None}
    assert server.repos["org/ast-mvtec-bottle"].private
    (collection,) = server.collections.values()
    assert [item["id"] for item in collection["items"]] == [f"org/{name}" for name in heads]
    (result,) = ModelCard.load("org/ast-mvtec-bottle").data.eval_results
    assert (result.metric_type, result.metric_value) == ("image_auroc", pytest.approx(0.91))
    assert result.metric_args["std"] == pytest.approx(0.02 / 2**0.5)
    pulled = from_pretrained("org/ast-mvtec-bottle", device="cpu").predict(tiny.picture(0)).score
    first = from_pretrained(folder / "jobs" / "mvtec_ad-bottle-rgb-seed0" / "model", device="cpu")
    assert pulled == first.predict(tiny.picture(0)).score, "the lowest seed's"
    assert main(["push", str(folder / "jobs" / "mvtec_ad-bottle-rgb-seed0" / "model"), "--org", "strangers"]) == 1


def test_push_refuses_what_is_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["push", str(tmp_path), "--org", "org"]) == 2
    assert "has no detector of a dataset" in caplog.text
    folder = run_folder(tmp_path / "run")
    path = folder / "jobs" / "mvtec_ad-bottle-rgb-seed1" / "result.json"
    result = json.loads(path.read_text())
    result["job"]["recipe"]["epochs"] = 9
    path.write_text(json.dumps(result))
    assert main(["push", str(folder), "--org", "org"]) == 2
    assert "several kinds of detector for ast-mvtec-bottle" in caplog.text
    path.write_text("{}")
    assert main(["push", str(folder), "--org", "org"]) == 2
    assert "is no result of the benchmark" in caplog.text


class StoredGoldenFeatures(GoldenFeatures):
    def digest(self) -> str:
        return "0" * 64


@pytest.mark.parametrize("name", ["ast_rgb", "ast_combi"])
def test_convert_gives_the_authors_outputs(
    name: str,
    tmp_path: Path,
    golden: Callable[[str], dict[str, torch.Tensor]],
    golden_metadata: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ast_hf.model.FeatureExtractor", StoredGoldenFeatures)
    values, config = golden(name), golden_config(golden_metadata(name)).to_dict()
    files = [str(tmp_path / "teacher.pth"), str(tmp_path / "student.pth")]
    for state, file in zip(original_state(values), files, strict=True):
        torch.save(state, file)
    fields = [f"{k}={json.dumps(v)}" for k, v in config.items() if k != "config_version"]
    assert main(["convert", *files, "--output", str(tmp_path / "model"), "--set", *fields]) == 0
    model = from_pretrained(tmp_path / "model", device="cpu")
    mask = model.mask(values["foreground"]) if model.config.uses_depth else None
    with torch.no_grad():
        output = model.compare(model.join(values["input_features"], values["depth"]), mask)
    for actual, expected in ((output.teacher_z, "teacher_z"), (output.student_z, "student_z")):
        torch.testing.assert_close(actual, values[expected], rtol=1e-4, atol=1e-4)
    assert main(["convert", *files[::-1], "--output", str(tmp_path / "swapped"), "--set", *fields]) == 2
    assert not (tmp_path / "swapped").exists()


def test_export_writes_a_file(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = types.ModuleType("ast_hf.export")
    export.export_onnx = lambda model, path, half_precision: path.write_text(f"{type(model).__name__} {half_precision}")
    monkeypatch.setitem(sys.modules, "ast_hf.export", export)
    assert main(["export", str(model_folder), "--format", "onnx", "--output", str(tmp_path / "model.onnx")]) == 0
    assert (tmp_path / "model.onnx").read_text() == "ASTDetector False"
