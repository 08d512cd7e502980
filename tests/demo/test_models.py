from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ast_hf import ASTDetector
from ast_hf.demo import models
from ast_hf.demo.models import Detectors
from ast_hf.demo.uploads import DemoError
from ast_hf.errors import CheckpointError
from ast_hf.hub import store
from tests import tiny

pytestmark = pytest.mark.usefixtures("stored")


def test_names_are_told_apart_by_what_they_take() -> None:
    detectors = Detectors(["org/elsewhere"])
    pictures, scans = (detectors.names(with_scan=with_scan) for with_scan in (False, True))
    assert "plate" in pictures and "plate" not in scans
    assert "box" in scans and "box" not in pictures
    assert pictures[-1] == scans[-1] == "org/elsewhere"  # of the Hub's it is not known before


def test_a_detector_is_loaded_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, load = [], models._load

    def counting(key: str | Path) -> ASTDetector:
        loads.append(key)
        return load(key)

    monkeypatch.setattr(models, "_load", counting)
    detectors = Detectors()
    threads = [threading.Thread(target=detectors.load, args=["plate"]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["plate"]


def test_those_used_last_stay(make_detector: Callable[..., ASTDetector]) -> None:
    store(make_detector("rgb"), "third")
    detectors = Detectors(keep=2)
    first = detectors.load("plate")
    detectors.load("box")
    assert detectors.load("plate") is first
    detectors.load("third")  # box goes
    assert detectors.load("plate") is first
    detectors.forget("plate")
    assert detectors.load("plate") is not first


def test_predictions_are_those_of_the_detector() -> None:
    picture, scan = tiny.picture(1), tiny.scan(1)
    (prediction,), calibration = Detectors().predict("box", [picture], [scan])
    model = ASTDetector.from_pretrained("box")
    assert prediction.score == model.predict(picture, scan).score
    assert calibration == model.calibration


def test_an_unreachable_hub_is_a_sentence_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, go_on = threading.Event(), threading.Event()
    load = models._load

    def slow(key: str | Path) -> ASTDetector:
        if key == "org/elsewhere":
            hanging.set()
            go_on.wait(30)
        return load(key)

    monkeypatch.setattr(models, "_load", slow)
    detectors, faults = Detectors(["org/elsewhere"]), []

    def ask() -> None:
        try:
            detectors.load("org/elsewhere")
        except DemoError as error:
            faults.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert hanging.wait(30)
    detectors.load("plate")  # while the other one hangs
    go_on.set()
    thread.join()
    assert faults == [
        "org/elsewhere is not to be had just now (the Hub cannot be reached or does not have it). "
        "The other detectors work: choose one."
    ]


def test_faults_name_no_path(make_detector: Callable[..., ASTDetector], monkeypatch: pytest.MonkeyPatch) -> None:
    detectors = Detectors()
    for name in ("nobody", "../secret", "/etc"):
        with pytest.raises(DemoError, match="not to be had") as caught:
            detectors.load(name)
        assert "ast_hf" not in str(caught.value) and "checkpoints" not in str(caught.value)
    store(make_detector("rgb", calibrated=False), "loose")
    with pytest.raises(DemoError, match="without a calibration"):
        detectors.load("loose")


def test_parts_that_do_not_fit_are_sentences() -> None:
    detectors = Detectors()
    with pytest.raises(DemoError, match="needs the point cloud"):
        detectors.predict("box", [tiny.picture(0)])
    with pytest.raises(DemoError, match="differ in size"):
        detectors.predict("box", [tiny.picture(0, (80, 80))], [tiny.scan(0)])
    with pytest.raises(DemoError, match="takes pictures alone"):
        detectors.predict("plate", [tiny.picture(0)], [tiny.scan(0)])
    detectors.predict("plate", [tiny.picture(0)])  # the device is free again


def test_warming_up_never_fails(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(key: object) -> ASTDetector:
        raise CheckpointError("no")

    monkeypatch.setattr(models.ASTDetector, "from_pretrained", broken)
    Detectors().warm("plate")
    assert "plate is not ready" in caplog.text
