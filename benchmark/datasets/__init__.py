"""The datasets of the benchmark, by name.

`data_root` holds one folder a dataset, named after it (`data_root/mvtec_ad/bottle`), or is itself that folder
(`data_root/bottle`). Only what is there is used: `missing_categories` says what is not. Importing this needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ast_hf.errors import DatasetError
from benchmark.datasets import folder, hub, magnetic_tile, mvtec_3d_ad, mvtec_ad, mvtec_loco_ad, visa
from benchmark.datasets.base import Category, DefectConfig, LabelledSample, check_masks
from benchmark.datasets.facts import FACTS, DatasetFacts

__all__ = [
    "DATASETS",
    "Category",
    "DatasetFacts",
    "DefectConfig",
    "LabelledSample",
    "check_masks",
    "checkpoint_name",
    "dataset_folder",
    "list_categories",
    "load_category",
    "missing_categories",
]

DATASETS: dict[str, DatasetFacts] = {facts.name: facts for facts in FACTS}
# A reader is a module of its dataset's name. All have `load_category(dataset folder, category)`, and those whose
# categories are not just folders with official names also `find_categories(dataset folder)`.
_READERS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (mvtec_ad, mvtec_3d_ad, mvtec_loco_ad, visa, magnetic_tile, folder, hub)
}


def list_categories(dataset: str, data_root: str | Path, good: str = "") -> list[str]:
    """Lists the categories of a dataset that are there, in official order; none where the dataset is not there.

    `good` is what the folders of good parts are called in a user's own data, unless good, normal or ok.

    Raises:
        DatasetError: If the dataset is unknown or `data_root` is no folder.
    """
    return _find_categories(_facts(dataset), dataset_folder(dataset, data_root, good), good)


def missing_categories(dataset: str, data_root: str | Path) -> list[str]:
    """Lists the official categories of a dataset that are not there.

    Raises:
        DatasetError: If the dataset is unknown or `data_root` is no folder.
    """
    present = list_categories(dataset, data_root)
    return [name for name in _facts(dataset).categories if name not in present]


def load_category(dataset: str, name: str, data_root: str | Path, good: str = "") -> Category:
    """Reads one category's split; no picture is opened. `good` as in `list_categories`.

    Raises:
        DatasetError: If the dataset or the category is unknown or not there, or is not as it should be.
        ImageReadError: If a folder is missing or empty, or files do not pair up.
    """
    facts, root = _facts(dataset), dataset_folder(dataset, data_root, good)
    present = _find_categories(facts, root, good)
    if name not in present and (present or dataset != "folder"):  # whose reader says more
        advice = "put pictures of good parts into its folder good/ or train/good/"
        if facts.categories:
            advice = f"unpack one of {', '.join(facts.categories)} there, from {facts.download_page}"
        raise DatasetError(f"{root} has no category {name!r} (there: {', '.join(present) or 'none'}): {advice}.")
    category: Category = _READERS[dataset].load_category(root, name, **({"good": good} if good else {}))
    normal, anomalous = ([sample.label for sample in category.test].count(label) for label in (0, 1))
    if not (category.train and normal and anomalous):
        raise DatasetError(
            f"{root} ({name}) has {len(category.train)} parts to train on and {normal} good and {anomalous} anomalous "
            "ones to test on: add some where there is none."
        )
    return category


def checkpoint_name(dataset: str, category: str) -> str:
    """Gives the name under which a detector of this category is saved, e.g. "ast-mvtec-bottle"."""
    return _facts(dataset).checkpoint_prefix + category


def dataset_folder(dataset: str, data_root: str | Path, good: str = "") -> Path:
    """Finds the dataset's own folder: the one named after it in `data_root`, or `data_root` itself.

    `good` as in `list_categories`.

    Raises:
        DatasetError: If the dataset is unknown or `data_root` is no folder.
    """
    facts, data_root = _facts(dataset), Path(data_root).expanduser()
    if not data_root.is_dir():
        raise DatasetError(f"{data_root} is no folder: give the folder that holds the datasets.")
    for root in (data_root / dataset, data_root):
        if root.is_dir() and _find_categories(facts, root, good):
            return root
    # Nothing is there: the folder to name in messages is the one where the dataset should have been.
    return data_root / dataset if facts.categories and data_root.name != dataset else data_root


def _facts(dataset: str) -> DatasetFacts:
    if dataset not in DATASETS:
        raise DatasetError(f"There is no dataset {dataset!r}: choose one of {', '.join(DATASETS)}.")
    return DATASETS[dataset]


def _find_categories(facts: DatasetFacts, root: Path, good: str) -> list[str]:
    if find := getattr(_READERS[facts.name], "find_categories", None):
        return list(find(root, **({"good": good} if good else {})))
    return [name for name in facts.categories if (root / name).is_dir()]
