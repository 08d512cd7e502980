from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from ast_hf import ASTDetector, ASTError, CheckpointError, ConfigError, config, from_pretrained, hub
from ast_hf.calibration import Calibration
from tests import tiny
from tests.hub_server import Hub, logged_in

METRICS = {"dataset": "mvtec_ad", "category": "bottle", "figures": {"image_auroc": 0.9987654321}}


def make_model(seed: int = 0, modality: str = "rgb") -> ASTDetector:
    torch.manual_seed(seed)
    model = ASTDetector(tiny.config(modality))
    model.calibration = Calibration((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    return model


def score(model: ASTDetector) -> float:
    return model.predict(tiny.picture(0)).score


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from logged_in(monkeypatch)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's assets and the working directory, both empty."""
    monkeypatch.setattr(hub, "_ASSETS", tmp_path / "assets")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "assets"


def in_new_process(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**variables, **environment})


LOAD = """
import os, sys, ast_hf
from tests import tiny
for revision in [None, *sys.argv[2:]]:
    model = ast_hf.from_pretrained(sys.argv[1], revision=revision, device="cpu")
    print(model.predict(tiny.picture(0)).score.hex())
if sys.argv[2:]:
    ast_hf.from_pretrained(sys.argv[1], cache_dir=os.environ["HF_HOME"] + "/empty")
"""


def test_push_then_pull_in_a_new_process_and_without_the_hub(
    server: Hub, tmp_path: Path, machine_arithmetic: None
) -> None:
    model = make_model()
    commit = model.push_to_hub("org/part", private=True)
    assert server.repos["org/part"].private
    assert set(server.repos["org/part"].commits[commit.oid]) >= {"config.json", "model.safetensors", "README.md"}
    online = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": "me", "HF_HOME": str(tmp_path / "hf")}
    first = in_new_process(LOAD, "org/part", **online)
    assert first.stdout.split() == [score(model).hex()], first.stderr
    assert any("ast-hf/" in agent for _, path, agent in server.requests if path.endswith("model.safetensors"))
    server.shutdown()
    server.server_close()
    down = in_new_process(LOAD, "org/part", commit.oid, **online)
    assert down.stdout.split() == 2 * [score(model).hex()], "from the cache, pinned and not"
    assert "could not be reached for org/part" in down.stderr.splitlines()[-1], "with an empty cache"


def test_a_pinned_revision_stays(server: Hub) -> None:
    first, second = make_model(1), make_model(2)
    pin = first.push_to_hub("org/part").oid
    newest = second.push_to_hub("org/part").oid
    assert newest != pin
    assert score(from_pretrained("org/part", device="cpu")) == score(second)
    assert score(from_pretrained("org/part", revision=pin, device="cpu")) == score(first)
    assert second.push_to_hub("org/part").oid == newest, "nothing new is no new commit"


def test_what_a_later_push_lacks_is_removed(server: Hub) -> None:
    model = make_model()
    model.metrics = METRICS
    model.push_to_hub("org/part", half_precision=True)
    assert from_pretrained("org/part").metrics == METRICS
    model.calibration = model.metrics = None
    model.push_to_hub("org/part", include_backbone=False)
    tree = server.repos["org/part"].commits[server.repos["org/part"].refs["main"]]
    assert set(tree) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    hub.store_backbone(model.backbone)
    assert score(from_pretrained("org/part", device="cpu")) == score(model)


def test_an_edited_card_is_kept_and_another_written_again(server: Hub, tmp_path: Path) -> None:
    model = make_model()
    model.metrics = METRICS
    tiny.picture(0).save(tmp_path / "map.png")
    model.push_to_hub("org/part", picture=tmp_path / "map.png")
    card = ModelCard.load("org/part")
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == list(METRICS["figures"].items())
    assert "heat_map.png" in card.text
    model.metrics = {**METRICS, "figures": {"image_auroc": 0.5}}
    model.push_to_hub("org/part")
    card = ModelCard.load("org/part", token="me")
    assert [r.metric_value for r in card.data.eval_results] == [0.5]
    card.text += "\nTaken with camera 7.\n"
    HfApi().upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="org/part")
    make_model(3).push_to_hub("org/part")
    tree = server.repos["org/part"].commits[server.repos["org/part"].refs["main"]]
    assert tree["README.md"].decode() == str(card)
    assert score(from_pretrained("org/part", device="cpu")) == score(make_model(3))


