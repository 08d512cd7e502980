"""A parquet dataset of the Hugging Face Hub, written to a folder once and from then on read like a user's own.

A category is the dataset's configuration of that name ("default" where it has one only) with the splits `train` and
`test`, or else the pair of splits `CATEGORY.train` and `CATEGORY.test`, as in `TheoM55/mvtec_all_objects_split`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ast_hf.data.folders import GOOD_NAMES
from ast_hf.data.images import read_image, read_mask
from ast_hf.data.sample import GOOD
from ast_hf.errors import ASTError, DatasetError
from benchmark.datasets import readers
from benchmark.datasets.base import Category, list_folders

COLUMNS = {"image": "image_path", "mask": "mask_path", "label": "label", "defect": "defect"}
_LABELS = {0: GOOD, 1: "anomaly", "0": GOOD, "1": "anomaly"}  # False, True and 1.0 are equal to one of the keys
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif", b"RIFF": ".webp"}


def find_categories(root: Path) -> list[str]:
    return [path.name for path in list_folders(root) if readers.find_folder(path)]


def load_category(root: Path, name: str) -> Category:
    """Reads a category that is there; raises what the `folder` dataset does."""
    return replace(readers.folder(root / name, name), dataset="hub")


def materialize(
    repository: str,
    category: str,
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> Path:
    """Writes a category of a Hub dataset, or of one in a folder, to `folder/CATEGORY`, unless it is there already.

    Pictures are kept byte for byte and named after their row; no other category's are fetched. The folder appears whole
    or not at all, and of several processes one writes it; its source.json says where it is from, with the commit.

    `columns` are names that differ from `COLUMNS`, "" where there is none such. Label or defect is enough: 0, good,
    normal and ok are good, whatever number the dataset gives to a named class; anything else is anomalous.

    Raises:
        DatasetError: The dataset or the folder is out of reach, lacks something or contradicts what is asked for.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError
    from yaml import YAMLError

    target = folder / category
    source = {"repository": repository, "revision": revision, "columns": {**COLUMNS, **(columns or {})}}
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{category}.lock"):
                if not target.exists():
                    _write_category(target, source)
        stored = json.loads((target / "source.json").read_bytes())
    except DatasetError:
        raise
    # What datasets, huggingface_hub, fsspec and pyarrow raise for what they cannot get or read.
    except (OSError, ValueError, RuntimeError, LookupError, HTTPError, DatasetsError, YAMLError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.400}"
        advice = f"check the name, the network, the login and {folder}"
        raise DatasetError(f"{repository} cannot be read as a dataset ({reason}): {advice}.") from error
    if stored != {**stored, **source}:
        raise DatasetError(f"{target} was made from {stored}, not {source}: remove it, or give another folder.")
    return target


def _write_category(target: Path, source: Mapping[str, Any]) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed: whoever holds the lock is alone
    try:
        commit, streams = _open_streams(target.name, source)
        for split, (where, rows) in zip(("train", "test"), streams.items(), strict=True):
            for index, row in enumerate(rows):
                try:
                    _write_row(row, name_defect(row, rows.features), part / split, f"{index:06}")
                except ASTError as error:
                    raise DatasetError(f"{where}, row {index}: {getattr(error, 'reason', error)}") from error
            if not (part / split / GOOD).is_dir():
                raise DatasetError(f"{where}: no part is good; check which columns are label and defect.")
        (part / "source.json").write_text(json.dumps({**source, "commit": commit}, indent=2) + "\n")
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _open_streams(category: str, source: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Gives the commit, and by split the rows: roles for columns, pictures as they are stored."""
    import datasets

    repository, revision = source["repository"], source["revision"]
    configurations = datasets.get_dataset_config_names(repository, revision=revision)
    configured = category in configurations
    builder = datasets.load_dataset_builder(repository, category if configured else None, revision=revision)
    streams = builder.as_streaming_dataset()  # without streaming every split is fetched, and so every category
    names = [split if configured else f"{category}.{split}" for split in ("train", "test")]
    if missing := [name for name in names if name not in streams]:
        raise DatasetError(f"{repository} has no split {missing}: choose of {list(streams)} or {configurations}.")
    features, roles = streams[names[0]].features or {}, {name: role for role, name in source["columns"].items() if name}
    if missing := [f"{name} ({role})" for name, role in roles.items() if name not in features]:
        advice = "name others, as in columns={'image': 'photo', 'mask': ''} ('' for none)"
        raise DatasetError(f"{repository} has no column {', '.join(missing)} among {', '.join(features)}: {advice}.")
    for name in [name for name, role in roles.items() if role in ("image", "mask")]:
        streams = streams.cast_column(name, datasets.Image(decode=False))  # first of all, as the others would decode
    streams = streams.select_columns(list(roles)).rename_columns({k: v for k, v in roles.items() if k != v})
    return builder.hash, {f"{repository}, split {name}": streams[name] for name in names}


def _write_row(row: Mapping[str, Any], defect: str, folder: Path, stem: str) -> None:
    if folder.name == "train" and defect != GOOD:
        raise DatasetError(f"this part is anomalous ({defect}), and only good ones are trained on: give other splits.")
    # A path without bytes is a stranger's and could be any file of this machine: refused as a picture of no bytes.
    data = {role: cell["bytes"] or b"" for role in ("image", "mask") if any((cell := row.get(role) or {}).values())}
    read_image(data.get("image", b""))
    _write_picture(folder / defect / stem, data["image"])
    if "mask" in data and read_mask(data["mask"]).any() and defect == GOOD:
        raise DatasetError("this part is good and its mask marks a defect: correct one of the two.")
    if "mask" in data and defect != GOOD:
        _write_picture(folder.parent / "ground_truth" / defect / f"{stem}_mask", data["mask"])


def _write_picture(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + next(_SUFFIXES[k] for k in _SUFFIXES if content.startswith(k))).write_bytes(content)


def name_defect(row: Mapping[str, Any], features: Mapping[str, Any]) -> str:
    """Gives "good", or the defect's name made safe for a folder: nothing that separates, hides or turns the text."""
    words = []
    for role in ("label", "defect"):
        word, classes = row.get(role), getattr(features.get(role), "names", None) or {}
        word = classes[word] if word in range(len(classes)) else word
        words += [_LABELS.get(word, word)] if word not in (None, "") else []
    if not words or not all(isinstance(word, str) for word in words):
        raise DatasetError(f"the label is {row.get('label')!r}: it must be 0 (good), 1 (anomalous) or a name.")
    words = ["".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in word) for word in words]
    words = [word.encode()[:100].decode(errors="ignore").strip(" ._") or "anomaly" for word in words]
    if len({word.casefold() in GOOD_NAMES for word in words}) > 1:
        raise DatasetError(f"label and defect contradict each other ({words}): use one only (columns={{'label': ''}}).")
    return GOOD if words[0].casefold() in GOOD_NAMES else words[-1]
