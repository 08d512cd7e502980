"""Recordings: when they are made, when they are void, and that nothing but time changes by them.

Without a GPU a stand-in records: it keeps the step and runs it again, without running it while it records.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ast_hf import ASTDetector, TrainingRecipe, graphs
from ast_hf.features import PreparedParts
from ast_hf.graphs import Recordings, Repeated
from ast_hf.model import placed
from ast_hf.training import build, fit
from tests import tiny

GPU = torch.device("cuda")


class Recorder:
    """Stands in for `graphs.record` and `graphs.aside`."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, step: Callable[[], object], device: torch.device) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(graphs, "record", recorder.record)
    monkeypatch.setattr(graphs, "aside", lambda step, device: step())
    return recorder


def scaled(weight: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: (weight * x, x.sum())


def test_a_shape_that_comes_again_is_recorded(recorder: Recorder) -> None:
    weight, recordings = torch.tensor(3.0), Recordings()
    for number in range(6):
        x = torch.full((2,), float(number))
        y, total = recordings.run(scaled(weight), [x], [weight])
        assert y.tolist() == [3 * number] * 2 and total == 2 * number
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    recordings.run(scaled(weight), [torch.ones(5)], [weight])
    assert recorder.recorded == 1, "another shape is counted by itself"


def test_results_are_the_callers_own(recorder: Recorder) -> None:
    weight, recordings = torch.tensor(1.0), Recordings()
    results = [recordings.run(scaled(weight), [torch.full((1,), float(i))], [weight])[0] for i in range(6)]
    assert torch.cat(results).tolist() == [0, 1, 2, 3, 4, 5]


def test_changed_weights_void_what_was_recorded(recorder: Recorder) -> None:
    weight, recordings, x = torch.tensor(1.0), Recordings(), torch.ones(1)
    for _ in range(5):
        recordings.run(scaled(weight), [x], [weight])
    weight.mul_(7)
    for expected in (1, 1, 1, 2):
        assert recordings.run(scaled(weight), [x], [weight])[0] == 7
        assert recorder.recorded == expected


def test_few_recordings_are_kept(recorder: Recorder) -> None:
    recordings, weight = Recordings(), torch.tensor(1.0)
    for size in range(1, 9):
        for _ in range(4):
            recordings.run(scaled(weight), [torch.ones(size)], [weight])
    assert recorder.recorded == 8
    recordings.run(scaled(weight), [torch.ones(8)], [weight])
    assert recorder.recorded == 8, "the newest is still there"
    recordings.run(scaled(weight), [torch.ones(1)], [weight])
    assert recorder.recorded == 9, "the oldest is not"


def test_what_cannot_be_recorded_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "record", refuse)
    weight, recordings, total = torch.tensor(2.0), Recordings(), torch.zeros(())
    assert [recordings.run(scaled(weight), [torch.ones(1)], [weight])[0].item() for _ in range(6)] == [2.0] * 6
    repeated = Repeated(lambda: total.add_(1), GPU)
    for _ in range(6):
        repeated()
    assert total == 6
    assert sum("No CUDA graph" in record.message for record in caplog.records) == 2


def test_every_step_is_done_once(recorder: Recorder) -> None:
    total = torch.zeros(())
    repeated = Repeated(lambda: total.add_(1), GPU)
    for done in range(1, 9):
        repeated()
        assert total == done
    assert (recorder.recorded, recorder.replayed) == (1, 5)


def test_a_copy_has_no_recordings(recorder: Recorder) -> None:
    recordings, weight = Recordings(), torch.tensor(1.0)
    for _ in range(5):
        recordings.run(scaled(weight), [torch.ones(1)], [weight])
    for twin in (copy.deepcopy(recordings), pickle.loads(pickle.dumps(recordings))):
        twin.run(scaled(weight), [torch.ones(1)], [weight])
    assert recorder.recorded == 1


def trained(device: str) -> ASTDetector:
    model = placed(build(tiny.config(), seed=0, backbone_weights=None), device)
    inputs = torch.randn(40, model.config.input_channels, *model.map_size, generator=torch.Generator().manual_seed(0))
    fit(model, PreparedParts(inputs.to(device), None), TrainingRecipe(epochs=3, precision="fp32"), seed=0)
    return model


def test_training_from_a_recording_is_the_same_to_the_bit(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained("cpu").state_dict()
    monkeypatch.setattr("ast_hf.training.Repeated", lambda step, device: Repeated(step, GPU))
    actual = trained("cpu").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in actual.items())
    assert recorder.recorded == 2, "teacher and student"


@pytest.mark.gpu
def test_training_from_a_recording_gives_what_a_cpu_gives() -> None:
    ours, expected = trained("cuda").state_dict(), trained("cpu").state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name].cpu(), tensor, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_from_a_recording_are_those_without(precision: str) -> None:
    model = placed(build(tiny.config(), seed=0, backbone_weights=None), "cuda")
    pictures = [tiny.picture(seed) for seed in range(48)]
    with model.computing_in(precision):  # type: ignore[arg-type]
        recorded = model.predict(pictures, batch_size=4)  # twelve batches, of which nine are replayed
        plain = [p for i in range(0, 48, 4) for p in copy.deepcopy(model).predict(pictures[i : i + 4], batch_size=4)]
    assert [p.score for p in recorded] == pytest.approx([p.score for p in plain], rel=1e-3)


@pytest.mark.gpu
def test_a_recording_follows_the_weights() -> None:
    model = placed(build(tiny.config(), seed=0, backbone_weights=None), "cuda")
    before = [model.predict(tiny.picture(0)).score for _ in range(6)]
    with torch.no_grad():
        model.student.tail.bias.add_(1)
    assert model.predict(tiny.picture(0)).score > max(before) + 0.1


@pytest.mark.gpu
def test_fp32_on_a_gpu_is_exact_and_repeatable() -> None:
    model = placed(build(tiny.config(), seed=0, backbone_weights=None), "cuda")
    on_cpu = copy.deepcopy(model).cpu()
    with model.computing_in("fp32"), on_cpu.computing_in("fp32"):
        scores = [model.predict(tiny.picture(0)).score for _ in range(3)]
        assert len(set(scores)) == 1
        assert scores[0] == pytest.approx(on_cpu.predict(tiny.picture(0)).score, rel=1e-4)
