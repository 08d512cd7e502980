"""What the verbs of the command line are tried with."""

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A detector's folder."""
    tiny.detector().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")
