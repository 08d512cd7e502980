"""Datasets of the Hub: real parquet repositories made on disk, and a Hub played on this machine."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ast_hf.errors import DatasetError
from benchmark.datasets import DATASETS, hub, list_categories, load_category

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 12, 9


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what the library writes down out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def picture(value: int, size: tuple[int, int] = (WIDTH, HEIGHT), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    # No settings that decoding and encoding again would meet by chance.
    Image.fromarray(noise).save(buffer, kind, compress_level=1, quality=40)
    return buffer.getvalue()


def mask(*pixels: tuple[int, int], size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict[str, Any]:
    array = np.zeros(size[::-1], np.uint8)
    for pixel in pixels:
        array[pixel] = 255
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "../../mask.png"}


def row(value: int, label: Any = 0, defect: Any = "good", mask: dict[str, Any] | None = None) -> dict[str, Any]:
    image = {"bytes": picture(value), "path": "/etc/stolen/../000.png"}
    return {"image_path": image, "mask_path": mask, "label": label, "defect": defect}


def good(count: int = 2, start: int = 0, **cells: Any) -> list[dict[str, Any]]:
    return [{**row(start + index), **cells} for index in range(count)]


def bad(value: int, defect: Any = "scratch", **cells: Any) -> dict[str, Any]:
    return {**row(value, 1, defect, mask((value % HEIGHT, 1))), **cells}


def write_repository(root: Path, splits: dict[str, list[dict[str, Any]]], config: str = "default", **types: Any) -> str:
    """A dataset repository as on the Hub: parquet files, and in README.md which of them are which split."""
    image = datasets.Image()
    features = {"image_path": image, "mask_path": image, "label": Value("int64"), "defect": Value("string"), **types}
    lines = []
    for split, rows in splits.items():
        folder = root / config
        folder.mkdir(parents=True, exist_ok=True)
        columns = Features({name: kind for name, kind in features.items() if name in rows[0]})
        # Not to_parquet, which puts pictures in the place of paths.
        pq.write_table(Dataset.from_list(rows, columns).data.table, folder / f"{split}-00000-of-00001.parquet")
        lines.append(f"  - split: {split}\n    path: {config}/{split}-*\n")
    card = root / "README.md"
    before = card.read_text().removesuffix("---\n") if card.exists() else "---\nconfigs:\n"
    card.write_text(f"{before}- config_name: {config}\n  data_files:\n{''.join(lines)}---\n")
    return str(root)


def bottle(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {"bottle.train": train, "bottle.test": test}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_category_becomes_a_folder_and_a_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = good(3), [*good(2, 10), bad(20), bad(21, "crack"), bad(22)]
    splits = {"cable.train": good(), "cable.test": [*good(), bad(1)], **bottle(train, test)}
    repository = write_repository(tmp_path / "repository", splits)
    folder = hub.bring(repository, "bottle", tmp_path / "hub")
    expected = {f"train/good/00000{index}.png": part["image_path"] for index, part in enumerate(train)}
    for index, part in enumerate(test):
        expected[f"test/{part['defect']}/00000{index}.png"] = part["image_path"]
        if part["mask_path"]:
            expected[f"ground_truth/{part['defect']}/00000{index}_mask.png"] = part["mask_path"]
    written = files(folder)
    source = json.loads(written.pop("source.json"))
    assert written == {name: cell["bytes"] for name, cell in expected.items()}
    assert (source["repository"], source["revision"], source["splits"]) == (repository, None, ["train", "test"])
    monkeypatch.setitem(DATASETS, "hub", hub.FACTS)
    assert list_categories("hub", tmp_path) == list_categories("hub", tmp_path / "hub") == ["bottle"]
    category = load_category("hub", "bottle", tmp_path)
    assert (category.dataset, category.name, category.has_masks) == ("hub", "bottle", True)
    assert [sample.defect for sample in category.test] == ["good", "good", "crack", "scratch", "scratch"]
    (crack,) = [sample for sample in category.test if sample.defect == "crack"]
    assert np.argwhere(crack.mask((HEIGHT, WIDTH))).tolist() == [[21 % HEIGHT, 1]]


def test_a_category_may_be_a_configuration(tmp_path: Path) -> None:
    for name, start in (("cable", 0), ("bottle", 100)):
        splits = {"training": good(2, start), "evaluation": [*good(1, start + 10), bad(start + 20)]}
        repository = write_repository(tmp_path / "repository", splits, config=name)
    folder = hub.bring(repository, "bottle", tmp_path / "hub", splits=("training", "evaluation"))
    assert (folder / "train/good/000000.png").read_bytes() == picture(100)
    assert (folder / "test/scratch/000001.png").read_bytes() == picture(120)


CLASSES = ClassLabel(names=["crack", "good"])  # by the alphabet, as imagefolder numbers them: good is 1


@pytest.mark.parametrize(
    ("kind", "good_label", "bad_label", "defect"),
    [
        (Value("int64"), 0, 1, "anomaly"),
        (Value("bool"), False, True, "anomaly"),
        (Value("string"), "Normal", "abnormal", "abnormal"),
        (Value("string"), "0", "1", "anomaly"),
        (CLASSES, 1, 0, "crack"),
        (ClassLabel(names=["OK", "NG"]), 0, 1, "NG"),
        (ClassLabel(names=["0", "1"]), 0, 1, "anomaly"),
    ],
    ids=repr,
)
def test_what_a_label_means(kind: Any, good_label: Any, bad_label: Any, defect: str, tmp_path: Path) -> None:
    fine, broken = ({"label": label, "defect": None} for label in (good_label, bad_label))
    parts = bottle(good(1, **fine), [*good(1, 10, **fine), bad(20, **broken)])
    folder = hub.bring(write_repository(tmp_path / "repository", parts, label=kind), "bottle", tmp_path / "hub")
    assert {path.name for path in (folder / "test").iterdir()} == {"good", defect}
    assert (folder / f"test/{defect}/000001.png").read_bytes() == picture(20)


def test_the_defect_alone_is_enough_and_other_columns_are_named(tmp_path: Path) -> None:
    parts = [{"photo": cells["image_path"], "kind": cells["defect"]} for cells in (*good(2), bad(5, "Kratzer"))]
    repository = write_repository(
        tmp_path / "repository", bottle(parts[:1], parts[1:]), photo=datasets.Image(), kind=Value("string")
    )
    with pytest.raises(DatasetError, match=r"image_path \(image\).*label \(label\).*among photo, kind.*columns="):
        hub.bring(repository, "bottle", tmp_path / "hub")
    columns = {"image": "photo", "mask": "", "label": "", "defect": "kind"}
    hub.bring(repository, "bottle", tmp_path / "hub", columns=columns)
    category = hub.load_category(tmp_path / "hub", "bottle")
    assert [sample.defect for sample in category.test] == ["good", "Kratzer"] and not category.has_masks


@given(st.text(min_size=1))
@example("..")
@example("../../x")
@example("__MACOSX")
@example("x" * 99 + "傷")
def test_a_defect_is_one_visible_folder(name: str) -> None:
    made = hub._name_defect({"defect": name}, {})
    assert Path("test", made).parts == ("test", made) and not made.startswith((".", "__"))
    assert made.isprintable() and 0 < len(made.encode()) <= 100
    if re.fullmatch(r"[^\W_]{1,25}", name):
        assert made.casefold() == {"0": "good", "1": "anomaly", "ok": "good", "normal": "good"}.get(
            name.casefold(), name.casefold()
        )


@pytest.mark.parametrize("name", ["good.", " Good", "_GOOD_", "\u200bok"])
def test_no_defect_gets_the_folder_of_good_parts(name: str) -> None:
    with pytest.raises(DatasetError, match="contradict"):
        hub._name_defect({"label": 1, "defect": name}, {})


def test_names_of_the_hub_become_no_paths(tmp_path: Path) -> None:
    defects = ["../../../escaped", "/root", "..", "Kratzer groß 傷"]
    parts = bottle(good(1), [*good(1), *(bad(20 + index, defect) for index, defect in enumerate(defects))])
    hub.bring(write_repository(tmp_path / "repository", parts), "bottle", tmp_path / "hub")
    category = hub.load_category(tmp_path / "hub", "bottle")
    assert {sample.defect for sample in category.test} == {"good", "escaped", "root", "anomaly", "Kratzer groß 傷"}
    assert {path.name for path in tmp_path.iterdir()} == {"repository", "hub"}


def test_the_suffix_is_that_of_the_bytes(tmp_path: Path) -> None:
    train = [{**row(0), "image_path": {"bytes": picture(9, kind=kind), "path": "a.png"}} for kind in SUFFIXES]
    parts = bottle(train, [*good(1), bad(1)])
    folder = hub.bring(write_repository(tmp_path / "repository", parts), "bottle", tmp_path / "hub")
    assert [path.suffix for path in sorted((folder / "train/good").iterdir())] == list(SUFFIXES.values())


SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
PATH_ONLY = {"bytes": None, "path": "/etc/hostname"}
WRONG = {
    "no mask": ([*good(1), bad(1), bad(2, mask_path=None)], r"test, row 2: this 'scratch' has no mask"),
    "mask of another size": ([*good(1), bad(1, mask_path=mask((0, 0), size=(20, 10)))], r"row 1: .*12 x 9 .* 20 x 10"),
    "mask on a good part": ([*good(1, mask_path=mask((0, 0))), bad(1)], "row 0: .*good and its mask marks"),
    "contradiction": ([*good(1), row(1, 0, "crack")], "row 1: label and defect contradict"),
    "other polarity": ([*good(1, label=1), bad(1, label=0)], "row 0: label and defect contradict"),
    "unlabelled": ([*good(1), row(1, -1, None)], "row 1: the label is -1"),
    "no label": ([*good(1), row(1, None, None)], "row 1: the label is None"),
    "no picture": ([*good(1), bad(1, image_path=None)], "row 1: .*empty"),
    "path for a picture": ([*good(1), bad(1, image_path=PATH_ONLY)], "row 1: .*empty"),
    "path for a mask": ([*good(1), bad(1, mask_path=PATH_ONLY)], "row 1: .*empty"),
    "damaged picture": ([*good(1), bad(1, image_path={"bytes": picture(1)[:200], "path": None})], "row 1: .*damaged"),
    "nothing good": ([bad(1)], "test: no part is good"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    test, message = WRONG[case]
    repository = write_repository(tmp_path / "repository", bottle(good(), test))
    with pytest.raises(DatasetError, match=message) as caught:
        hub.bring(repository, "bottle", tmp_path / "hub")
    assert str(caught.value).startswith(f"{repository}, split bottle.test")
    assert hub.find_categories(tmp_path / "hub") == []
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [".bottle.lock"]


def test_defects_without_any_mask_and_blank_masks_of_good_parts_are_fine(tmp_path: Path) -> None:
    parts = bottle(good(1, mask_path=mask()), [*good(1, mask_path=mask()), bad(1, "a", mask_path=None), bad(2, "b")])
    folder = hub.bring(write_repository(tmp_path / "repository", parts), "bottle", tmp_path / "hub")
    assert [path.name for path in (folder / "ground_truth").iterdir()] == ["b"]
    assert not hub.load_category(tmp_path / "hub", "bottle").has_masks


def test_anomalous_parts_are_not_trained_on(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", bottle([*good(1), bad(1)], [*good(1), bad(2)]))
    with pytest.raises(DatasetError, match=r"bottle\.train, row 1: .*anomalous \(scratch\)"):
        hub.bring(repository, "bottle", tmp_path / "hub")


def test_an_unknown_category_is_told_what_there_is(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", bottle(good(1), [*good(1), bad(2)]))
    with pytest.raises(
        DatasetError, match=r"no split \['cup.train', 'cup.test'\]: .*'bottle.train', 'bottle.test'.*default"
    ):
        hub.bring(repository, "cup", tmp_path / "hub")


@pytest.mark.parametrize("repository", ["nobody/nothing", "/nowhere/at/all"])
def test_what_cannot_be_reached_is_one_error(repository: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{repository} cannot be brought .*check the name, the network"):
        hub.bring(repository, "bottle", tmp_path / "hub")


def test_what_is_there_is_not_brought_again_nor_mistaken_for_another(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", bottle(good(1), [*good(1), bad(2)]))
    folder = hub.bring(repository, "bottle", tmp_path / "hub")
    before = files(folder)
    (tmp_path / "repository").rename(tmp_path / "gone")
    (tmp_path / "hub" / ".bottle.lock").unlink()
    assert hub.bring(repository, "bottle", tmp_path / "hub") == folder and files(folder) == before
    assert not (tmp_path / "hub" / ".bottle.lock").exists()
    for change in ({"revision": "v2"}, {"columns": {"mask": ""}}, {"splits": ("train", "val")}):
        with pytest.raises(DatasetError, match="was made from"):
            hub.bring(repository, "bottle", tmp_path / "hub", **change)
    (folder / "source.json").unlink()  # a folder of the user's own
    with pytest.raises(DatasetError, match=r"cannot be brought .*source\.json"):
        hub.bring(repository, "bottle", tmp_path / "hub")
    assert len(files(folder)) == len(before) - 1


@pytest.mark.parametrize("cleaned", [True, False], ids=["interrupted", "killed"])
def test_an_interrupted_try_is_not_taken_for_whole(
    cleaned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = write_repository(tmp_path / "repository", bottle(good(1), [*good(1), bad(2)]))
    with monkeypatch.context() as patch:
        if not cleaned:
            patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            hub.bring(repository, "bottle", tmp_path / "hub")
    assert hub.find_categories(tmp_path / "hub") == []
    assert (tmp_path / "hub" / ".bottle.part").exists() != cleaned
    if not cleaned:
        (tmp_path / "hub/.bottle.part/test/good/000099.png").write_bytes(b"stale")
    folder = hub.bring(repository, "bottle", tmp_path / "hub")
    assert len(files(folder)) == 5 and not (tmp_path / "hub" / ".bottle.part").exists()


def test_of_several_at_once_one_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = write_repository(tmp_path / "repository", bottle(good(1), [*good(1), bad(2)]))
    calls, bring_whole = [], hub._bring_whole
    monkeypatch.setattr(hub, "_bring_whole", lambda *args: (calls.append(args), bring_whole(*args)))
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: hub.bring(repository, "bottle", tmp_path / "hub"), range(4)))
    assert len(calls) == 1 and set(folders) == {tmp_path / "hub" / "bottle"}


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def play_hub(root: Path, asked: list[str]) -> ThreadingHTTPServer:
    """A Hub with one dataset, maker/parts: the folder `root`. Writes down the paths that are asked for."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path, api = self.path.partition("?")[0], "/api/datasets/maker/parts/"
            tree, name = (path.partition(f"{part}/{COMMIT}")[2].strip("/") for part in ("tree", "resolve"))
            name = name or path.partition("/resolve/main/")[2]
            if path == f"{api}revision/{COMMIT}":
                self.answer(200, json.dumps({"id": "maker/parts", "sha": COMMIT}).encode())
            elif path.startswith(f"{api}tree/") and (root / tree).is_dir():
                kinds = {True: "file", False: "directory"}
                entries = [
                    {"type": kinds[item.is_file()], "path": str(item.relative_to(root)), "size": size, "oid": COMMIT}
                    for item in (root / tree).iterdir()
                    if (size := item.stat().st_size)
                ]
                self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith("/datasets/maker/parts/") and (root / name).is_file():
                data, status = (root / name).read_bytes(), 200
                headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{len(data)}"'}
                if wanted := self.headers.get("Range"):
                    start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
                    status, headers["Content_Range"] = 206, f"bytes {start}-{end}/{len(data)}"
                    data = data[start : end + 1]
                self.answer(status, data, **headers)
            else:
                self.answer(404, X_Error_Code="EntryNotFound" if "maker/parts" in path else "RepoNotFound")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.slow
def test_from_a_hub_only_the_category_is_fetched(tmp_path: Path) -> None:
    splits = {**bottle(good(2), [*good(1), bad(2)]), "cable.train": good(2), "cable.test": [*good(1), bad(2)]}
    root = Path(write_repository(tmp_path / "repository", splits))
    asked: list[str] = []
    script = (
        "import sys; from pathlib import Path; from benchmark.datasets.hub import bring\n"
        "try: bring('maker/none', 'bottle', Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "bring('maker/parts', 'bottle', Path(sys.argv[1]))"
    )
    server = play_hub(root, asked)
    # The address of the Hub is read once, when the libraries are imported.
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
    try:
        child = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "hub")],
            env=environment,
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert child.stdout.startswith("DatasetError maker/none cannot be brought (DatasetNotFoundError")
    assert json.loads((tmp_path / "hub/bottle/source.json").read_text())["commit"] == COMMIT
    assert len(files(tmp_path / "hub/bottle")) == 6
    fetched = {path.rpartition("/")[2] for path in asked if path.endswith(".parquet")}
    assert fetched == {f"bottle.{split}-00000-of-00001.parquet" for split in ("train", "test")}
