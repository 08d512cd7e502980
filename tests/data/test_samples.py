"""Parts from folders, datasets and lists, and what a modality asks of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ast_hf import ImageReadError
from ast_hf.data import Sample
from ast_hf.data.samples import collect_good_samples, collect_samples, file_sample, load_sample
from tests import tiny


def test_samples_from_datasets_and_pairs() -> None:
    items = [{"image": "a.png", "label": 0}, ("b.png", 1), Sample("c.png"), "d.png"]
    assert collect_samples(tiny.config(), items) == [Sample(f"{name}.png") for name in "abcd"]
    assert collect_samples(tiny.config("depth"), None, ["a.tiff"]) == [Sample(points="a.tiff")]
    with pytest.raises(ImageReadError, match="2 pictures came with 1 scans"):
        collect_samples(tiny.config("rgb+depth"), ["a.png", "b.png"], ["a.tiff"])


def test_pictures_and_scans_of_a_folder_pair_up(tmp_path: Path) -> None:
    config, pictures, scans = tiny.config("rgb+depth"), tmp_path / "rgb", tmp_path / "xyz"
    for folder, count in (("a", 1), ("b", 2)):
        tiny.folder_of_pictures(pictures / folder, count)
    names = {"a/000.png": "a/000.tiff", "b/000.png": "b/000.tif", "b/001.png": "b/001.Tiff"}
    expected = [Sample(pictures / picture, scans / scan) for picture, scan in names.items()]
    for sample in expected:
        sample.points.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(sample.points, tiny.scan(0), photometric="rgb")
    assert collect_samples(config, tmp_path) == [file_sample(config, s.image) for s in expected] == expected
    assert [sample.image for sample in collect_samples(tiny.config("depth"), tmp_path)] == [None] * 3
    (scans / "b" / "000.tiff").touch()
    with pytest.raises(ImageReadError, match=r"rgb/b/000\.png: its scan could be \S*000\.tif or \S*000\.tiff"):
        file_sample(config, pictures / "b" / "000.png")
    (scans / "b" / "000.tiff").unlink()
    (scans / "b" / "001.Tiff").unlink()
    with pytest.raises(ImageReadError, match=r"rgb/b/001\.png: its scan is missing: there is no \S*xyz/b/001\.tiff"):
        file_sample(config, pictures / "b" / "001.png")
    with pytest.raises(ImageReadError, match=r"rgb/b/001\.png: its scan is missing: add \S*xyz/b/001\.tif"):
        collect_samples(config, tmp_path)


def test_what_is_wrong_with_a_scan_is_told_of_the_scan(tmp_path: Path) -> None:
    sample = Sample(tiny.folder_of_pictures(tmp_path, 1) / "000.png", tmp_path / "000.tiff")
    for message in ("there is no such file", "this is not a TIFF"):
        with pytest.raises(ImageReadError, match=rf"000\.png: its scan \S*000\.tiff: {message}"):
            load_sample(tiny.config("rgb+depth"), sample)
        (tmp_path / "000.tiff").write_text("text")


def test_before_training_folders_and_copies_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    good = tiny.folder_of_pictures(tmp_path / "bottle" / "train" / "good", 3)
    tiny.folder_of_pictures(good / "line", 2, start=3)
    assert collect_good_samples(tiny.config(), good) == collect_samples(tiny.config(), good)
    assert caplog.messages == [f"5 good parts: 3 from {good}, 2 from {good / 'line'}."]
    shutil.copy(good / "000.png", good / "copy.png")
    shutil.copy(good / "000.png", good / "line" / "copy.png")
    shutil.copy(good / "line" / "003.png", good / "other.png")
    collect_good_samples(tiny.config(), good)
    assert caplog.messages[-1].startswith("Of the good parts 3 of 8 are copies of others")
    pictures = [tiny.picture(seed) for seed in (0, 0, 1)]
    for sources in (pictures, [np.asarray(picture) for picture in pictures], [b"1", b"1", b"2"]):
        collect_good_samples(tiny.config(), sources)
        assert caplog.messages[-1].startswith("Of the good parts 1 of 3 are")
    tiny.folder_of_pictures(tmp_path / "bottle" / "test" / "good", 1)
    with pytest.raises(ImageReadError, match=rf"^\S+/bottle: this is a dataset's root, as test/.* such as {good}\."):
        collect_good_samples(tiny.config(), tmp_path / "bottle")
    assert len(collect_samples(tiny.config(), tmp_path / "bottle")) == 9  # to predict


@pytest.mark.parametrize(
    ("modality", "sample", "message"),
    [
        ("rgb", Sample(tiny.picture(0), tiny.scan(0)), "pictures alone"),
        ("rgb+depth", Sample(tiny.picture(0)), "points="),
        ("rgb+depth", Sample(None, tiny.scan(0)), "needs a picture"),
        ("rgb+depth", Sample(tiny.picture(0), tiny.scan(0, (90, 60))), "differ in size"),
    ],
)
def test_wrong_modality_is_a_sentence(modality: str, sample: Sample, message: str) -> None:
    with pytest.raises(ImageReadError, match=message):
        load_sample(tiny.config(modality), sample)
