from __future__ import annotations

import gc
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ast_hf import ASTDetector, TrainingRecipe
from ast_hf.demo import teach
from ast_hf.demo.models import Detectors
from ast_hf.demo.teach import Course, Step, Taught, in_steps
from ast_hf.demo.uploads import DemoError, Upload
from ast_hf.hub import home
from tests import tiny

COURSE = Course(tiny.config(), None, steps=2)


@pytest.fixture
def good(tmp_path: Path) -> list[Upload]:
    """Twelve good parts and a file that is no picture."""
    folder = tiny.folder_of_pictures(tmp_path / "good", 12)
    (folder / "notes.txt").write_text("not a picture")
    return [Upload(path.name, path) for path in sorted(folder.iterdir())]


def test_a_detector_is_taught_and_found_by_its_folder_alone(good: list[Upload]) -> None:
    detectors = Detectors()
    *_, last = teach.lessons(detectors, teach.teach, good, COURSE)
    assert last.taught is not None and last.taught.pictures == 12
    assert last.faults == ["notes.txt: this is not a picture that is read: PNG, JPEG, BMP, TIFF, WEBP of 8 or 16 bits."]
    assert [step.stage for step in last.steps] == ["features"] * 2 + ["teacher"] * 2 + ["student"] * 2
    report = last.report()
    assert [len(losses) for losses in report["loss"].values()] == [2, 2]
    assert detectors.load(last.taught.folder).calibration.scores == tuple(report["calibration"]["scores"])  # type: ignore[union-attr]
    assert not home().exists()  # neither the detector nor the pictures' features
    with pytest.raises(DemoError):
        detectors.load("ast-detector")


def test_the_zip_is_the_checkpoint(good: list[Upload], tmp_path: Path) -> None:
    *_, last = teach.lessons(Detectors(), teach.teach, good, COURSE)
    with zipfile.ZipFile(teach.pack(last.taught)) as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "ast-detector"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "calibration.json"}
    picture = tiny.picture(40)
    ours, theirs = (ASTDetector.from_pretrained(path).predict(picture).score for path in (folder, last.taught.folder))
    assert ours == theirs
    assert ASTDetector.from_pretrained(folder).config == COURSE.config


def test_it_goes_with_its_visitor(good: list[Upload]) -> None:
    *_, last = teach.lessons(Detectors(), teach.teach, good, COURSE)
    folder = last.taught.folder
    last.taught.close()
    assert not folder.parent.exists()
    taught = Taught(1)
    folder = taught.folder.parent
    assert folder.is_dir()
    del taught
    gc.collect()
    assert not folder.exists()


def test_too_few_are_a_sentence(good: list[Upload]) -> None:
    with pytest.raises(DemoError, match=r"These are 9 good parts; teaching needs at least 10. 1 could not be read"):
        next(teach.lessons(Detectors(), teach.teach, good[3:], COURSE))


def test_as_many_steps_for_few_pictures_as_for_many() -> None:
    recipe = TrainingRecipe.preset("compact")
    for count, fitted in ((12, 8), (20, 12), (100, 90)):
        batches = max(1, fitted // recipe.batch_size)
        steps = Course(tiny.config()).recipe(count).epochs * batches
        assert Course(tiny.config()).steps <= steps < Course(tiny.config()).steps + batches


def test_a_missing_trunk_is_a_sentence_without_paths(good: list[Upload], tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="try again") as caught:
        list(teach.lessons(Detectors(), teach.teach, good, Course(tiny.config(), tmp_path / "missing.safetensors")))
    assert str(tmp_path) not in str(caught.value)


def test_stopping_frees_the_device_and_leaves_nothing(good: list[Upload]) -> None:
    detectors = Detectors()
    folders = []

    def watched(pictures: object, folder: Path, course: Course) -> Iterator[Step]:
        folders.append(folder)
        return teach.teach(pictures, folder, course)  # type: ignore[arg-type]

    lessons = teach.lessons(detectors, watched, good, COURSE)  # type: ignore[arg-type]
    next(lessons)
    assert not detectors.device.locked()  # between two steps
    lessons.close()
    gc.collect()
    assert not detectors.device.locked()
    assert not folders[0].exists() and not folders[0].parent.exists()
    assert all(thread.name != "teach" for thread in threading.enumerate())


def test_work_goes_on_only_while_it_is_asked_for() -> None:
    done: list[int] = []

    def work(report: Callable[..., None]) -> None:
        for i in range(5):
            done.append(i)
            report("teacher", i + 1, 5, 0.5)

    steps = in_steps(work)
    assert next(steps) == Step("teacher", 1, 5, 0.5)
    assert done == [0]
    next(steps)
    assert done == [0, 1]
    steps.close()
    assert done == [0, 1]
    assert [step.done for step in in_steps(work)] == [1, 2, 3, 4, 5]


def test_what_work_raises_is_raised_here() -> None:
    def work(report: Callable[..., None]) -> None:
        report("features", 1, 1)
        raise ZeroDivisionError

    steps = in_steps(work)
    next(steps)
    with pytest.raises(ZeroDivisionError):
        next(steps)


def test_choices_are_names_or_the_visitors_own() -> None:
    own = Taught(1)
    assert teach.key_of("plate", own) == "plate"
    assert teach.key_of(teach.YOURS, own) == own.folder
    for name in (teach.YOURS, None, ""):
        with pytest.raises(DemoError):
            teach.key_of(name, None)


def test_pushing_needs_a_token_and_tells_it_to_nobody(
    good: list[Upload], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    *_, last = teach.lessons(Detectors(), teach.teach, good, COURSE)
    for taught, repo_id, token in ((None, "me/it", "hf_x"), (last.taught, "me/it", " "), (last.taught, "it", "hf_x")):
        with pytest.raises(DemoError):
            teach.push(taught, repo_id, token, private=True)
    pushed = {}

    def push_to_hub(self: ASTDetector, repo_id: str, *, token: str, private: bool) -> str:
        pushed.update(repo_id=repo_id, token=token, private=private, calibrated=self.calibration is not None)
        return "https://hub/commit"

    with monkeypatch.context() as patch:
        patch.setattr(ASTDetector, "push_to_hub", push_to_hub)
        assert teach.push(last.taught, " me/it ", "hf_secret", private=True) == "https://hub/commit"
    assert pushed == {"repo_id": "me/it", "token": "hf_secret", "private": True, "calibrated": True}
    with pytest.raises(DemoError) as caught:  # the Hub is switched off in tests
        teach.push(last.taught, "me/it", "hf_secret", private=True)
    told = str(caught.value) + caplog.text + json.dumps([str(path) for path in last.taught.folder.iterdir()])
    assert "hf_secret" not in told and str(home().parent) not in str(caught.value)
