import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ast_hf import Predictor
from ast_hf.demo.detectors import Detectors, Key, load_predictor
from ast_hf.demo.uploads import DemoError
from ast_hf.hub import store
from tests import tiny

pytestmark = pytest.mark.usefixtures("stored")


def test_a_detector_is_loaded_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Key] = []

    def load(key: Key) -> Predictor:
        loads.append(key)
        return load_predictor(key)

    monkeypatch.setattr("ast_hf.demo.detectors.load_predictor", load)
    with ThreadPoolExecutor(8) as visitors:
        predictors = set(visitors.map(Detectors().get, ["plate"] * 8))
    assert loads == ["plate"] and len(predictors) == 1


def test_those_used_last_stay() -> None:
    store(tiny.detector("rgb"), "third")
    detectors = Detectors(keep=2)
    first = detectors.get("plate")
    detectors.get("box")
    assert detectors.get("plate") is first
    detectors.get("third")  # box goes
    assert detectors.get("plate") is first
    detectors.forget("plate")
    assert detectors.get("plate") is not first


def test_an_unreachable_hub_is_a_sentence_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def load(key: Key) -> Predictor:
        if key == "org/elsewhere":
            hanging.set()
            go_on.wait()
        return load_predictor(key)

    monkeypatch.setattr("ast_hf.demo.detectors.load_predictor", load)
    detectors = Detectors(["org/elsewhere"])
    with ThreadPoolExecutor(2) as visitors:
        answer = visitors.submit(detectors.get, "org/elsewhere")
        try:
            assert hanging.wait(30)
            assert visitors.submit(detectors.get, "plate").result(30)  # while the other one hangs
        finally:
            go_on.set()
        with pytest.raises(DemoError) as caught:
            answer.result()
    assert caught.value.message == (
        "org/elsewhere is not to be had just now (the Hub cannot be reached or does not have it). "
        "The other detectors work: choose one."
    )


def test_faults_name_no_path() -> None:
    detectors = Detectors()
    for name in ("nobody", "../secret", "/etc"):
        with pytest.raises(DemoError, match="not to be had") as caught:
            detectors.get(name)
        assert "ast_hf" not in str(caught.value) and "checkpoints" not in str(caught.value)
    store(tiny.detector("rgb", calibrated=False), "loose")
    with pytest.raises(DemoError, match="without a calibration"):
        detectors.get("loose")


def test_parts_that_do_not_fit_are_sentences() -> None:
    detectors, picture, scan = Detectors(), tiny.picture(0), tiny.scan(0)
    with pytest.raises(DemoError, match="needs the point cloud"):
        detectors.predict("box", [picture])
    with pytest.raises(DemoError, match="differ in size"):
        detectors.predict("box", [tiny.picture(0, (80, 80))], [scan])
    with pytest.raises(DemoError, match="takes pictures alone"):
        detectors.predict("plate", [picture], [scan])
    detectors.predict("plate", [picture])  # the device is free again


def test_warming_up_never_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def load(key: Key) -> Predictor:
        raise DemoError("no")

    monkeypatch.setattr("ast_hf.demo.detectors.load_predictor", load)
    Detectors().warm_up()
    assert "is not ready" in caplog.text
