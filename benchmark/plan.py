"""From the command line's options to jobs: every dataset, category, modality, variant and seed that is there."""

import argparse
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ast_hf.config import PRETRAINED, ASTDetectorConfig, TrainingRecipe, parse_overrides
from ast_hf.errors import ASTError, ConfigError
from ast_hf.files import home
from benchmark.datasets import DATASETS, hub, list_categories, load_category, missing_categories
from benchmark.download import how_to_get
from benchmark.jobs import AST, RANDOM_TRUNK, RAW_PATCHES, VARIANTS, Job
from benchmark.synthetic import write_synthetic

_LOG = logging.getLogger("benchmark")
# What means nothing for a modality: without depth there is no mask, and without a picture no trunk.
_WITHOUT = {"rgb": {"no mask"}, "depth": {RANDOM_TRUNK, RAW_PATCHES}, "rgb+depth": set[str]()}


def plan(options: argparse.Namespace) -> list[Job]:
    """The jobs that the options of `run.parser` ask for; what is missing of the datasets is logged.

    Raises an ASTError where a dataset, category or setting is not known, or nothing is there.
    """
    synthetic = options.data == "synthetic"
    data_root = write_synthetic(home() / "synthetic") if synthetic else options.data_root
    datasets = options.datasets or [name for name, facts in DATASETS.items() if facts.categories]
    if not synthetic:
        _report_missing(datasets, data_root)
    if options.good and "folder" not in datasets:
        raise ConfigError("--good names the good parts of a folder of your own: it needs --datasets folder.")
    common = {"data": options.data, **_backbone(options.backbone_weights)}
    jobs = [
        Job(dataset, category, seed, data_root=str(Path(root).resolve()), good=good, **settings, **common)
        for dataset in datasets
        for good in [options.good if dataset == "folder" else ""]
        for root, category in _categories(dataset, data_root, good, options)
        for settings in _settings(dataset, options)
        for seed in options.seeds
    ]
    if not jobs:
        raise ASTError(f"{data_root} holds nothing of: {', '.join(datasets)}. Give --data-root, or --data synthetic.")
    return list({job.id: job for job in jobs}.values())


def _report_missing(datasets: Sequence[str], data_root: Path) -> None:
    for dataset in datasets:
        official = DATASETS[dataset].categories
        missing = missing_categories(dataset, data_root) if official and data_root.is_dir() else official
        if missing:
            what = "not there" if len(missing) == len(official) else f"lacks {', '.join(missing)}"
            _LOG.info("%s: %s in %s.\n%s", dataset, what, data_root, how_to_get(dataset, data_root))


def _settings(dataset: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is to be trained on each category of a dataset: one a modality, or one a modality and ablation."""
    facts, asked = DATASETS[dataset], options.ablations
    # Drawn data need no large model, and the presets of the paper would take days where there is no GPU.
    preset = options.preset or ("compact" if options.data == "synthetic" else facts.preset)
    ablations = set() if asked is None else set(asked or VARIANTS)
    for modality in facts.modalities:
        if options.modalities and modality not in options.modalities:
            continue
        plain = _configure(preset, options, modality, AST)
        for variant in VARIANTS:
            if variant != AST and variant not in ablations - _WITHOUT[modality]:
                continue
            changed = _configure(preset, options, modality, variant)
            if VARIANTS[variant] and changed == plain:
                continue  # the settings are this variant already
            yield {**changed, "preset": preset, "variant": variant}


def _configure(preset: str, options: argparse.Namespace, modality: str, variant: str) -> dict[str, Any]:
    """A preset with what the modality asks for, the user's own settings above that, and the variant's above all.

    All good images are trained on, as in the paper; with depth the maximum of the map is the score, else its mean.
    """
    config_changes, recipe_changes = parse_overrides(options.set)
    score = ASTDetectorConfig.preset(preset).image_score
    if score != "top":  # which a preset has for every modality
        score = "mean" if modality == "rgb" else "max"
    config = {"modality": modality, "image_score": score, **config_changes, **VARIANTS[variant]}
    epochs = {} if options.epochs is None else {"epochs": options.epochs}
    recipe = {"calibration_fraction": 0.0, **recipe_changes, **epochs}
    full = ASTDetectorConfig.preset(preset, **config), TrainingRecipe.preset(preset, **recipe)
    return {"config": full[0].to_dict(), "recipe": full[1].to_dict()}


def _categories(dataset: str, data_root: Path, good: str, options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The categories to run, each with the folder that its dataset lies in; those of the Hub are fetched."""
    if dataset == "hub":
        if not options.hub_dataset or not options.categories:
            raise ConfigError("--datasets hub needs --hub-dataset OWNER/NAME and --categories: name what to fetch.")
        repository, _, revision = options.hub_dataset.partition("@")
        folder = home() / "hub" / options.hub_dataset.replace("/", "--")
        for category in options.categories:
            hub.materialize(repository, category, folder, columns=dict(options.hub_columns), revision=revision or None)
            yield folder, category
    elif data_root.is_dir():
        present, known = list_categories(dataset, data_root, good), DATASETS[dataset].categories
        if dataset == "folder" and not present:
            load_category(dataset, "", data_root, good)  # whose error says what there is instead
        elsewhere = {category for facts in DATASETS.values() for category in facts.categories}.difference(known)
        for category in options.categories or present:
            if category in present:
                yield data_root, category
            elif category not in elsewhere:
                there = ", ".join(present) or "none"
                raise ConfigError(f"{data_root} has no category {category!r} of {dataset}; it has: {there}.")


def _backbone(weights: str) -> dict[str, str]:
    """The weights as a job has them: a file by its absolute path and its SHA-256, which is part of the job's id."""
    if weights == PRETRAINED:
        return {"backbone_weights": weights}
    try:
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"The backbone's weights {weights} cannot be read: {error.strerror}.") from error
    return {"backbone_weights": str(Path(weights).resolve()), "backbone_digest": digest}
