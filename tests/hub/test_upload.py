"""To the Hub and back, against a Hub on loopback, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from ast_hf import CheckpointError, from_pretrained
from ast_hf.hub.names import store_backbone
from tests import tiny
from tests.hub_server import Hub, Tree

METRICS = {"dataset": "mvtec_ad", "category": "bottle", "figures": {"image_auroc": 0.9987654321}}
LOAD = """
import os, sys, ast_hf
from tests import tiny
for revision in [None, *sys.argv[2:]]:
    print(tiny.score(sys.argv[1], revision=revision).hex())
if sys.argv[2:]:
    ast_hf.from_pretrained(sys.argv[1], cache_dir=os.environ["HF_HOME"] + "/empty")
"""


def newest(hub: Hub, repo_id: str) -> Tree:
    return hub.repos[repo_id].commits[hub.repos[repo_id].refs["main"]]


def test_push_then_pull_in_a_new_process_and_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    online = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "me", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}

    def pull(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOAD, "org/part", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **online})

    detector = tiny.detector()
    commit = detector.push_to_hub("org/part", private=True)
    assert hub.repos["org/part"].private
    assert set(newest(hub, "org/part")) >= {"config.json", "model.safetensors", "README.md"}
    first = pull()
    assert first.stdout.split() == [tiny.score(detector).hex()], first.stderr
    assert any("ast-hf/" in agent for _, path, agent in hub.requests if path.endswith("model.safetensors"))
    hub.shutdown()
    hub.server_close()
    down = pull(commit.oid)
    assert down.stdout.split() == 2 * [tiny.score(detector).hex()], "from the cache, pinned and not"
    assert "could not be reached for org/part" in down.stderr.splitlines()[-1], "with an empty cache"


def test_what_a_later_push_lacks_is_removed(hub: Hub) -> None:
    detector = tiny.detector()
    detector.metrics = METRICS
    detector.push_to_hub("org/part", half_precision=True)
    assert from_pretrained("org/part").metrics == METRICS
    detector.calibration = detector.metrics = None
    detector.push_to_hub("org/part", include_backbone=False)
    assert set(newest(hub, "org/part")) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    store_backbone(detector.backbone)
    assert tiny.score("org/part") == tiny.score(detector)


def test_an_edited_card_is_kept_and_another_written_again(hub: Hub, tmp_path: Path) -> None:
    detector = tiny.detector()
    detector.metrics = METRICS
    tiny.picture(0).save(tmp_path / "map.png")
    detector.push_to_hub("org/part", picture=tmp_path / "map.png")
    card = ModelCard.load("org/part")
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == list(METRICS["figures"].items())
    assert "heat_map.png" in card.text
    detector.metrics = {**METRICS, "figures": {"image_auroc": 0.5}}
    commit = detector.push_to_hub("org/part").oid
    assert detector.push_to_hub("org/part").oid == commit, "nothing new is no new commit"
    card = ModelCard.load("org/part", token="me")
    assert [r.metric_value for r in card.data.eval_results] == [0.5]
    card.text += "\nTaken with camera 7.\n"
    HfApi().upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="org/part")
    tiny.detector(seed=3).push_to_hub("org/part")
    assert newest(hub, "org/part")["README.md"].decode() == str(card)
    assert tiny.score("org/part") == tiny.score(tiny.detector(seed=3))


def test_what_the_hub_refuses_is_a_sentence_each(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", private=True)
    hub.add("org/gated", gated=True)
    hub.add("org/empty")
    hub.add("org/pickle", {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n"})
    monkeypatch.delenv("HF_TOKEN")
    for repo_id, options, message in (
        ("org/missing", {}, "There is no model .*/org/missing"),
        ("org/private", {}, "org/private is private or does not exist: log in"),
        ("org/private", {"token": "me"}, r"no config\.json"),
        ("org/gated", {}, "org/gated is gated: accept its terms"),
        ("org/empty", {}, r"org/empty has no config\.json"),
        ("org/empty", {"revision": "v9"}, "org/empty has no revision v9"),
        ("org/pickle", {}, r"no model\.safetensors; pytorch_model\.bin is a pickle"),
        ("org/bad..name", {}, "neither a folder nor a name"),
    ):
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(repo_id, **options)
    assert not any(path.endswith(".bin") for _, path, _ in hub.requests)
    for repo_id, token, message in (("org/new", False, "refuses org/new"), ("strangers/new", "me", r"token \(403\)")):
        with pytest.raises(CheckpointError, match=message):
            tiny.detector().push_to_hub(repo_id, token=token)


def test_switched_off_hub_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"switched off and org/part is not in .*HF_HUB_OFFLINE"):
        from_pretrained("org/part")
    with pytest.raises(CheckpointError, match="The Hub is switched off"):
        tiny.detector().push_to_hub("org/part")
