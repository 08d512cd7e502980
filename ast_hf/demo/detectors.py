"""Detectors by name: loaded once, a few kept, and one run at a time on the device."""

import json
import logging
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ast_hf.demo.uploads import DemoError
from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.hub.checkpoint import CONFIG_NAME
from ast_hf.hub.names import available_checkpoints, find_checkpoint
from ast_hf.inference import Calibration, Prediction, Predictor

Key: TypeAlias = str | Path  # a detector's name, or the folder of a visitor's own
_LOG = logging.getLogger(__name__)


def on_gpu(*, seconds: int) -> Callable[..., Any]:
    """Decorates a function so that a ZeroGPU Space lends it a GPU while it runs; elsewhere it stays as it is."""
    try:
        import spaces
    except ImportError:
        return lambda function: function
    return spaces.GPU(duration=seconds)


def load_predictor(key: Key) -> Predictor:
    """Loads a detector; raises `DemoError` where it cannot be had or has no calibration."""
    name = key if isinstance(key, str) else "Your detector"
    try:
        predictor = Predictor(ASTDetector.from_pretrained(key))
    except ASTError as error:
        _LOG.warning("%s: %s", name, error)
        where = "the Hub cannot be reached or does not have it" if "/" in name else "its files cannot be read"
        raise DemoError(f"{name} is not to be had just now ({where}). The other detectors work: choose one.") from error
    if predictor.calibration is None:
        raise DemoError(f"{name} was saved without a calibration, so it has no threshold: choose another one.")
    return predictor


class Detectors:
    """The detectors that everyone may use, by name, and visitors' own, by the folder of their checkpoint.

    Those called `hub_names` ("org/name") are offered beside those that are here. `keep` stay in memory, as used last.
    """

    def __init__(self, hub_names: Sequence[str] = (), *, keep: int = 4) -> None:
        self.device = threading.Lock()  # held by whoever computes
        self._hub_names, self._keep = list(hub_names), keep
        self._loaded: OrderedDict[Key, Predictor] = OrderedDict()
        self._lock = threading.RLock()  # the garbage collector may call `forget` wherever it runs
        # One a name, so that a Hub that does not answer keeps nobody from the other detectors.
        self._loading: defaultdict[Key, threading.Lock] = defaultdict(threading.Lock)
        # On ZeroGPU this runs in another process: names, pictures and arrays go in and out, never a network.
        self._run = on_gpu(seconds=60)(lambda key, images, scans: self.get(key).predict(images, scans))

    def names(self, *, with_scan: bool) -> list[str]:
        """Detectors that take a scan, or those that take a picture alone; of the Hub's it is not known before.

        The demonstrations, which the example pictures are for, come first.
        """
        here = [name for name in available_checkpoints() if _takes_scan(name) == with_scan]
        return sorted(here, key=lambda name: not name.startswith("demo-")) + self._hub_names

    def predict(
        self, key: Key, images: Sequence[Image.Image | None], scans: Sequence[np.ndarray] | None = None
    ) -> tuple[list[Prediction], Calibration]:
        """Scores parts as `uploads` reads them, one scan a picture, and says what is known about good ones.

        Raises `DemoError` where the detector cannot be had, or a part does not fit it.
        """
        if self.get(key).config.uses_depth and scans is None:
            raise DemoError("This detector needs the point cloud of the part as well.")
        try:
            with self.device:
                return self._run(key, list(images), None if scans is None else list(scans)), self.calibration(key)
        except ImageReadError as error:
            raise DemoError(f"This does not go together: {error.reason}.") from error

    def calibration(self, key: Key) -> Calibration:
        """What is known about good parts; raises `DemoError` where the detector cannot be had."""
        calibration = self.get(key).calibration
        assert calibration is not None  # else it could not be had
        return calibration

    def get(self, key: Key) -> Predictor:
        """The detector's predictor, from memory where it is there; raises `DemoError` where it cannot be had."""
        with self._lock:
            loading = self._loading[key]
        with loading:
            with self._lock:
                if key in self._loaded:
                    self._loaded.move_to_end(key)
                    return self._loaded[key]
            predictor = load_predictor(key)
            with self._lock:
                self._loaded[key] = predictor
                while len(self._loaded) > self._keep:
                    self._loading.pop(self._loaded.popitem(last=False)[0], None)
            return predictor

    def forget(self, key: Key) -> None:
        """Drops a visitor's detector from memory."""
        with self._lock:
            self._loaded.pop(key, None)
            self._loading.pop(key, None)

    def warm_up(self) -> None:
        """Loads the first detector and runs it once, so that the first visitor does not wait for it."""
        for name in self.names(with_scan=False)[:1]:
            try:
                self.predict(name, [Image.new("RGB", (64, 64))])[1].threshold()
            except DemoError as error:
                _LOG.warning("%s is not ready: %s", name, error.message)


def _takes_scan(name: str) -> bool:
    try:
        config = json.loads((find_checkpoint(name) / CONFIG_NAME).read_text("utf-8"))
        return config["modality"] != "rgb"
    except (ASTError, OSError, ValueError, TypeError, KeyError):
        return False  # loading it says what is wrong