def test_what_the_hub_refuses_is_a_sentence_each(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("org/private", private=True)
    server.add("org/gated", gated=True)
    server.add("org/empty")
    server.add("org/pickle", {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n"})
    monkeypatch.delenv("HF_TOKEN")
    expected = {
        "org/missing": "There is no model .*/org/missing",
        "org/private": "org/private is private or does not exist: log in",
        "org/gated": "org/gated is gated: accept its terms",
        "org/empty": r"org/empty has no config\.json",
        "org/pickle": r"no model\.safetensors; pytorch_model\.bin is a pickle",
        "org/bad..name": "neither a folder nor a name",
    }
    for repo_id, message in expected.items():
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(repo_id)
    with pytest.raises(CheckpointError, match="org/empty has no revision v9"):
        from_pretrained("org/empty", revision="v9")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        from_pretrained("org/private", token="me")
    assert not any(path.endswith(".bin") for _, path, _ in server.requests)
    with pytest.raises(CheckpointError, match="refuses org/new"):
        make_model().push_to_hub("org/new", token=False)
    with pytest.raises(CheckpointError, match=r"refuses strangers/new to this token \(403\)"):
        make_model().push_to_hub("strangers/new", token="me")


def test_switched_off_hub_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"switched off and org/part is not in .*HF_HUB_OFFLINE"):
        from_pretrained("org/part")
    with pytest.raises(CheckpointError, match="The Hub is switched off"):
        make_model().push_to_hub("org/part")


def test_damage_on_the_hub_is_refused_as_on_disk(server: Hub, tmp_path: Path) -> None:
    make_model(0).save_pretrained(tmp_path / "a")
    make_model(0, "rgb+depth").save_pretrained(tmp_path / "b")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    server.add("org/mixed", {**files, "config.json": (tmp_path / "b" / "config.json").read_bytes()})
    server.add("org/cut", {**files, "model.safetensors": files["model.safetensors"][:-100]})
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        from_pretrained("org/mixed")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        from_pretrained("org/cut")


def test_names_are_looked_for_in_order(
    names: Path, server: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "ast_hf.hub")
    monkeypatch.setenv("AST_HF_ORG", "org")
    make_model(1).push_to_hub("org/ast-visa-fryum")
    assert score(from_pretrained("ast-visa-fryum", device="cpu")) == score(make_model(1))
    assert "org/ast-visa-fryum: commit" in caplog.text
    hub.store(make_model(2), "ast-visa-fryum")
    assert score(from_pretrained("ast-visa-fryum", device="cpu")) == score(make_model(2))
    assert str(hub.home()) in caplog.text
    make_model(3).save_pretrained(names / "checkpoints" / "ast-visa-fryum")
    assert score(from_pretrained("ast-visa-fryum", device="cpu")) == score(make_model(3))
    pulled = from_pretrained("ast-visa-fryum", revision="main", device="cpu")
    assert score(pulled) == score(make_model(1)), "a revision asks the Hub alone"
    assert hub.available_checkpoints() == ["ast-visa-fryum"]
    Path("ast-visa-fryum").mkdir()
    assert hub.find_checkpoint("ast-visa-fryum").parent == names / "checkpoints", "a folder without a detector is none"
    make_model(4).save_pretrained(Path("org/ast-visa-fryum"))
    assert score(from_pretrained("org/ast-visa-fryum", revision="main", device="cpu")) == score(make_model(1))
    assert score(from_pretrained("org/ast-visa-fryum", device="cpu")) == score(make_model(4))


def test_the_alias_table_pins(names: Path, server: Hub) -> None:
    pin = make_model(1).push_to_hub("other/fryum-v2").oid
    make_model(2).push_to_hub("other/fryum-v2")
    names.mkdir()
    (names / "aliases.json").write_text(json.dumps({"fryum": {"repo": "other/fryum-v2", "revision": pin}}))
    assert score(from_pretrained("fryum", device="cpu")) == score(make_model(1))
    with pytest.raises(CheckpointError, match=r"no model .*/ast-hf/ast-loco-pushpins.*There is no .*ast-loco-pushpins"):
        from_pretrained("ast-loco-pushpins")


def test_unknown_and_ambiguous_names_say_what_to_type(names: Path, tmp_path: Path) -> None:
    hub.store(make_model(), "mine")
    with pytest.raises(
        CheckpointError, match=r"no detector bottle: .*bottle is not a folder.*Type one of mine, ORG/NAME"
    ):
        from_pretrained("bottle")
    make_model().save_pretrained("mine")
    with pytest.raises(CheckpointError, match=r"both a folder here and .*checkpoints/mine: type \./mine"):
        from_pretrained("mine")
    assert score(from_pretrained("./mine", device="cpu")) == score(from_pretrained(Path("mine"), device="cpu"))
    shutil.move("mine", "bottle")
    assert score(from_pretrained("bottle", device="cpu")) == score(make_model())
    with pytest.raises(CheckpointError, match="has no revision v1"):
        from_pretrained("./bottle", revision="v1")
    for path in ("/no/where", "~/no/where", "no/where/at/all", "no\\where", "no/"):
        with pytest.raises(CheckpointError, match="not a folder"):
            from_pretrained(path)


def test_the_store_shares_backbones_and_works_offline(names: Path) -> None:
    models = [make_model(0), make_model(0)]
    with torch.no_grad():
        models[1].student.head.weight.zero_()
    for model, name in zip(models, ("ast-mvtec-bottle", "ast-mvtec-cable"), strict=True):
        hub.store(model, name)
    hub.store(models[1], "ast-mvtec-cable")
    assert len(list((hub.home() / "backbones").iterdir())) == 1
    assert sorted(p.name for p in (hub.home() / "checkpoints").iterdir()) == ["ast-mvtec-bottle", "ast-mvtec-cable"]
    for model, name in zip(models, hub.available_checkpoints(), strict=True):
        assert score(from_pretrained(name, device="cpu")) == score(model)
    next((hub.home() / "backbones").iterdir()).unlink()
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        from_pretrained("ast-mvtec-bottle")


def test_store_takes_folders_and_refuses_the_rest(names: Path, tmp_path: Path) -> None:
    make_model(5).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(METRICS))
    hub.store(tmp_path / "model", "mine")
    assert from_pretrained("mine").metrics == METRICS
    (tmp_path / "model" / "metrics.json").write_text("[]")
    for source, name in ((tmp_path / "model", "mine"), (tmp_path / "none", "mine"), (tmp_path / "model", "../mine")):
        with pytest.raises(CheckpointError):
            hub.store(source, name)
    assert from_pretrained("mine").metrics == METRICS
    assert hub.available_checkpoints() == ["mine"]


@pytest.mark.parametrize("digest", [None, "", "../../../../etc/passwd", "f" * 64])
def test_no_backbone_outside_of_the_store(digest: str | None) -> None:
    assert hub.find_backbone(digest) is None


def test_old_configurations_are_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = tiny.config().to_dict()
    monkeypatch.setattr(config, "CONFIG_VERSION", 3)
    steps: dict[int, Any] = {
        1: lambda fields: {"width" if k == "student_channels" else k: v for k, v in fields.items()},
        2: lambda fields: {
            "student_channels" if k == "width" else k: 2 * v if k == "width" else v for k, v in fields.items()
        },
    }
    monkeypatch.setattr(config, "UPGRADES", steps)
    assert config.ASTDetectorConfig.from_dict(now) == tiny.config(student_channels=16)
    for version in (0, 4, "1", None, [1]):
        with pytest.raises(ConfigError, match="config_version"):
            config.ASTDetectorConfig.from_dict({**now, "config_version": version})


def test_a_configuration_cannot_send_timm_elsewhere() -> None:
    for name in ("hf-hub:someone/else", "local-dir:/tmp", "a/b"):
        with pytest.raises(ASTError, match="backbone"):
            tiny.config(backbone=name)
