"""A visitor's own detector: trained step by step, kept in a temporary folder, gone with its visitor."""

import queue
import shutil
import tempfile
import threading
import weakref
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import constants
from PIL import Image

from ast_hf.config import PRETRAINED, ASTDetectorConfig, TrainingRecipe
from ast_hf.data.folders import check_good_parts, describe_folders
from ast_hf.data.samples import describe_copies
from ast_hf.demo.detectors import Detectors, Key, on_gpu
from ast_hf.demo.uploads import DemoError, Upload
from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.training.trainer import MIN_SAMPLES, train

OWN_DETECTOR = "Your own detector"


@dataclass(frozen=True)
class TeachSettings:
    """How the page trains: by the preset's recipe, with as many steps for few pictures as for many."""

    config: ASTDetectorConfig = field(default_factory=lambda: ASTDetectorConfig.preset("compact"))
    backbone_weights: str | Path | None = PRETRAINED
    steps: int = 60  # of the optimiser, for each teacher and each student

    @property
    def recipe(self) -> TrainingRecipe:
        """One epoch at least, and as many as the steps need."""
        return TrainingRecipe.preset("compact", epochs=1, local_epochs=1, min_steps=self.steps)


class TrainingStep(NamedTuple):
    """How far training has come: `done` of `total` of a stage (`training.progress.Progress`), and an epoch's loss."""

    stage: str
    done: int
    total: int
    loss: float | None = None


class VisitorDetector:
    """A visitor's own detector, a checkpoint in the temporary `folder`, which `close` deletes.

    It goes with this object, from disk and from memory: gradio drops the sessions of those who left long ago, and
    where there are too many also others, without a word.
    """

    def __init__(self, detectors: Detectors) -> None:
        self.folder, self._device = Path(tempfile.mkdtemp(prefix="ast-hf-"), "ast-detector"), detectors.device
        self.close = weakref.finalize(self, _delete, detectors, self.folder)

    def train(
        self, pictures: Sequence[Image.Image], settings: TeachSettings, region: np.ndarray | None = None
    ) -> Generator[TrainingStep]:
        """Trains on pictures of good parts, holding the device for a step at a time: whoever inspects waits for one.

        Only what is true in `region`, bool (H, W) of the pictures' aspect, is looked at; all where there is none.
        Raises `DemoError` where the backbone's weights cannot be had, or the loss went astray.
        """
        with closing(_train(pictures, self.folder, settings, region)) as source:

            def advance() -> TrainingStep | None:
                with self._device:
                    return next(source, None)

            yield from iter(advance, None)

    def pack(self, folder: Path) -> str:
        """Packs the checkpoint as a zip into a folder; gives its path."""
        return shutil.make_archive(str(folder / self.folder.name), "zip", self.folder.parent, self.folder.name)

    def push(self, repo_id: str, token: str, *, private: bool) -> str:
        """Uploads it with the visitor's own token, which is kept nowhere; gives the commit's address.

        Raises `DemoError` where something is missing, or the Hub refuses or cannot be reached.
        """
        if not token:
            raise DemoError("Give a token of your own with the right to write: huggingface.co/settings/tokens.")
        if repo_id.count("/") != 1:
            raise DemoError("Give the repository as NAME/DETECTOR, with your own name or your organisation's.")
        try:
            model = ASTDetector.from_pretrained(self.folder, device="cpu")
            return str(model.push_to_hub(repo_id, token=token, private=private))
        except ASTError as error:
            text = str(error).replace(token, "(token)").replace(constants.HF_HUB_CACHE, "the cache")
            raise DemoError(text) from None


def key_of(name: str | None, own: VisitorDetector | None) -> Key:
    """What `Detectors` knows a choice by."""
    return own.folder if own is not None and name == OWN_DETECTOR else str(name)


def read_good(uploads: Sequence[Upload]) -> tuple[list[Image.Image], list[str]]:
    """The pictures that can be read, and sentences: which folders of a zip they are from, copies, and what cannot.

    Raises `DemoError` where too few are left to train and calibrate, or a zip holds more than good parts.
    """
    try:
        check_good_parts("", (upload.place for upload in uploads))
    except ImageReadError as error:
        raise DemoError(f"These are not to be taught: {error.reason}") from error
    read = [upload.try_picture() for upload in uploads]
    pictures = [picture for picture in read if isinstance(picture, Image.Image)]
    unread = [error.message for error in read if isinstance(error, DemoError)]
    if len(pictures) < MIN_SAMPLES:
        first = f" {len(unread)} could not be read, first {unread[0]}" if unread else ""
        raise DemoError(f"These are {len(pictures)} good parts; teaching needs at least {MIN_SAMPLES}.{first}")
    packed, copies = [upload.place for upload in uploads if upload.member], describe_copies(pictures)
    folders = f"Found: {describe_folders(packed)}." if packed else ""
    return pictures, [*filter(None, [folders, copies and f"Of these {copies}"]), *unread]


@on_gpu(seconds=180)
def _train(
    pictures: Sequence[Image.Image], folder: Path, settings: TeachSettings, region: np.ndarray | None
) -> Generator[TrainingStep]:
    """Trains, calibrates and saves a detector in a thread that goes on only while the next step is being asked for.

    Once the iterator is closed, the thread ends where it tells its progress, and saves nothing.
    """
    told: queue.Queue[TrainingStep | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    def progress(stage: str, done: int, total: int, loss: float | None = None) -> None:
        told.put(TrainingStep(stage, done, total, loss))
        told.join()
        if stopped.is_set():
            raise CancelledError

    def work() -> None:
        # Nothing of a visitor's pictures is kept, features included.
        options: dict[str, Any] = {"region": region, "cache_folder": False, "progress": progress}
        options["backbone_weights"] = settings.backbone_weights
        try:
            train(settings.config, list(pictures), settings.recipe, **options).save_pretrained(folder)
            told.put(None)
        except BaseException as error:  # raised again where the steps are asked for
            told.put(error)

    thread = threading.Thread(target=work, name="training", daemon=True)
    thread.start()
    try:
        while (step := told.get()) is not None:
            if isinstance(step, ASTError):
                raise DemoError("Training went astray, or its backbone could not be had: try again.") from step
            if isinstance(step, BaseException):
                raise step
            yield step
            told.task_done()
    finally:
        stopped.set()
        told.task_done()
        thread.join()


def _delete(detectors: Detectors, folder: Path) -> None:
    detectors.forget(folder)
    shutil.rmtree(folder.parent, ignore_errors=True)
