"""Pushing what a run has trained: which detectors under which names, with which cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ast_hf import from_pretrained
from benchmark.push import main, plan_pushes
from tests import tiny
from tests.hub_server import Hub

BOTTLE = "mvtec_ad-bottle-rgb-seed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's results: bottle with two seeds, and a part in 3D with two modalities."""
    kinds = (("rgb", "mvtec_ad", "bottle"), ("rgb+depth", "mvtec_3d_ad", "rope"), ("rgb", "mvtec_3d_ad", "rope"))
    for modality, dataset, category in kinds:
        for seed in range(2):
            job = tmp_path / "run" / "jobs" / f"{dataset}-{category}-{modality}-seed{seed}"
            tiny.detector(modality, seed, calibrated=False).save_pretrained(job / "model")
            spec = {"dataset": dataset, "category": category, "seed": seed, "config": {"modality": modality}}
            spec |= {"recipe": {"epochs": 3}, "preset": "mvtec-ad", "variant": "AST", "data": "files"}
            figures = {"image_auroc": 0.9 + 0.02 * seed, "calibration_parts": 8}
            result = {"id": job.name, "job": spec, "figures": figures, "receipt": {"commit": "abc"}}
            (job / "result.json").write_text(json.dumps(result))
            tiny.picture(seed).save(job / "heat_maps.png")
    return tmp_path / "run"


def change(run: Path, seed: int, **changes: object) -> None:
    """Changes fields of a bottle's job in its result."""
    path = run / "jobs" / f"{BOTTLE}{seed}" / "result.json"
    result = json.loads(path.read_text())
    result["job"] |= changes
    path.write_text(json.dumps(result))


def test_it_says_what_it_would_push(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert main([str(run), "--org", "org", "--dry-run"]) == 0
    assert "Not pushed: org/ast-mvtec-bottle <- " in caplog.text
    table = json.loads(capsys.readouterr().out)
    assert table["ast-mvtec-bottle"] == {"repo": "org/ast-mvtec-bottle", "revision": None}
    assert sorted(table) == ["ast-mvtec-bottle", "ast-mvtec3d-rope"]
    assert main([str(run), "--org", "org", "--dry-run", "--all-modalities"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)) == [*sorted(table), "ast-mvtec3d-rope-rgb"]


def test_it_uploads_a_run_and_pins_it(hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aliases = tmp_path / "aliases.json"
    aliases.write_text(json.dumps({"other": {"repo": "org/other", "revision": None}}))
    command = [str(run), "--org", "org", "--private", "--collection", "AST", "--aliases", str(aliases)]
    assert main(command) == 0
    assert main(command) == 0, "again, which changes nothing"
    table = json.loads(aliases.read_text())
    assert json.loads(capsys.readouterr().out.partition("\n}\n")[0] + "}") == table
    heads = {name: hub.repos[f"org/{name}"].refs["main"] for name in ("ast-mvtec-bottle", "ast-mvtec3d-rope")}
    assert {name: entry["revision"] for name, entry in table.items()} == {**heads, "other": None}
    assert hub.repos["org/ast-mvtec-bottle"].private
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == [f"org/{name}" for name in heads]
    card = ModelCard.load("org/ast-mvtec-bottle")
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert "98.4 % of PatchCore" in card.text
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("MVTec AD", "image_auroc")
    assert result.metric_value == pytest.approx(0.91)
    assert result.metric_args["std"] == pytest.approx(0.02 / 2**0.5)
    pulled = from_pretrained("org/ast-mvtec-bottle", device="cpu").predict(tiny.picture(0)).score
    first = run / "jobs" / f"{BOTTLE}0" / "model"
    assert pulled == from_pretrained(first, device="cpu").predict(tiny.picture(0)).score, "the lowest seed's"
    assert main([str(first), "--org", "strangers"]) == 1


def test_drawn_data_are_named_so_and_ours(run: Path) -> None:
    for seed in range(2):
        change(run, seed, data="synthetic")
    push = plan_pushes(run)["ast-mvtec-bottle-synthetic"]
    assert push.metrics is not None
    assert push.metrics["title"] == "MVTec AD (synthetic: drawn, not photographed)"
    assert (push.metrics["licence"], push.metrics["limit"]) == ("apache-2.0", "")
    assert run / "jobs" / f"{BOTTLE}0" / "heat_maps.png" in push.pictures
    assert not [path for path in plan_pushes(run)["ast-mvtec3d-rope"].pictures if path.is_file()]


def test_it_refuses_what_is_no_run(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path), "--org", "org"]) == 2
    assert "has no detector of a dataset" in caplog.text
    change(run, 1, recipe={"epochs": 9})
    assert main([str(run), "--org", "org"]) == 2
    assert "several kinds of detector for ast-mvtec-bottle" in caplog.text
    (run / "jobs" / f"{BOTTLE}1" / "result.json").write_text("{}")
    assert main([str(run), "--org", "org"]) == 2
    assert "is no result of the benchmark" in caplog.text
