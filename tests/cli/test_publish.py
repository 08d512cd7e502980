"""Giving a detector to others from the command line."""

import pytest

from ast_hf.cli import main
from tests import tiny
from tests.hub_server import Hub


@pytest.mark.parametrize(("more", "name"), [([], "model"), (["--name", "plate", "--private"], "plate")])
def test_push_uploads_a_detector(
    hub: Hub, model: str, more: list[str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert main(["push", model, "--org", "org", *more]) == 0
    assert f"Pushed to {hub.endpoint}/org/{name}/commit/" in caplog.text
    assert hub.repos[f"org/{name}"].private == ("--private" in more)
    assert tiny.score(f"org/{name}") == tiny.score(model)
    assert main(["push", model, "--org", "strangers"]) == 2 and "refuses strangers/model" in caplog.text
