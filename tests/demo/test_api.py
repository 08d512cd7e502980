"""Every endpoint, called as a program does."""

import csv
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import app
from ast_hf import ASTDetector
from ast_hf.demo.components import output_folder
from ast_hf.demo.detectors import Detectors
from ast_hf.demo.inspect_tab import example_pictures
from ast_hf.demo.training import VisitorDetector, read_good
from ast_hf.demo.uploads import find_uploads
from tests import tiny
from tests.app_server import AppServer

HOLE, TIRE = (next(path for path in example_pictures() if path.stem == name) for name in ("carpet_hole", "tire_cut"))


@pytest.fixture(scope="module")
def client(server: AppServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


def test_endpoints_have_names_and_descriptions_and_the_rest_is_private(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")
    assert set(endpoints["named_endpoints"]) == {"/predict", "/predict_3d", "/batch", "/teach", "/models"}
    assert not endpoints["unnamed_endpoints"]
    assert all(len(info["description"]) > 20 for info in endpoints["named_endpoints"].values())
    names = [parameter["parameter_name"] for parameter in endpoints["named_endpoints"]["/predict"]["parameters"]]
    assert names == ["image", "detector", "false_positive_rate"]
    _, region = endpoints["named_endpoints"]["/teach"]["parameters"]
    assert region["parameter_name"] == "region" and region["parameter_has_default"]


def test_predict_gives_what_the_detector_says(client: Client) -> None:
    expected = ASTDetector.from_pretrained("demo-carpet", device="cpu").predict(HOLE)
    report, overlay, raw = client.predict(handle_file(HOLE), "demo-carpet", 0.05, api_name="/predict")
    assert report["score"] == pytest.approx(expected.score) and report["threshold"] == expected.threshold
    assert (report["is_anomalous"], report["p_value"]) == (expected.is_anomalous, expected.p_value)
    assert [region["box"] for region in report["regions"]] == [list(region.box) for region in expected.regions()]
    assert np.load(raw) == pytest.approx(expected.anomaly_map, rel=1e-3, abs=1e-3)
    assert np.asarray(Image.open(overlay), dtype=int) == pytest.approx(np.asarray(expected.overlay()), abs=2)


def test_predict_3d_gives_a_cloud_as_well(client: Client) -> None:
    paths = TIRE, TIRE.with_suffix(".tiff")
    expected = ASTDetector.from_pretrained("demo-tire", device="cpu").predict(*paths)
    report, _, _, cloud = client.predict(*map(handle_file, paths), "demo-tire", 0.2, api_name="/predict_3d")
    assert report["score"] == pytest.approx(expected.score, rel=1e-5) and report["false_positive_rate"] == 0.2
    assert report["image"] == TIRE.name and Path(cloud).read_bytes()[:4] == b"glTF"


def test_batch_takes_files_and_zips_and_names_what_it_cannot_read(client: Client, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(HOLE, "packed.png")
        archive.writestr("notes.txt", "no picture")
    files = [handle_file(HOLE), handle_file(tmp_path / "more.zip")]
    rows, table = client.predict(files, "demo-carpet", 0.05, api_name="/batch")
    assert [row["image"] for row in rows] == [HOLE.name, "packed.png", "notes.txt"]
    assert rows[0]["score"] == rows[1]["score"] and "not a picture" in rows[2]["error"]
    with Path(table).open(newline="") as file:
        assert [line["image"] for line in csv.DictReader(file)] == [HOLE.name, "packed.png", "notes.txt"]


def test_teach_gives_a_checkpoint_and_keeps_nothing(client: Client, server: AppServer, tmp_path: Path) -> None:
    before, offered = set(server.home.rglob("*")), client.predict(api_name="/models")
    assert "demo-carpet" in offered["picture"] and offered["picture and scan"] == ["demo-tire"]
    folder = tiny.folder_of_pictures(tmp_path / "good", 12)
    files = [handle_file(path) for path in sorted(folder.iterdir())]
    white = Image.new("L", (80, 60), 255)
    white.paste(0, (0, 0, 40, 60))
    white.save(tmp_path / "right half.png")
    report, archive = client.predict(files, handle_file(tmp_path / "right half.png"), api_name="/teach")
    epochs = {stage: len(losses) for stage, losses in report["loss"].items()}
    stages = ["teacher", "student", "local teacher", "local student"]
    assert report["pictures"] == 12 and epochs == dict.fromkeys(stages, 60)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    model = ASTDetector.from_pretrained(tmp_path / "unpacked" / "ast-detector")
    assert model.config.region and model.region.float().mean() == 0.5
    assert model.calibration is not None and list(model.calibration.scores) == report["calibration"]["scores"]
    assert set(server.home.rglob("*")) == before and not list(server.temporary.glob("ast-hf-*"))
    assert client.predict(api_name="/models") == offered


def test_files_that_nobody_took_go_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    first, second = output_folder(), output_folder()
    os.utime(first, (0, 0))
    assert output_folder().is_dir() and second.is_dir() and not first.exists()


def test_every_example_picture_is_offered() -> None:
    offered = [block.samples for block in app.create_demo().blocks.values() if isinstance(block, gr.Dataset)]
    cells = [row[0] for rows in offered for row in rows or []]
    shown = sorted(Path(cell["path"] if isinstance(cell, dict) else cell).name for cell in cells)
    assert shown == [path.name for path in example_pictures()] != []


def test_drawn_parts_are_packed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    demo = app.create_demo(draw=tiny.picture)
    (click,) = (
        fn for fn in demo.fns.values() if any(block.elem_id == "teach-drawn" for block, _ in _targets(demo, fn))
    )
    pictures, _ = read_good(find_uploads(click.fn()))
    assert len(pictures) == 24 and np.array_equal(pictures[5], tiny.picture(5))


def _targets(demo: gr.Blocks, fn: Any) -> list[tuple[gr.blocks.Block, str]]:
    return [(demo.blocks[block], event) for block, event in fn.targets if block is not None]


def test_a_session_that_ends_takes_the_visitors_detector_with_it() -> None:
    detectors = Detectors()
    demo, own = app.create_demo(detectors), VisitorDetector(detectors)
    tiny.detector().save_pretrained(own.folder)
    detectors.get(own.folder)
    for block in demo.blocks.values():
        if isinstance(block, gr.State):
            block.delete_callback(own)
    assert not own.folder.exists()
    with pytest.raises(gr.Error, match="not to be had"):  # it would be had from memory
        detectors.get(own.folder)
