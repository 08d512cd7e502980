"""The datasets of the benchmark, by name.

`data_root` holds one folder a dataset, named after it (`data_root/mvtec_ad/bottle`), or is itself that folder
(`data_root/bottle`). Only what is there is used: `missing_categories` says what is not. `good` is what the folders of
good parts are called in a user's own data, unless good, normal or ok. Importing this needs no torch.
"""

from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.datasets import hub, readers
from benchmark.datasets.base import Category, DefectConfig, LabelledSample, check_masks
from benchmark.datasets.facts import DATASETS

__all__ = [
    "DATASETS",
    "Category",
    "DefectConfig",
    "LabelledSample",
    "check_masks",
    "dataset_folder",
    "list_categories",
    "load_category",
    "missing_categories",
]


def list_categories(dataset: str, data_root: str | Path, good: str = "") -> list[str]:
    """The categories of a dataset that are there, in official order; raises as `dataset_folder`."""
    return _find_categories(dataset, dataset_folder(dataset, data_root, good), good)


def missing_categories(dataset: str, data_root: str | Path) -> list[str]:
    """The official categories of a dataset that are not there; raises as `dataset_folder`."""
    present = list_categories(dataset, data_root)
    return [name for name in DATASETS[dataset].categories if name not in present]


def load_category(dataset: str, name: str, data_root: str | Path, good: str = "") -> Category:
    """Reads one category's split; no picture is opened.

    Raises:
        DatasetError: If the dataset or the category is unknown or not there, or is not as it should be.
        ImageReadError: If a folder is missing or empty, or files do not pair up.
    """
    root = dataset_folder(dataset, data_root, good)
    present, facts = _find_categories(dataset, root, good), DATASETS[dataset]
    if name not in present and (present or dataset != "folder"):  # whose reader says more
        official = f"unpack one of {', '.join(facts.categories)} there, from {facts.download_page}"
        advice = official if facts.categories else "put pictures of good parts into its folder good/ or train/good/"
        raise DatasetError(f"{root} has no category {name!r} (there: {', '.join(present) or 'none'}): {advice}.")
    read = hub.load_category if dataset == "hub" else getattr(readers, dataset)  # which has a reader of each name
    category: Category = read(root, name, **({"good": good} if good else {}))
    normal, anomalous = ([sample.label for sample in category.test].count(label) for label in (0, 1))
    if not (category.train and normal and anomalous):
        raise DatasetError(
            f"{root} ({name}) has {len(category.train)} parts to train on and {normal} good and {anomalous} anomalous "
            "ones to test on: add some where there is none."
        )
    return category


def dataset_folder(dataset: str, data_root: str | Path, good: str = "") -> Path:
    """The dataset's own folder; raises a DatasetError if the dataset is unknown or `data_root` is no folder."""
    data_root = Path(data_root).expanduser()
    if dataset not in DATASETS:
        raise DatasetError(f"There is no dataset {dataset!r}: choose one of {', '.join(DATASETS)}.")
    if not data_root.is_dir():
        raise DatasetError(f"{data_root} is no folder: give the folder that holds the datasets.")
    for root in (data_root / dataset, data_root):
        if root.is_dir() and _find_categories(dataset, root, good):
            return root
    # Nothing is there: the folder to name in messages is the one where the dataset should have been.
    return data_root / dataset if DATASETS[dataset].categories and data_root.name != dataset else data_root


def _find_categories(dataset: str, root: Path, good: str) -> list[str]:
    if dataset == "folder":
        return readers.find_folder(root, good)
    if dataset == "hub":
        return hub.find_categories(root)
    # A set of one category has its good parts there.
    places = {name: "MT_Free" if dataset == "magnetic_tile" else name for name in DATASETS[dataset].categories}
    return [name for name, place in places.items() if (root / place).is_dir()]
