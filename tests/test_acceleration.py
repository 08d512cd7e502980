"""What OpenVINO computes is what the detector computes, and it is asked only where it is faster."""

from __future__ import annotations

import builtins
import copy
import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from ast_hf import ASTDetector, acceleration
from ast_hf.acceleration import OPENVINO, TORCH, AccelerationError
from ast_hf.cli import main
from ast_hf.parts import Part, pixel_values, read_part, stack
from tests import tiny


def make_model(modality: str = "rgb", **changes: Any) -> ASTDetector:
    torch.manual_seed(0)
    model = ASTDetector(tiny.config(modality, **changes))
    with torch.no_grad():
        for coupling in model.teacher.module_list[1::2]:  # no coupling is the identity
            coupling.net1.gamma.fill_(0.5), coupling.net2.gamma.fill_(0.5)
    return model


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO wins: mixtures are timed from torch alone to OpenVINO alone."""
    falling = itertools.count(1000, -1)
    monkeypatch.setattr(acceleration, "_median_seconds", lambda run: next(falling))


def scans(modality: str, count: int) -> list[Any] | None:
    return None if modality == "rgb" else [tiny.scan(seed) for seed in range(count)]


def pictures(modality: str, count: int) -> list[Any] | None:
    return None if modality == "depth" else [tiny.picture(seed) for seed in range(count)]


@pytest.mark.parametrize("modality", ["rgb", "rgb+depth", "depth"])
def test_the_same_predictions_for_any_batch(modality: str, always: None) -> None:
    model = make_model(modality)
    expected = copy.deepcopy(model).predict(pictures(modality, 5), scans(modality, 5))
    runtimes = model.accelerate()
    assert dict(runtimes) == {"trunk": OPENVINO, "heads": OPENVINO} if modality != "depth" else {"heads": OPENVINO}
    for batch_size in (1, 3, 8):
        found = model.predict(pictures(modality, 5), scans(modality, 5), batch_size=batch_size)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.score == pytest.approx(theirs.score, rel=1e-4)
            assert abs(ours.anomaly_map - theirs.anomaly_map).max() < 1e-3 * abs(theirs.anomaly_map).max()


@pytest.mark.parametrize("modality", ["rgb", "rgb+depth"])
def test_teacher_and_student_at_once_compute_the_same(modality: str) -> None:
    model = make_model(modality)
    expected = model.predict(pictures(modality, 3), scans(modality, 3))
    here, threads, both = threading.get_ident(), torch.get_num_threads(), threading.Barrier(2)
    seen: list[tuple[bool, int]] = []

    def meet(*_: object) -> None:
        seen.append((threading.get_ident() == here, torch.get_num_threads()))
        if threading.get_ident() != here:
            both.wait(timeout=60)  # comes to nothing, and fails, where one network waits for the other

    for network in (model.teacher, model.student):
        network.register_forward_pre_hook(meet)
    heads = acceleration._heads_at_once(model, 1)
    for picture, scan, prediction in zip(
        pictures(modality, 3), scans(modality, 3) or [None] * 3, expected, strict=True
    ):
        part = read_part(model.config, Part(picture, scan))
        with torch.inference_mode():
            inputs = model.inputs(pixel_values([part], model.device), stack([part.depth], model.device))
            mask = model.mask(stack([part.foreground], model.device))
            anomaly_map, score = heads(inputs, mask)
            in_a_batch = heads(inputs.repeat(2, 1, 1, 1), None if mask is None else mask.repeat(2, 1, 1, 1))
        assert score.item() == pytest.approx(prediction.score, rel=1e-5)
        assert torch.allclose(in_a_batch[0][:1], anomaly_map, rtol=1e-4, atol=1e-7)
    # For a part both beside this thread, and in a batch both on it with all threads.
    assert seen == [(False, 1), (False, 1), (True, threads), (True, threads)] * 3
    assert torch.get_num_threads() == threads


def test_in_bf16_it_rounds_and_does_no_more(monkeypatch: pytest.MonkeyPatch, always: None) -> None:
    model = make_model()
    exact = model.predict(tiny.picture(0)).score
    with model.computing_in("bf16"):
        model.accelerate()
        assert model.predict(tiny.picture(0)).score == pytest.approx(exact, rel=0.03)


def test_where_it_is_slower_the_detector_computes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rising = itertools.count()
    monkeypatch.setattr(acceleration, "_median_seconds", lambda run: next(rising))
    model = make_model()
    expected = model.predict(tiny.picture(0)).score
    assert dict(model.accelerate()) == {"trunk": TORCH, "heads": TORCH}
    assert model.predict(tiny.picture(0)).score == expected


def test_mixtures_are_timed_as_a_whole() -> None:
    calls: list[int] = []
    assert 0 < acceleration._median_seconds(lambda: calls.append(len(calls))) < 1
    assert len(calls) == 2 + 9


def test_changed_weights_and_precision_are_followed(always: None) -> None:
    model = make_model()
    model.accelerate()
    with torch.no_grad():
        model.student.tail.bias.add_(1)
    assert model.predict(tiny.picture(0)).score == copy.deepcopy(model).predict(tiny.picture(0)).score
    model.accelerate()
    with model.computing_in("bf16"):
        in_bf16 = model.predict(tiny.picture(0)).score
        assert in_bf16 == copy.deepcopy(model).predict(tiny.picture(0)).score


def test_copies_and_pickles_compute_themselves(always: None) -> None:
    model = make_model()
    model.accelerate()
    assert copy.deepcopy(model)._accelerated is None
    assert pickle.loads(pickle.dumps(model._accelerated)) is None
    assert model._accelerated is not None


def test_threads_take_turns(always: None) -> None:
    model = make_model()
    model.accelerate()
    expected = [model.predict(tiny.picture(seed)).score for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: model.predict(tiny.picture(seed)).score, range(8))) == expected


def test_without_openvino_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "openvino":
            raise ImportError("no")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(AccelerationError, match="pip install openvino"):
        make_model().accelerate()


def test_the_command_line_accelerates(tmp_path: Path, always: None, caplog: pytest.LogCaptureFixture) -> None:
    make_model().save_pretrained(tmp_path / "model")
    tiny.folder_of_pictures(tmp_path / "parts", 3)
    caplog.set_level("INFO")
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "parts"), "--accelerate", "--device", "cpu"]) == 0
    assert "openvino (trunk) and openvino (heads)" in caplog.text
