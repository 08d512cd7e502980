"""Datasets of the Hub: real parquet repositories made on disk, and a Hub played on this machine."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from ast_hf.errors import DatasetError
from benchmark.datasets import hub, list_categories, load_category
from tests.hub_server import Hub

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = (12, 9)  # width, height


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what the library writes down out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def picture(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(256, size=(*SIZE[::-1], 3), dtype=np.uint8)
    # No settings that decoding and encoding again would meet by chance.
    Image.fromarray(noise).save(buffer, kind, compress_level=1, quality=40)
    return buffer.getvalue()


def mask(*pixels: tuple[int, int]) -> dict[str, Any]:
    image, buffer = Image.new("L", SIZE), io.BytesIO()
    for pixel in pixels:
        image.putpixel(pixel, 255)
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "../../mask.png"}


def row(value: int, label: Any = 0, defect: Any = "good", mask: dict[str, Any] | None = None) -> dict[str, Any]:
    image = {"bytes": picture(value), "path": "/etc/stolen/../000.png"}
    return {"image_path": image, "mask_path": mask, "label": label, "defect": defect}


def good(count: int = 2, start: int = 0, **cells: Any) -> list[dict[str, Any]]:
    return [{**row(start + index), **cells} for index in range(count)]


def bad(value: int, defect: Any = "scratch", **cells: Any) -> dict[str, Any]:
    return {**row(value, 1, defect, mask((1, value % SIZE[1]))), **cells}


def bottle(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {"bottle.train": train, "bottle.test": test}


USUAL = bottle(good(1), [*good(1), bad(2)])


def write_repository(root: Path, splits: dict[str, list[dict[str, Any]]], config: str = "default", **types: Any) -> str:
    """A dataset repository as on the Hub: parquet files, and in README.md which of them are which split."""
    image = datasets.Image()
    features = {"image_path": image, "mask_path": image, "label": Value("int64"), "defect": Value("string"), **types}
    lines = []
    (root / config).mkdir(parents=True)
    for split, rows in splits.items():
        columns = Features({name: kind for name, kind in features.items() if name in rows[0]})
        # Not to_parquet, which puts pictures in the place of paths.
        pq.write_table(Dataset.from_list(rows, columns).data.table, root / config / f"{split}-00000-of-00001.parquet")
        lines.append(f"  - split: {split}\n    path: {config}/{split}-*\n")
    card = root / "README.md"
    before = card.read_text().removesuffix("---\n") if card.exists() else "---\nconfigs:\n"
    card.write_text(f"{before}- config_name: {config}\n  data_files:\n{''.join(lines)}---\n")
    return str(root)


def materialize(tmp_path: Path, splits: dict[str, list[dict[str, Any]]], **types: Any) -> Path:
    return hub.materialize(write_repository(tmp_path / "repository", splits, **types), "bottle", tmp_path / "hub")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_category_becomes_a_folder_and_a_category(tmp_path: Path) -> None:
    train, test = good(3), [*good(2, 10), bad(20), bad(21, "crack"), bad(22)]
    folder = materialize(tmp_path, {"cable.train": good(), "cable.test": [*good(), bad(1)], **bottle(train, test)})
    expected = {f"train/good/00000{index}.png": part["image_path"] for index, part in enumerate(train)}
    for index, part in enumerate(test):
        expected[f"test/{part['defect']}/00000{index}.png"] = part["image_path"]
        if part["mask_path"]:
            expected[f"ground_truth/{part['defect']}/00000{index}_mask.png"] = part["mask_path"]
    written = files(folder)
    source = json.loads(written.pop("source.json"))
    assert written == {name: cell["bytes"] for name, cell in expected.items()}
    assert (source["repository"], source["revision"]) == (str(tmp_path / "repository"), None) and source["commit"]
    assert list_categories("hub", tmp_path) == list_categories("hub", tmp_path / "hub") == ["bottle"]
    category = load_category("hub", "bottle", tmp_path)
    assert (category.dataset, category.name, category.has_masks) == ("hub", "bottle", True)
    assert [sample.defect for sample in category.test] == ["good", "good", "crack", "scratch", "scratch"]
    assert np.argwhere(category.test[2].mask(SIZE[::-1])).tolist() == [[21 % SIZE[1], 1]]


def test_a_category_may_be_a_configuration(tmp_path: Path) -> None:
    for name, start in (("cable", 0), ("bottle", 100)):
        splits = {"train": good(2, start), "test": [*good(1, start + 10), bad(start + 20)]}
        repository = write_repository(tmp_path / "repository", splits, config=name)
    folder = hub.materialize(repository, "bottle", tmp_path / "hub")
    assert (folder / "train/good/000000.png").read_bytes() == picture(100)
    assert (folder / "test/scratch/000001.png").read_bytes() == picture(120)


@pytest.mark.parametrize(
    ("kind", "good_label", "bad_label", "defect"),
    [
        (Value("int64"), 0, 1, "anomaly"),
        (Value("bool"), False, True, "anomaly"),
        (Value("string"), "Normal", "abnormal", "abnormal"),
        (Value("string"), "0", "1", "anomaly"),
        (ClassLabel(names=["crack", "good"]), 1, 0, "crack"),  # by the alphabet, as imagefolder numbers them
        (ClassLabel(names=["0", "1"]), 0, 1, "anomaly"),
    ],
    ids=repr,
)
def test_what_a_label_means(kind: Any, good_label: Any, bad_label: Any, defect: str, tmp_path: Path) -> None:
    fine, broken = ({"label": label, "defect": None} for label in (good_label, bad_label))
    folder = materialize(tmp_path, bottle(good(1, **fine), [*good(1, 10, **fine), bad(20, **broken)]), label=kind)
    assert {path.name for path in (folder / "test").iterdir()} == {"good", defect}
    assert (folder / f"test/{defect}/000001.png").read_bytes() == picture(20)


def test_the_defect_alone_is_enough_and_other_columns_are_named(tmp_path: Path) -> None:
    parts = [{"photo": cells["image_path"], "kind": cells["defect"]} for cells in (*good(2), bad(5, "Kratzer"))]
    with pytest.raises(DatasetError, match=r"image_path \(image\).*label \(label\).*among photo, kind.*columns="):
        materialize(tmp_path, bottle(parts[:1], parts[1:]), photo=datasets.Image(), kind=Value("string"))
    columns = {"image": "photo", "mask": "", "label": "", "defect": "kind"}
    hub.materialize(str(tmp_path / "repository"), "bottle", tmp_path / "hub", columns=columns)
    category = load_category("hub", "bottle", tmp_path)
    assert [sample.defect for sample in category.test] == ["good", "Kratzer"] and not category.has_masks


NAMES = {
    "..": "anomaly",
    "../../x": "x",
    "__MACOSX": "MACOSX",
    "a/b:c": "a_b_c",
    "x" * 99 + "傷": "x" * 99,
    "OK": "good",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_defect_is_one_visible_folder(name: str) -> None:
    assert hub.name_defect({"defect": name}, {}) == NAMES[name]


@pytest.mark.parametrize("name", ["good.", " Good", "_GOOD_", "\u200bok"])
def test_no_defect_gets_the_folder_of_good_parts(name: str) -> None:
    with pytest.raises(DatasetError, match="contradict"):
        hub.name_defect({"label": 1, "defect": name}, {})


def test_the_suffix_is_that_of_the_bytes(tmp_path: Path) -> None:
    suffixes = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
    train = [{**row(0), "image_path": {"bytes": picture(9, kind), "path": "a.png"}} for kind in suffixes]
    folder = materialize(tmp_path, bottle(train, [*good(1), bad(1, "../../../escaped")]))
    assert [path.suffix for path in sorted((folder / "train/good").iterdir())] == list(suffixes.values())
    assert (folder / "test/escaped").is_dir() and {path.name for path in tmp_path.iterdir()} == {"repository", "hub"}


PATH_ONLY = {"bytes": None, "path": "/etc/hostname"}
WRONG = {
    "mask on a good part": ([*good(1, mask_path=mask((0, 0))), bad(1)], "row 0: .*good and its mask marks"),
    "contradiction": ([*good(1), row(1, 0, "crack")], "row 1: label and defect contradict"),
    "unlabelled": ([*good(1), row(1, -1, None)], "row 1: the label is -1"),
    "no label": ([*good(1), row(1, None, None)], "row 1: the label is None"),
    "no picture": ([*good(1), bad(1, image_path=None)], "row 1: .*empty"),
    "path for a picture": ([*good(1), bad(1, image_path=PATH_ONLY)], "row 1: .*empty"),
    "path for a mask": ([*good(1), bad(1, mask_path=PATH_ONLY)], "row 1: .*empty"),
    "damaged picture": ([*good(1), bad(1, image_path={"bytes": picture(1)[:200], "path": None})], "row 1: .*damaged"),
    "nothing good": ([bad(1)], "test: no part is good"),
    "anomalous part to train on": ([*good(1), bad(1)], r"row 1: .*anomalous \(scratch\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    rows, message = WRONG[case]
    split = "train" if "to train on" in case else "test"
    with pytest.raises(DatasetError, match=message) as caught:
        materialize(tmp_path, {**USUAL, f"bottle.{split}": rows})
    assert str(caught.value).startswith(f"{tmp_path / 'repository'}, split bottle.{split}")
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [".bottle.lock"]


def test_what_cannot_be_had_is_one_error(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", USUAL)
    with pytest.raises(DatasetError, match=r"no split \['cup.train', 'cup.test'\]: .*'bottle.train'.*default"):
        hub.materialize(repository, "cup", tmp_path / "hub")
    parquet = next((tmp_path / "repository").rglob("bottle.test*.parquet"))
    parquet.write_bytes(parquet.read_bytes()[:-100])
    (tmp_path / "card").mkdir()
    (tmp_path / "card/README.md").write_text("---\nconfigs: [\n---\n")
    for wrong in ("nobody/nothing", "/nowhere/at/all", "no name", repository, str(tmp_path / "card")):
        with pytest.raises(DatasetError, match=f"{wrong} cannot be read as a dataset .*check the name, the network"):
            hub.materialize(wrong, "bottle", tmp_path / "hub")
    assert hub.find_categories(tmp_path / "hub") == []


def test_what_is_there_is_not_written_again_nor_mistaken_for_another(tmp_path: Path) -> None:
    folder = materialize(tmp_path, USUAL)
    before, repository = files(folder), str(tmp_path / "repository")
    (tmp_path / "repository").rename(tmp_path / "gone")
    assert hub.materialize(repository, "bottle", tmp_path / "hub") == folder and files(folder) == before
    for change in ({"revision": "v2"}, {"columns": {"mask": ""}}):
        with pytest.raises(DatasetError, match="was made from"):
            hub.materialize(repository, "bottle", tmp_path / "hub", **change)
    (folder / "source.json").unlink()  # a folder of the user's own
    with pytest.raises(DatasetError, match=r"cannot be read .*source\.json"):
        hub.materialize(repository, "bottle", tmp_path / "hub")
    assert len(files(folder)) == len(before) - 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, AttributeError, OSError])
def test_an_interrupted_try_is_not_taken_for_whole(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / "hub/.bottle.part/test/good/000099.png"
    stale.parent.mkdir(parents=True)  # left by a process that was killed
    stale.write_bytes(b"stale")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(error))
        # What is no fault of the dataset keeps its name.
        with pytest.raises(DatasetError if error is OSError else error):
            materialize(tmp_path, USUAL)
    assert hub.find_categories(tmp_path / "hub") == [] and not stale.parent.exists()
    assert len(files(hub.materialize(str(tmp_path / "repository"), "bottle", tmp_path / "hub"))) == 5


@pytest.mark.slow
def test_from_a_hub_only_the_category_is_fetched(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    splits = {**USUAL, "cable.train": good(2), "cable.test": [*good(1), bad(2)]}
    script = (
        "import sys; from pathlib import Path; from benchmark.datasets.hub import materialize\n"
        "try: materialize('maker/none', 'bottle', Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "materialize('maker/parts', 'bottle', Path(sys.argv[1]))"
    )
    server: Hub = request.getfixturevalue("hub")  # this file has a module of that name

    class Datasets(server.RequestHandlerClass):  # type: ignore[name-defined,misc]
        """The server knows models: datasets have other addresses, and are listed by folder and read in pieces."""

        def do_GET(self) -> None:
            self.path = self.path.replace("/api/datasets/", "/api/models/").replace("/datasets/", "/")
            super().do_GET()

        do_HEAD = do_GET

        def tree(self, body: bytes, repo_id: str, revision: str) -> Any:
            folder = self.path.partition("?")[0].endswith("/default")
            entries = [item for item in super().tree(body, repo_id, revision) if ("/" in item["path"]) == folder]
            return [*entries, *[{"type": "directory", "path": "default", "size": 0, "oid": "1"}] * (not folder)]

        def _send(self, content: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
            if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                start, end = int(span[1]), int(span[2]) + 1
                headers = {**(headers or {}), "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
                content, status = content[start:end], 206
            super()._send(content, headers, status)

    server.RequestHandlerClass = Datasets
    tree = files(Path(write_repository(tmp_path / "repository", splits)))
    repo = server.add("maker/parts", tree)
    # The address of the Hub is read once, when the libraries are imported.
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", script, str(tmp_path / "hub")]
    child = subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    asked = [path for _, path, _ in server.requests]
    assert child.stdout.startswith("DatasetError maker/none cannot be read as a dataset (DatasetNotFoundError")
    assert json.loads((tmp_path / "hub/bottle/source.json").read_text())["commit"] == repo.refs["main"]
    assert len(files(tmp_path / "hub/bottle")) == 5
    fetched = {path.rpartition("/")[2] for path in asked if path.endswith(".parquet")}
    assert fetched == {f"bottle.{split}-00000-of-00001.parquet" for split in ("train", "test")}
