"""The datasets of the benchmark, by name.

`data_root` holds one folder a dataset, named after it (`data_root/mvtec_ad/bottle`), or is itself that folder
(`data_root/bottle`). Only what is there is used: `missing_categories` says what is not.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.datasets import folder, hub, magnetic_tile, mvtec_3d_ad, mvtec_ad, mvtec_loco_ad, visa
from benchmark.datasets.base import Category, DatasetFacts, DefectConfig, Sample

__all__ = [
    "DATASETS",
    "Category",
    "DatasetFacts",
    "DefectConfig",
    "Sample",
    "checkpoint_name",
    "dataset_folder",
    "list_categories",
    "load_category",
    "missing_categories",
]

DATASETS: dict[str, DatasetFacts] = {
    module.FACTS.name: module.FACTS
    for module in (mvtec_ad, mvtec_3d_ad, mvtec_loco_ad, visa, magnetic_tile, folder, hub)
}


def list_categories(dataset: str, data_root: str | Path) -> list[str]:
    """Lists the categories of a dataset that are there, in official order; none where the dataset is not there.

    Raises:
        DatasetError: If the dataset is unknown or `data_root` is no folder.
    """
    facts = _facts(dataset)
    return facts.find_categories(dataset_folder(facts, data_root))


def missing_categories(dataset: str, data_root: str | Path) -> list[str]:
    """Lists the official categories of a dataset that are not there.

    Raises:
        DatasetError: If the dataset is unknown or `data_root` is no folder.
    """
    present = list_categories(dataset, data_root)
    return [name for name in _facts(dataset).categories if name not in present]


def load_category(dataset: str, name: str, data_root: str | Path) -> Category:
    """Reads one category's split; no picture is opened.

    Raises:
        DatasetError: If the dataset or the category is unknown or not there, or is not as it should be.
    """
    facts = _facts(dataset)
    if facts.categories and name not in facts.categories:
        raise DatasetError(f"{dataset} has no category {name!r}: choose one of {', '.join(facts.categories)}.")
    root = dataset_folder(facts, data_root)
    present = facts.find_categories(root)
    if name not in present and (present or facts.categories):
        mend = f"unpack it there from {facts.download_page}" if facts.categories else "give the folder's own name"
        raise DatasetError(f"{root} has no category {name!r} (there: {', '.join(present) or 'none'}): {mend}.")
    category = facts.load_category(root, name)
    good, anomalous = ([sample.label for sample in category.test].count(label) for label in (0, 1))
    if not (category.train and good and anomalous):
        raise DatasetError(
            f"{root} ({name}) has {len(category.train)} parts to train on and {good} good and {anomalous} anomalous "
            "ones to test on: add some where there is none."
        )
    return category


def checkpoint_name(dataset: str, category: str) -> str:
    """Gives the name under which a detector of this category is saved, e.g. "ast-mvtec-bottle"."""
    return _facts(dataset).checkpoint_prefix + category


def _facts(dataset: str) -> DatasetFacts:
    if dataset not in DATASETS:
        raise DatasetError(f"There is no dataset {dataset!r}: choose one of {', '.join(DATASETS)}.")
    return DATASETS[dataset]


def dataset_folder(facts: DatasetFacts, data_root: str | Path) -> Path:
    """Finds the dataset's own folder: the one named after it in `data_root`, or `data_root` itself.

    Raises:
        DatasetError: If `data_root` is no folder.
    """
    data_root = Path(data_root).expanduser()
    if not data_root.is_dir():
        raise DatasetError(f"{data_root} is no folder: give the folder that holds the datasets.")
    for root in (data_root / facts.name, data_root):
        if root.is_dir() and facts.find_categories(root):
            return root
    # Nothing is there: the folder to name in messages is the one where the dataset should have been.
    return data_root / facts.name if facts.categories and data_root.name != facts.name else data_root
