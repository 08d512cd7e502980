"""Small detectors in a store of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ast_hf import ASTDetector
from ast_hf.calibration import Calibration
from ast_hf.hub import store
from ast_hf.training import build
from tests import tiny


@pytest.fixture(scope="session")
def make_detector() -> Callable[..., ASTDetector]:
    """`make_detector("rgb")`: an untrained detector, calibrated with made-up scores unless told otherwise."""

    def make(modality: str = "rgb", *, calibrated: bool = True) -> ASTDetector:
        model = build(tiny.config(modality), 0, backbone_weights=None)
        if calibrated:
            scores = tuple(0.1 * i for i in range(1, 21))
            model.calibration = Calibration(scores, tuple(2 * score for score in scores))
        return model

    return make


@pytest.fixture
def stored(make_detector: Callable[..., ASTDetector]) -> None:
    """The test's store holds the detectors "plate" (pictures) and "box" (pictures and scans)."""
    store(make_detector("rgb"), "plate")
    store(make_detector("rgb+depth"), "box")
