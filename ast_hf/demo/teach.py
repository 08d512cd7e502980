"""A detector of a visitor's own: trained step by step, kept in a temporary folder, gone with its visitor."""

from __future__ import annotations

import json
import math
import queue
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from PIL import Image

from ast_hf.backbone import PRETRAINED
from ast_hf.checkpoint import CALIBRATION_NAME
from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.demo.models import Detectors
from ast_hf.demo.uploads import DemoError, Upload
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.model import ASTDetector
from ast_hf.training import MIN_PARTS, hold_out, train

MAX_PARTS = 100
YOURS = "Your own detector"


@dataclass(frozen=True)
class Course:
    """How the page teaches: a small student, and as many steps for few pictures as for many."""

    config: ASTDetectorConfig = field(default_factory=lambda: ASTDetectorConfig.preset("compact", student_channels=96))
    backbone_weights: str | Path | None = PRETRAINED
    steps: int = 48  # of the optimiser, for the teacher and for the student

    def recipe(self, count: int) -> TrainingRecipe:
        """The recipe for so many pictures."""
        recipe = TrainingRecipe.preset("compact")
        batches = max(1, len(hold_out(count, recipe, 0)[0]) // recipe.batch_size)
        return TrainingRecipe.preset("compact", epochs=math.ceil(self.steps / batches))


@dataclass(frozen=True)
class Step:
    """How far training has come: `done` of `total` of "features", "teacher" or "student", and an epoch's loss."""

    stage: str
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True, eq=False)
class Taught:
    """A visitor's own detector: a checkpoint in a temporary folder that goes with this object."""

    pictures: int
    _temporary: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="ast-hf-", ignore_cleanup_errors=True)
    )

    @property
    def folder(self) -> Path:
        """Of the checkpoint."""
        return Path(self._temporary.name, "ast-detector")

    def close(self) -> None:
        """Deletes it."""
        self._temporary.cleanup()


def read_good(uploads: Sequence[Upload]) -> tuple[list[Image.Image], list[str]]:
    """The pictures that can be read, and a sentence for each that cannot.

    Raises:
        DemoError: Too few are left to train and calibrate.
    """
    pictures, faults = [], []
    for upload in uploads:
        try:
            pictures.append(upload.picture())
        except ImageReadError as error:
            faults.append(str(error))
    if len(pictures) < MIN_PARTS:
        unread = f" {len(faults)} could not be read, first {faults[0]}" if faults else ""
        raise DemoError(f"These are {len(pictures)} good parts; teaching needs at least {MIN_PARTS}.{unread}")
    return pictures, faults


@dataclass(frozen=True)
class Lesson:
    """Where training stands: the steps so far, pictures that could not be read, and at the end what was taught."""

    steps: list[Step]
    faults: list[str]
    taught: Taught | None = None

    def report(self) -> dict[str, Any]:
        """For machines."""
        loss = {stage: [step.loss for step in self.steps if step.stage == stage] for stage in ("teacher", "student")}
        values: dict[str, Any] = {"unread": self.faults, "loss": loss}
        if self.taught is not None:
            values["pictures"] = self.taught.pictures
            values["calibration"] = json.loads((self.taught.folder / CALIBRATION_NAME).read_text("utf-8"))
        return values


def lessons(
    detectors: Detectors, teach: Callable[..., Generator[Step]], uploads: Sequence[Upload], course: Course
) -> Generator[Lesson]:
    """Teaches, a step at a time while holding the device, so that whoever inspects waits for one step at most.

    A few lessons come a second; closing the iterator before the last one leaves nothing behind.

    Raises:
        DemoError: As `read_good` and `teach`.
    """
    pictures, faults = read_good(uploads)
    steps: list[Step] = []
    taught, last = Taught(len(pictures)), 0.0
    with closing(teach(pictures, taught.folder, course)) as source:
        while True:
            with detectors.device:
                step = next(source, None)
            if step is None:
                break
            steps.append(step)
            if time.monotonic() > last + 0.25:
                last = time.monotonic()
                yield Lesson(steps, faults)
    yield Lesson(steps, faults, taught)


def teach(pictures: Sequence[Image.Image], folder: Path, course: Course) -> Generator[Step]:
    """Trains and calibrates a detector on pictures of good parts, and saves it in the folder at the end.

    Raises:
        DemoError: The trunk's weights cannot be had, or the loss went astray.
    """

    def work(report: Callable[..., None]) -> None:
        # Nothing of a visitor's pictures is kept, features included.
        with tempfile.TemporaryDirectory(prefix="ast-hf-", ignore_cleanup_errors=True) as cache:
            model = train(
                course.config,
                list(pictures),
                course.recipe(len(pictures)),
                backbone_weights=course.backbone_weights,
                cache_folder=cache,
                progress=report,
            )
        model.save_pretrained(folder)

    try:
        yield from in_steps(work)
    except ASTError as error:
        raise DemoError("Training went astray, or its backbone could not be had: try again.") from error


def in_steps(work: Callable[[Callable[..., None]], None]) -> Generator[Step]:
    """Runs `work(report)` in a thread that goes on only while the next step is being asked for.

    So a caller can hold the device for a step at a time, and whoever stops asking stops the work: once the iterator
    is closed, it ends where it reports.
    """
    go, told, stopped = threading.Semaphore(0), queue.SimpleQueue[Step | BaseException | None](), threading.Event()

    def wait() -> None:
        go.acquire()
        if stopped.is_set():
            raise _StoppedError

    def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
        told.put(Step(stage, done, total, loss))
        wait()

    def run() -> None:
        try:
            wait()
            work(report)
            told.put(None)
        except BaseException as error:
            told.put(error)

    thread = threading.Thread(target=run, name="teach", daemon=True)
    thread.start()
    try:
        while True:
            go.release()
            said = told.get()
            if isinstance(said, BaseException):
                raise said
            if said is None:
                return
            yield said
    finally:
        stopped.set()
        go.release()
        thread.join()


class _StoppedError(Exception):
    """Nobody asks for the next step any more."""


def key_of(name: str | None, own: Taught | None) -> str | Path:
    """What `Detectors` knows a choice by; raises `DemoError` where nothing was chosen or it is gone."""
    if not name:
        raise DemoError("There is no detector to choose from yet: teach one.")
    if name != YOURS:
        return name
    if own is None:
        raise DemoError("Your detector is gone: teach it again.")
    return own.folder


def pack(taught: Taught) -> Path:
    """The checkpoint as a zip of config.json, model.safetensors and calibration.json."""
    path = taught.folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(taught.folder.iterdir()):
            archive.write(file, f"{taught.folder.name}/{file.name}")
    return path


def push(taught: Taught | None, repo_id: str, token: str, *, private: bool) -> str:
    """Uploads the detector with the visitor's own token, which is kept nowhere; gives the commit's address.

    Raises:
        DemoError: Something is missing, or the Hub refuses or cannot be reached.
    """
    repo_id, token = repo_id.strip(), token.strip()
    if taught is None:
        raise DemoError("There is no detector of yours yet: teach one.")
    if not token:
        raise DemoError("Give a token of your own with the right to write: huggingface.co/settings/tokens.")
    if repo_id.count("/") != 1:
        raise DemoError("Give the repository as NAME/DETECTOR, with your own name or your organisation's.")
    try:
        model = ASTDetector.from_pretrained(taught.folder, device="cpu")
        return str(model.push_to_hub(repo_id, token=token, private=private))
    except ASTError as error:
        text = str(error).replace(token, "(token)").replace(constants.HF_HUB_CACHE, "the cache")
        raise DemoError(text) from None
