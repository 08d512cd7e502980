import gc
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

from ast_hf.demo.detectors import Detectors
from ast_hf.demo.teach_tab import loss_frames
from ast_hf.demo.training import TeachSettings, TrainingStep, VisitorDetector, read_good
from ast_hf.demo.uploads import DemoError, find_uploads
from ast_hf.files import home
from tests import tiny
from tests.hub_server import Hub

SETTINGS = TeachSettings(tiny.config(), None, steps=2)
GOOD = [tiny.picture(seed) for seed in range(12)]


def trained(detectors: Detectors) -> VisitorDetector:
    own = VisitorDetector(detectors)
    assert [step.stage for step in own.train(GOOD, SETTINGS)] == ["features"] * 2 + ["teacher"] * 2 + ["student"] * 2
    return own


def test_curves_have_their_lines_from_the_first_step_on() -> None:
    """Gradio draws no line for a colour that came later."""
    steps = [
        TrainingStep("features", 1, 1),
        TrainingStep("teacher", 1, 2, 3.0),
        TrainingStep("local student", 1, 2, 1.0),
    ]
    for count in range(4):
        for frame in loss_frames(steps[:count]):
            assert list(frame.pair) == ["whole parts", "details"] and frame.dtypes[:2].eq("float64").all()
    assert frame.loss.isna().tolist() == [True, False]


def test_a_visitors_detector_is_found_by_its_folder_alone() -> None:
    detectors = Detectors()
    own = trained(detectors)
    predictor = detectors.get(own.folder)
    assert predictor.config == SETTINGS.config and predictor.calibration is not None
    assert not home().exists()  # neither the detector nor the pictures' features
    with pytest.raises(DemoError):
        detectors.get(own.folder.name)


def test_what_lies_outside_of_the_region_is_not_looked_at() -> None:
    detectors, region = Detectors(), np.zeros((60, 80), dtype=bool)
    region[:, 40:] = True
    own = VisitorDetector(detectors)
    list(own.train(GOOD, SETTINGS, region))
    (bad, good), _ = detectors.predict(own.folder, [tiny.picture(0, defect=True), tiny.picture(0)])
    assert bad.region is not None and np.array_equal(np.asarray(bad.region)[0], np.arange(64) >= 32)
    assert bad.overlay(scale=1000000000.0).getpixel((5, 5)) != bad.image.getpixel((5, 5))
    assert good.overlay(scale=1e9).getpixel((70, 5)) == good.image.getpixel((70, 5))


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_it_goes_with_its_visitor_from_disk_and_from_memory(how: str) -> None:
    detectors = Detectors()
    own = trained(detectors)
    folder = own.folder
    detectors.get(folder)
    if how == "closed":
        own.close()
        own.close()  # gradio may call it again
    del own
    gc.collect()
    assert not folder.parent.exists()
    with pytest.raises(DemoError):  # it would be had from memory
        detectors.get(folder)


def test_what_cannot_be_read_is_told_and_too_few_are_refused(tmp_path: Path) -> None:
    folder = tiny.folder_of_pictures(tmp_path, 10)
    (folder / "notes.txt").write_text("not a picture")
    found = find_uploads(sorted(map(str, folder.iterdir())))
    pictures, unread = read_good(found)
    assert len(pictures) == 10
    assert unread == ["notes.txt: this is not a picture that is read: PNG, JPEG, BMP, TIFF, WEBP of 8 or 16 bits."]
    with pytest.raises(DemoError, match=r"These are 9 good parts; teaching needs at least 10. 1 could not be read"):
        read_good(found[1:])


def test_folders_and_copies_of_a_zip_are_told_and_a_datasets_root_is_refused(tmp_path: Path) -> None:
    folder = tiny.folder_of_pictures(tmp_path / "pack" / "line", 10)
    shutil.copytree(folder, tmp_path / "pack" / "other" / "line")
    _, notes = read_good(find_uploads([shutil.make_archive(str(tmp_path / "parts"), "zip", tmp_path / "pack")]))
    for text in ("10 from parts.zip/line", "10 from parts.zip/other/line", "Of these 10 of 20 are copies"):
        assert text in " ".join(notes)
    folder.rename(tmp_path / "pack" / "Test")
    found = find_uploads([shutil.make_archive(str(tmp_path / "root"), "zip", tmp_path / "pack")])
    with pytest.raises(DemoError, match=r"as root\.zip/Test/ in it shows"):
        read_good(found)


def test_as_many_steps_for_few_pictures_as_for_many() -> None:
    settings = TeachSettings()
    batch_size = settings.recipe.batch_size
    for fitted in (8, 12, 90):
        batches = max(1, fitted // batch_size)
        steps = settings.recipe.epochs_for(fitted) * batches
        assert settings.steps <= steps < settings.steps + batches


def test_a_missing_backbone_is_a_sentence_without_paths(tmp_path: Path) -> None:
    settings = TeachSettings(tiny.config(), tmp_path / "missing.safetensors")
    with pytest.raises(DemoError, match="try again") as caught:
        list(VisitorDetector(Detectors()).train(GOOD, settings))
    assert str(tmp_path) not in str(caught.value)


def test_other_faults_are_raised_as_they_are() -> None:
    with pytest.raises(AttributeError):
        list(VisitorDetector(Detectors()).train(GOOD, TeachSettings(config=None)))  # type: ignore[arg-type]


def test_training_holds_the_device_for_a_step_at_a_time_and_stops_when_nobody_asks() -> None:
    detectors = Detectors()
    own = VisitorDetector(detectors)
    steps = own.train(GOOD, SETTINGS)
    assert next(steps) == TrainingStep("features", 8, 12)
    assert not detectors.device.locked()
    with ThreadPoolExecutor(1) as trainer:
        with detectors.device:
            asked = trainer.submit(next, steps)
            assert not wait([asked], timeout=0.5).done  # it waits for the device
        assert asked.result(60) == TrainingStep("features", 12, 12)
    steps.close()
    assert not detectors.device.locked() and not own.folder.exists()
    assert all(thread.name != "training" for thread in threading.enumerate())


def test_pushing_needs_a_token_and_tells_it_to_nobody(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    own = trained(Detectors())
    for repo_id, token in (("me/it", ""), ("it", "me")):
        with pytest.raises(DemoError, match="Give"):
            own.push(repo_id, token, private=True)
    assert own.push("me/it", "me", private=True).startswith(f"{hub.endpoint}/me/it/commit/")
    assert hub.repos["me/it"].private
    with pytest.raises(DemoError) as caught:
        own.push("strangers/it", "hf_secret", private=True)
    assert "hf_secret" not in str(caught.value) + caplog.text and str(home().parent) not in str(caught.value)
    assert b"hf_secret" not in b"".join(path.read_bytes() for path in own.folder.iterdir())
