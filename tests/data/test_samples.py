"""Parts from folders, datasets and lists, and what a modality asks of them."""

from pathlib import Path

import pytest
import tifffile

from ast_hf import ImageReadError
from ast_hf.data import Sample
from ast_hf.data.samples import collect_samples, file_sample, load_sample
from tests import tiny


def test_samples_from_datasets_and_pairs() -> None:
    items = [{"image": "a.png", "label": 0}, ("b.png", 1), Sample("c.png"), "d.png"]
    assert collect_samples(tiny.config(), items) == [Sample(f"{name}.png") for name in "abcd"]
    assert collect_samples(tiny.config("depth"), None, ["a.tiff"]) == [Sample(points="a.tiff")]
    with pytest.raises(ImageReadError, match="2 pictures came with 1 scans"):
        collect_samples(tiny.config("rgb+depth"), ["a.png", "b.png"], ["a.tiff"])


def test_pictures_and_scans_of_a_folder_pair_up(tmp_path: Path) -> None:
    config, pictures, scans = tiny.config("rgb+depth"), tiny.folder_of_pictures(tmp_path / "rgb", 2), tmp_path / "xyz"
    scans.mkdir()
    for name in ("000.tiff", "001.tif"):
        tifffile.imwrite(scans / name, tiny.scan(0), photometric="rgb")
    expected = [Sample(pictures / "000.png", scans / "000.tiff"), Sample(pictures / "001.png", scans / "001.tif")]
    assert collect_samples(config, tmp_path) == [file_sample(config, s.image) for s in expected] == expected
    assert [sample.image for sample in collect_samples(tiny.config("depth"), tmp_path)] == [None, None]
    (scans / "001.tif").unlink()
    with pytest.raises(ImageReadError, match=r"do not pair up.*: 001"):
        collect_samples(config, tmp_path)


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
