"""Fixtures shared by all tests, and the walls between them and the user's own files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from hypothesis import settings
from safetensors import safe_open
from torch import Tensor

from tests.hub_server import Hub, logged_in

REPOSITORY = Path(__file__).resolve().parents[1]
# A name to tensors and settings.
Golden = Callable[[str], tuple[dict[str, Tensor], dict[str, str]]]

# Hypothesis' default deadline makes every property test a timed one, which fails on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def isolation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keeps the user's files and token out of tests, and all of them but those marked `network` off the Hub."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AST_HF_HOME", str(home / "ast_hf"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # huggingface_hub reads its variables once, when it is imported: the variables are for child processes.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "huggingface" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "huggingface" / "token"))
    if request.node.get_closest_marker("network") is None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(isolation: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this test's own, where it is logged in as "me"."""
    yield from logged_in(monkeypatch)


@pytest.fixture(scope="session")
def golden() -> Golden:
    """`golden("ast_rgb")` gives tensors and settings of tests/golden/ast_rgb.safetensors, anew at each call."""

    def read(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        with safe_open(REPOSITORY / "tests" / "golden" / f"{name}.safetensors", framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118

    return read


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measurement data and ImageNet trunks; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("AST_HF_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the measurement data: no folder {folder / 'data'} (AST_HF_SHARED says where it is)")
    return folder
