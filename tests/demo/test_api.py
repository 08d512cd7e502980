"""Every endpoint, called as a program does."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import tifffile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from ast_hf import ASTDetector
from ast_hf.demo.teach import Course
from ast_hf.hub import store
from tests import tiny


@pytest.fixture(scope="module")
def home(make_detector: Callable[..., ASTDetector], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AST_HF_HOME", str(folder))
        store(make_detector("rgb"), "plate")
        store(make_detector("rgb+depth"), "box")
    return folder


@pytest.fixture(scope="module")
def client(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AST_HF_HOME", str(home))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        demo = app.create_demo(course=Course(tiny.config(), None, steps=2))
        _, url, _ = demo.launch(**app.LAUNCH, server_name="127.0.0.1", prevent_thread_lock=True)
        yield Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
        demo.close()


@pytest.fixture(autouse=True)
def same_home(isolation: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs in this process and looks where this test's variables say."""
    monkeypatch.setenv("AST_HF_HOME", str(home))


@pytest.fixture
def part(tmp_path: Path) -> tuple[str, str]:
    """Paths of a picture and its scan."""
    tiny.picture(5, defect=True).save(tmp_path / "part.png")
    tifffile.imwrite(tmp_path / "part.tiff", tiny.scan(5), photometric="rgb")
    return str(tmp_path / "part.png"), str(tmp_path / "part.tiff")


def test_endpoints_have_names_and_descriptions_and_the_rest_is_private(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")
    assert set(endpoints["named_endpoints"]) == {"/predict", "/predict_3d", "/batch", "/teach", "/models"}
    assert not endpoints["unnamed_endpoints"]
    described = {name: info["description"] for name, info in endpoints["named_endpoints"].items()}
    assert all(len(text) > 20 for text in described.values())
    names = [parameter["parameter_name"] for parameter in endpoints["named_endpoints"]["/predict"]["parameters"]]
    assert names == ["image", "detector", "false_positive_rate"]


def test_predict_gives_what_the_detector_says(client: Client, part: tuple[str, str]) -> None:
    expected = ASTDetector.from_pretrained("plate").predict(part[0])
    report, overlay, raw = client.predict(handle_file(part[0]), "plate", 0.05, api_name="/predict")
    assert report["score"] == expected.score and report["threshold"] == expected.threshold
    assert (report["is_anomalous"], report["p_value"]) == (expected.is_anomalous, expected.p_value)
    assert [region["box"] for region in report["regions"]] == [list(region.box) for region in expected.regions()]
    assert np.array_equal(np.load(raw), expected.anomaly_map)
    assert np.array_equal(np.asarray(Image.open(overlay)), np.asarray(expected.overlay()))


def test_predict_3d_gives_a_cloud_as_well(client: Client, part: tuple[str, str]) -> None:
    expected = ASTDetector.from_pretrained("box").predict(*part)
    report, _, _, cloud = client.predict(*map(handle_file, part), "box", 0.2, api_name="/predict_3d")
    assert report["score"] == expected.score and report["false_positive_rate"] == 0.2
    assert Path(cloud).read_bytes()[:4] == b"glTF"


def test_batch_takes_files_and_zips_and_names_what_it_cannot_read(
    client: Client, part: tuple[str, str], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(part[0], "packed.png")
        archive.writestr("notes.txt", "no picture")
    files = [handle_file(part[0]), handle_file(tmp_path / "more.zip")]
    rows, table = client.predict(files, "plate", 0.05, api_name="/batch")
    assert [row["image"] for row in rows] == ["part.png", "packed.png", "notes.txt"]
    assert rows[0]["score"] == rows[1]["score"] and "not a picture" in rows[2]["error"]
    with Path(table).open(newline="") as file:
        assert [line["image"] for line in csv.DictReader(file)] == ["part.png", "packed.png", "notes.txt"]


def test_teach_gives_a_checkpoint_and_keeps_nothing(client: Client, home: Path, tmp_path: Path) -> None:
    before, offered = sorted(home.rglob("*")), client.predict(api_name="/models")
    assert "plate" in offered["picture"] and "box" in offered["picture and scan"]
    folder = tiny.folder_of_pictures(tmp_path / "good", 12)
    files = [handle_file(path) for path in sorted(folder.iterdir())]
    report, archive = client.predict(files, api_name="/teach")
    assert report["pictures"] == 12 and [len(losses) for losses in report["loss"].values()] == [2, 2]
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "taught")
    model = ASTDetector.from_pretrained(tmp_path / "taught" / "ast-detector")
    assert model.calibration is not None and list(model.calibration.scores) == report["calibration"]["scores"]
    assert sorted(home.rglob("*")) == before
    assert client.predict(api_name="/models") == offered


def test_faults_are_sentences_without_paths(client: Client, part: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(part[0]).read_bytes()[:2000])
    false = tmp_path / "false.tiff"
    false.write_bytes(Path(part[0]).read_bytes())
    calls = [
        ("drawing.svg: this is not a picture", "/predict", (handle_file(tmp_path / "drawing.svg"), "plate", 0.05)),
        ("part.tiff: this is not a picture", "/predict", (handle_file(part[1]), "plate", 0.05)),
        ("cut.png: the data is damaged or cut short; ", "/predict", (handle_file(cut), "plate", 0.05)),
        ("false.tiff: this is not a TIFF", "/predict_3d", (handle_file(part[0]), handle_file(false), "box", 0.05)),
        ("teaching needs at least", "/teach", ([handle_file(part[0])],)),
        ("not in the list of choices", "/predict", (handle_file(part[0]), "../../etc", 0.05)),
    ]
    for sentence, name, arguments in calls:
        with pytest.raises(AppError) as caught:
            client.predict(*arguments, api_name=name)
        assert sentence in str(caught.value)
        assert str(tmp_path) not in str(caught.value) and "/gradio" not in str(caught.value)


def test_every_example_picture_is_offered() -> None:
    offered = [block.samples for block in app.create_demo().blocks.values() if isinstance(block, gr.Dataset)]
    cells = [row[0] for rows in offered for row in rows or []]
    shown = sorted(Path(cell["path"] if isinstance(cell, dict) else cell).name for cell in cells)
    assert shown == sorted(path.name for path in app.EXAMPLES.glob("*.png")) != []
