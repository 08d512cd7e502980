"""Names and where they lead: the package, the local store, the alias table, the Hub, folders."""

import json
import logging
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from ast_hf import CheckpointError, from_pretrained
from ast_hf.errors import OutputError
from ast_hf.files import home
from ast_hf.hub import available_checkpoints, find_checkpoint, names, store
from tests import tiny
from tests.hub_server import Hub


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's assets and the working directory, both empty."""
    monkeypatch.setattr(names, "_ASSETS", tmp_path / "assets")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "assets").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "assets"


def test_names_are_looked_for_in_order(assets: Path, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ast_hf.hub")
    name, detectors = "ast-visa-fryum", {seed: tiny.detector(seed=seed) for seed in range(1, 5)}
    detectors[1].push_to_hub(f"ast-hf/{name}")
    assert tiny.score(name) == tiny.score(detectors[1])
    assert f"ast-hf/{name}: commit" in caplog.text
    detectors[3].save_pretrained(assets / "checkpoints" / name)
    assert tiny.score(name) == tiny.score(detectors[3])
    store(detectors[2], name)  # what someone has trained goes above what comes with the package
    assert tiny.score(name) == tiny.score(detectors[2])
    assert str(home()) in caplog.text
    assert tiny.score(name, revision="main") == tiny.score(detectors[1]), "a revision asks the Hub alone"
    Path(name).mkdir()
    assert find_checkpoint(name).parent == home() / "checkpoints", "a folder without a detector is none"
    detectors[4].save_pretrained(Path("ast-hf") / name)
    assert tiny.score(f"ast-hf/{name}") == tiny.score(detectors[4])
    assert tiny.score(f"ast-hf/{name}", revision="main") == tiny.score(detectors[1])


def test_the_alias_table_pins(assets: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tiny.detector(seed=1), tiny.detector(seed=2)
    entry = {"repo": "other/fryum-v2", "revision": first.push_to_hub("other/fryum-v2").oid}
    second.push_to_hub("other/fryum-v2")
    (assets / "aliases.json").write_text(json.dumps({"fryum": entry}))
    assert tiny.score("fryum") == tiny.score(first)
    monkeypatch.setenv("AST_HF_ORG", "org")
    second.push_to_hub("org/fryum")
    assert tiny.score("fryum") == tiny.score(second)
    with pytest.raises(CheckpointError, match=r"no model .*/org/ast-loco-pushpins.*There is no .*ast-loco-pushpins"):
        from_pretrained("ast-loco-pushpins")


def test_unknown_and_ambiguous_names_say_what_to_type(assets: Path) -> None:
    detector = tiny.detector()
    store(detector, "mine")
    with pytest.raises(CheckpointError, match=r"no detector bottle: .*not a folder.*Type one of mine, ORG/NAME"):
        from_pretrained("bottle")
    for name in ("mine", "bottle"):
        detector.save_pretrained(name)
    with pytest.raises(CheckpointError, match=r"both a folder here and .*checkpoints/mine: type \./mine"):
        from_pretrained("mine")
    assert tiny.score("./mine") == tiny.score(Path("mine")) == tiny.score("bottle") == tiny.score(detector)
    with pytest.raises(CheckpointError, match="has no revision v1"):
        from_pretrained("./bottle", revision="v1")
    for path in ("/no/where", "~/no/where", "no/where/at/all", "no\\where", "no/"):
        with pytest.raises(CheckpointError, match="not a folder"):
            from_pretrained(path)


def test_the_store_shares_backbones_and_works_offline(assets: Path) -> None:
    detectors = {name: tiny.detector() for name in ("ast-mvtec-bottle", "ast-mvtec-cable")}
    detectors["ast-mvtec-cable"].student.conv_in.weight.data.zero_()
    for name, detector in [*detectors.items(), *detectors.items()]:  # again, which replaces the first
        store(detector, name)
    assert available_checkpoints() == sorted(os.listdir(home() / "checkpoints")) == list(detectors)
    assert list(map(tiny.score, detectors)) == list(map(tiny.score, detectors.values()))
    next((home() / "backbones").glob("*")).unlink()  # the only one
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        from_pretrained("ast-mvtec-bottle")


def test_store_takes_folders_and_refuses_the_rest(assets: Path, tmp_path: Path) -> None:
    metrics, model = {"dataset": "mvtec_ad"}, tmp_path / "model"
    tiny.detector().save_pretrained(model)
    store(model, "mine", metrics)
    (model / "metrics.json").write_text("[]")
    for source, name in ((model, "mine"), (tmp_path / "none", "mine"), (model, "../mine")):
        with pytest.raises(CheckpointError):
            store(source, name)
    assert from_pretrained("mine").metrics == metrics and available_checkpoints() == ["mine"]


def test_a_crash_while_a_detector_is_replaced_loses_nothing(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, target = tiny.detector(seed=1), tiny.detector(seed=2), home() / "checkpoints" / "mine"
    store(old, "mine")
    replace = os.replace

    def crash(source: Path, destination: Path) -> None:
        if Path(destination) == target:  # the old one has been moved away, the new one is not there yet
            raise KeyboardInterrupt
        replace(source, destination)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", crash)
        store(new, "mine")
    assert not target.exists()
    assert tiny.score("mine") == tiny.score(old)
    assert available_checkpoints() == ["mine"]
    store(new, "mine")
    assert tiny.score("mine") == tiny.score(new)
    assert os.listdir(target.parent) == ["mine"]


def test_arguments_do_what_they_do_elsewhere_or_are_refused(assets: Path, hub: Hub, tmp_path: Path) -> None:
    detector = tiny.detector()
    detector.save_pretrained("here/sub")
    store(detector, "mine")
    hub.add("org/name", {f"sub/{path.name}": path.read_bytes() for path in Path("here/sub").iterdir()})
    options = {"subfolder": "sub", "cache_dir": tmp_path / "cache"}
    for name in ("mine", "./here", Path("here"), "org/name"):
        with pytest.raises(TypeError, match=r"no argument devcie, torch_dtype\. It has .*dtype"):
            from_pretrained(name, torch_dtype=torch.float16, devcie="meta")
        if name != "mine":
            assert tiny.score(name, **options) == tiny.score(detector)
    assert tiny.score("org/name", local_files_only=True, **options) == tiny.score(detector)
    with pytest.raises(CheckpointError, match="org/name"):
        from_pretrained("org/name", local_files_only=True, subfolder="sub")  # in the cache that is not meant
    with pytest.raises(CheckpointError, match="mine/sub is not a folder"):
        from_pretrained("mine", subfolder="sub")
    assert from_pretrained("mine", dtype=torch.float16).teacher.state_dict().popitem()[1].dtype == torch.float16


@pytest.mark.parametrize("home_folder", [None, "file"])
def test_the_packages_detectors_need_no_home(
    home_folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AST_HF_HOME")
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR"):  # nor a name for torch to ask for
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file")) if home_folder else monkeypatch.delenv("HOME")
    assert from_pretrained("demo-carpet").calibration is not None and "demo-carpet" in available_checkpoints()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"]
    with pytest.raises(OutputError, match="set AST_HF_HOME"):
        store(tiny.detector(), "mine")


@pytest.mark.parametrize("digest", [None, "", "../../../../etc/passwd", "f" * 64])
def test_no_backbone_outside_of_the_store(digest: str | None) -> None:
    assert names.find_backbone(digest) is None
