"""Detectors by name: loaded once, a few kept, and one run at a time on the device."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ast_hf.calibration import Calibration
from ast_hf.checkpoint import CONFIG_NAME
from ast_hf.demo.uploads import DemoError
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.hub import available_checkpoints, find_checkpoint
from ast_hf.model import ASTDetector
from ast_hf.prediction import Prediction

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def on_gpu(function: _Function, *, seconds: int = 60) -> _Function:
    """Asks a ZeroGPU Space for a GPU while the function runs, and does nothing elsewhere."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=seconds)(function)


class Detectors:
    """The detectors that everyone may use, by name, and visitors' own, by the folder of their checkpoint.

    Args:
        hub_names: Detectors of the Hub ("org/name") to offer beside those that are here.
        keep: How many stay in memory, those used last.

    Attributes:
        device: Held by whoever computes.
    """

    def __init__(self, hub_names: Sequence[str] = (), *, keep: int = 4) -> None:
        self.device = threading.Lock()
        self._hub_names = list(hub_names)
        self._keep = keep
        self._loaded: OrderedDict[str | Path, ASTDetector] = OrderedDict()
        self._lock = threading.Lock()
        # One a name, so that a Hub that does not answer keeps nobody from the other detectors.
        self._loading: defaultdict[str | Path, threading.Lock] = defaultdict(threading.Lock)
        # On ZeroGPU this runs in another process: names, pictures and arrays go in and out, never a network.
        self._run = on_gpu(self._predict)

    def names(self, *, with_scan: bool) -> list[str]:
        """Detectors that take a scan, or those that take a picture alone; of the Hub's it is not known before."""
        return [name for name in available_checkpoints() if _takes_scan(name) == with_scan] + self._hub_names

    def predict(
        self, key: str | Path, images: Sequence[Image.Image | None], scans: Sequence[np.ndarray] | None = None
    ) -> tuple[list[Prediction], Calibration]:
        """Scores parts, and says what the detector knows about good ones.

        Args:
            key: A name, or the folder of a visitor's own detector.
            images: As `uploads.read_picture` gives them.
            scans: As `uploads.read_cloud` gives them, one a picture.

        Raises:
            DemoError: The detector cannot be had, or a part does not fit it.
        """
        if self.load(key).config.uses_depth and scans is None:
            raise DemoError("This detector needs the point cloud of the part as well.")
        try:
            with self.device:
                return self._run(key, list(images), None if scans is None else list(scans))
        except ImageReadError as error:
            raise DemoError(f"This does not go together: {error.reason}.") from error

    def load(self, key: str | Path) -> ASTDetector:
        """The detector, from memory where it is there; raises `DemoError` where it cannot be had."""
        with self._lock:
            one_at_a_time = self._loading[key]
        with one_at_a_time:
            with self._lock:
                if key in self._loaded:
                    self._loaded.move_to_end(key)
                    return self._loaded[key]
            model = _load(key)
            with self._lock:
                self._loaded[key] = model
                while len(self._loaded) > self._keep:
                    self._loading.pop(self._loaded.popitem(last=False)[0], None)
            return model

    def forget(self, key: str | Path) -> None:
        """Drops a visitor's detector from memory."""
        with self._lock:
            self._loaded.pop(key, None)
            self._loading.pop(key, None)

    def warm(self, name: str) -> None:
        """Loads a detector and runs it once, so that the first visitor does not wait for it."""
        try:
            self.predict(name, [Image.new("RGB", (64, 64))])[1].threshold()
        except ASTError as error:
            _LOG.warning("%s is not ready: %s", name, error)

    def _predict(
        self, key: str | Path, images: list[Image.Image | None], scans: list[np.ndarray] | None
    ) -> tuple[list[Prediction], Calibration]:
        model = self.load(key)
        assert model.calibration is not None  # _load has seen to it
        return model.predict(images, scans), model.calibration


def _load(key: str | Path) -> ASTDetector:
    name = key if isinstance(key, str) else "Your detector"
    try:
        model = ASTDetector.from_pretrained(key)
    except ASTError as error:
        _LOG.warning("%s: %s", name, error)
        where = "the Hub cannot be reached or does not have it" if "/" in name else "its files cannot be read"
        raise DemoError(f"{name} is not to be had just now ({where}). The other detectors work: choose one.") from error
    if model.calibration is None:
        raise DemoError(f"{name} was saved without a calibration, so it has no threshold: choose another one.")
    return model


def _takes_scan(name: str) -> bool:
    try:
        config = json.loads((find_checkpoint(name) / CONFIG_NAME).read_text("utf-8"))
        return config["modality"] != "rgb"
    except (ASTError, OSError, ValueError, TypeError, KeyError):
        return False  # loading it says what is wrong
