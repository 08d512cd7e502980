"""Distillation on a tiny scale: it learns, goes on after a break, and its weights load as the backbone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from ast_hf import tiny
from ast_hf.backbone import FeatureExtractor
from ast_hf.distill import __main__ as command
from ast_hf.distill.chunks import CHUNK, Teacher, chunk_path, load_chunk, write_chunks
from ast_hf.distill.learning import RECORD, STATE, WEIGHTS, Learning, distill, principal_head
from ast_hf.images import normalize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", pretrained=False)
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("classifier")}
    save_file(weights, folder / "teacher.safetensors")
    return Teacher("mobilenetv3_small_050", ("blocks.1", "blocks.5"), str(folder / "teacher.safetensors"), size=32)


@pytest.fixture(scope="module")
def run(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two chunks, where six steps were made."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "pictures").mkdir()
    write_chunks(folder / "pictures", teacher, 1, "cpu")
    distill(folder, teacher, Learning(steps=6, batch_size=8, chunks=1), CPU)
    return folder


def test_features_of_all_layers_lie_side_by_side_on_the_small_trunks_map(teacher: Teacher, run: Path) -> None:
    pictures, features = load_chunk(run / "pictures", 1)
    assert pictures.shape == (CHUNK, 3, 32, 32) and pictures.dtype == torch.uint8
    deep = FeatureExtractor(teacher.backbone, "blocks.5", weights=teacher.weights)
    shallow = FeatureExtractor(teacher.backbone, "blocks.1", weights=teacher.weights)
    channels = [network.output_shape(32)[0] for network in (shallow, deep)]
    assert features.shape == (CHUNK, sum(channels), 1, 1)


def test_it_learns(teacher: Teacher, run: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").symlink_to(run / "pictures")
    distill(tmp_path, teacher, Learning(steps=60, batch_size=8, chunks=1), CPU)
    curve = json.loads((tmp_path / RECORD).read_text())["curve"]
    assert curve[-1]["step"] == 60
    assert curve[-1]["loss"] < json.loads((run / RECORD).read_text())["curve"][0]["loss"]


def test_a_run_goes_on_from_where_it_was_saved(teacher: Teacher, run: Path) -> None:
    distill(run, teacher, Learning(steps=8, batch_size=8, chunks=1), CPU)
    record = json.loads((run / RECORD).read_text())
    assert [entry["step"] for entry in record["curve"]] == [6, 8]
    assert torch.load(run / STATE, weights_only=True)["step"] == 8
    assert record["teacher"]["weights"] == "teacher.safetensors"  # no path of the machine that made it
    assert load_file(run / WEIGHTS)["head.weight"].dtype == torch.float16


def test_the_saved_head_gives_uncorrelated_channels(teacher: Teacher, run: Path) -> None:
    torch.manual_seed(0)
    network = tiny.TinyTrunk(96).eval()  # as learnt; batch norms as they come will do
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = network.state_dict() | principal_head(run, network, channels=8)
    projected = tiny.TinyTrunk(8).eval()
    projected.load_state_dict(weights)
    pictures = normalize(load_chunk(run / "pictures", 0)[0])
    with torch.no_grad():
        outputs = projected(pictures).permute(0, 2, 3, 1).flatten(0, 2).double()
    torch.testing.assert_close(torch.cov(outputs.T), torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-3)
    assert outputs.mean(0).abs().max() < 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_last_steps_see_fixed_statistics(teacher: Teacher, tmp_path: Path, run: Path) -> None:
    (tmp_path / "pictures").symlink_to(run / "pictures")
    distill(tmp_path, teacher, Learning(steps=10, batch_size=8, chunks=1), CPU)
    assert torch.load(tmp_path / STATE, weights_only=True)["network"]["stem.1.num_batches_tracked"] == 7


def test_missing_chunks_are_drawn_again_with_the_same_bytes(teacher: Teacher, run: Path) -> None:
    path = chunk_path(run / "pictures", 1)
    before = path.read_bytes()
    path.unlink()
    write_chunks(run / "pictures", teacher, 1, "cpu")
    assert path.read_bytes() == before


def test_teacher_weights_that_are_not_there_end_with_a_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "none.safetensors")
    arguments = ["distill", str(tmp_path / "run"), "--teacher-weights", missing, "--device", "cpu"]
    monkeypatch.setattr("sys.argv", arguments)
    assert command.main() == 2
    assert "No pictures could be prepared" in caplog.text


def test_the_trunk_is_a_backbone_like_any_other() -> None:
    trunk = tiny.TinyTrunk()
    backbone = FeatureExtractor(tiny.NAME, "head", weights=None)
    assert backbone.output_shape(384) == (trunk.head.out_channels, 12, 12)
    features = backbone(torch.rand(2, 3, 64, 96))
    assert features.shape == (2, trunk.head.out_channels, 2, 3) and features.dtype == torch.float32


def test_batch_norm_is_folded_away() -> None:
    backbone = FeatureExtractor(tiny.NAME, "head", weights=None)
    backbone(torch.rand(1, 3, 64, 64))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone._fast[torch.float32].modules())


def test_nothing_more_is_drawn_once_the_learning_process_is_gone(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(is_alive=lambda: False))
    write_chunks(tmp_path, teacher, 3, "cpu")
    assert not list(tmp_path.iterdir())
