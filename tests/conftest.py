"""Fixtures shared by all tests, and the walls between them and the user's own settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from hypothesis import settings
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"

# Hypothesis' default deadline makes every property test a timed one, which fails on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def isolation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keeps the user's files and token and the machine's arithmetic out of tests, and all but `network` off the Hub."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AST_HF_HOME", str(home / "ast_hf"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # huggingface_hub reads its variables once, when it is imported: the variables are for child processes.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "huggingface" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "huggingface" / "token"))
    # Figures are exact, and the same on every machine; but for the tests that compare with another process.
    if "machine_arithmetic" not in request.fixturenames:
        monkeypatch.setattr("ast_hf.arithmetic.has_fast_bf16", lambda device: False)
    if request.node.get_closest_marker("network") is None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def machine_arithmetic() -> None:
    """Leaves a test the arithmetic that the library chooses on this machine: bf16 where that is faster."""


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """`golden("ast_rgb")` gives the tensors of tests/golden/ast_rgb.safetensors, anew at each call."""
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden_metadata() -> Callable[[str], dict[str, str]]:
    """`golden_metadata("ast_rgb")` gives the settings behind those tensors, as strings."""

    def read(name: str) -> dict[str, str]:
        with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
            return file.metadata() or {}

    return read


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measurement data and ImageNet trunks; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("AST_HF_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the measurement data: no folder {folder / 'data'} (AST_HF_SHARED says where it is)")
    return folder
