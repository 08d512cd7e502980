"""From the command line's options to jobs: every dataset, category, modality, variant and seed that is there."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ast_hf.backbone import PRETRAINED
from ast_hf.config import ASTDetectorConfig, TrainingRecipe, parse_changes
from ast_hf.errors import ASTError, ConfigError
from ast_hf.hub import home
from benchmark.ablations import AST, VARIANTS, variants_of
from benchmark.datasets import DATASETS, hub, list_categories, missing_categories
from benchmark.download import how_to_get
from benchmark.jobs import Job
from benchmark.synthetic import write_synthetic

_LOG = logging.getLogger("benchmark")
# Drawn data need no large model, and the presets of the paper would take days where there is no GPU.
_SYNTHETIC_PRESET = "compact"


def plan(options: argparse.Namespace) -> list[Job]:
    """The jobs that the options of `run.parser` ask for; what is missing of the datasets is logged.

    Raises:
        ASTError: A dataset, category or setting is not known, or nothing is there.
    """
    synthetic = options.data == "synthetic"
    data_root = write_synthetic(home() / "synthetic") if synthetic else options.data_root
    datasets = official_datasets() if options.all else options.datasets
    if not synthetic:
        report_missing(datasets, data_root)
    weights, digest = options.backbone_weights, ""
    if weights != PRETRAINED:
        weights, digest = _weights_file(weights)
    # What every job of the run has in common.
    common = {"data": options.data, "backbone_weights": weights, "backbone_digest": digest}
    jobs = [
        Job(dataset, category, seed, data_root=str(Path(root).resolve()), **settings, **common)
        for dataset in datasets
        for root, category in _categories(dataset, data_root, options)
        for settings in _settings(dataset, options)
        for seed in options.seeds
    ]
    if not jobs:
        raise ASTError(f"{data_root} holds nothing of: {', '.join(datasets)}. Give --data-root, or --data synthetic.")
    return list({job.id: job for job in jobs}.values())


def official_datasets() -> list[str]:
    """The datasets that have official categories, which is what `--all` means."""
    return [name for name, facts in DATASETS.items() if facts.categories]


def report_missing(datasets: Sequence[str], data_root: Path) -> None:
    """Logs what of the official data is not there, how to get it, and under which licence."""
    for dataset in datasets:
        official = DATASETS[dataset].categories
        there = data_root.is_dir()
        missing = missing_categories(dataset, data_root) if there else list(official)
        if missing:
            what = "not there" if len(missing) == len(official) else f"lacks {', '.join(missing)}"
            _LOG.info("%s: %s in %s.\n%s", dataset, what, data_root, how_to_get(dataset, data_root))


def settings(
    preset: str, changes: Sequence[str], epochs: int | None, modality: str = "rgb", variant: str = AST
) -> tuple[ASTDetectorConfig, TrainingRecipe]:
    """Configuration and recipe of a preset with changes; all good images are trained on, as in the paper.

    Args:
        preset: One of `ast_hf.config.PRESETS`.
        changes: "FIELD=VALUE" texts; they go above everything else.
        epochs: Of teacher and of student, or None for the preset's.
        modality: `ASTDetectorConfig.modality`; with depth the maximum of the map is the score, otherwise its mean.
        variant: One of `benchmark.ablations.VARIANTS`.
    """
    config_changes, recipe_changes = parse_changes(changes)
    score = "mean" if modality == "rgb" else "max"
    config = {"modality": modality, "image_score": score, **config_changes, **VARIANTS[variant]}
    recipe: dict[str, Any] = {"calibration_fraction": 0.0, **recipe_changes}
    if epochs is not None:
        recipe["epochs"] = epochs
    return ASTDetectorConfig.preset(preset, **config), TrainingRecipe.preset(preset, **recipe)


def _settings(dataset: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is to be trained on each category of a dataset: one a modality, or one a modality and ablation."""
    facts = DATASETS[dataset]
    preset = options.preset or (_SYNTHETIC_PRESET if options.data == "synthetic" else facts.preset)
    for modality in facts.modalities:
        if options.modalities and modality not in options.modalities:
            continue
        plain = settings(preset, options.set, options.epochs, modality)
        for variant in variants_of(modality):
            if variant != AST and (options.ablations is None or variant not in (options.ablations or VARIANTS)):
                continue
            changed = settings(preset, options.set, options.epochs, modality, variant)
            if variant != AST and VARIANTS[variant] and changed == plain:
                continue  # the settings are this variant already
            config, recipe = (record.to_dict() for record in changed)
            yield {"config": config, "recipe": recipe, "preset": preset, "variant": variant}


def _categories(dataset: str, data_root: Path, options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The categories to run, each with the folder that its dataset lies in."""
    if dataset == hub.FACTS.name:
        yield from _hub_categories(options)
        return
    if not data_root.is_dir():
        return
    present = list_categories(dataset, data_root)
    for category in options.categories or present:
        if category in present:
            yield data_root, category
        elif category in DATASETS[dataset].categories or not any(
            category in facts.categories for facts in DATASETS.values()
        ):
            raise ConfigError(
                f"{data_root} has no category {category!r} of {dataset}; it has: {', '.join(present) or 'none'}."
            )


def _hub_categories(options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """Brings the named categories of a Hub dataset to disk."""
    if not options.hub_dataset or not options.categories:
        raise ConfigError("--datasets hub needs --hub-dataset OWNER/NAME and --categories: name what to bring.")
    repository, _, revision = options.hub_dataset.partition("@")
    folder = home() / "hub" / options.hub_dataset.replace("/", "--")
    columns = pairs(options.hub_columns)
    for category in options.categories:
        hub.bring(repository, category, folder, columns=columns, revision=revision or None)
        yield folder, category


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Reads "NAME=VALUE" texts.

    Raises:
        ConfigError: One has no "=".
    """
    if wrong := [text for text in texts if "=" not in text]:
        raise ConfigError(f"{wrong[0]!r} is no NAME=VALUE.")
    return dict(text.split("=", 1) for text in texts)


def _weights_file(path: str | Path) -> tuple[str, str]:
    """The weights' absolute path and their SHA-256, which makes them part of a job's id."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"The backbone's weights {path} cannot be read: {error.strerror}.") from error
    return str(Path(path).resolve()), hashlib.sha256(content).hexdigest()
