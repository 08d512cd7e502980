"""`python -m benchmark.push RESULTS --org ORG`: uploads the detectors of a benchmark run to the Hugging Face Hub."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError, CheckpointError
from ast_hf.files import write_atomic
from ast_hf.hub.checkpoint import CONFIG_NAME
from ast_hf.hub.client import client, explained
from ast_hf.hub.model_card import PICTURE_NAME
from benchmark.datasets import DATASETS
from benchmark.jobs import AST, MODEL_NAME, RESULT_NAME
from benchmark.plots import SHEET_NAME

_LOG = logging.getLogger("benchmark")


class Push(NamedTuple):
    """One detector to push: its checkpoint, and for the card its metrics (None keeps those it has) and PNGs to try."""

    folder: Path
    metrics: dict[str, Any] | None
    pictures: list[Path]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; gives 0, 1 where a detector was not pushed, or 2 where nothing was."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.push", description=__doc__.partition(": ")[2])
    parser.add_argument("results", type=Path, help="output folder of benchmark.run, or folder of a detector")
    parser.add_argument("--org", required=True, help="organisation or user on the Hub")
    parser.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    parser.add_argument("--collection", metavar="TITLE", help="group them in a collection")
    parser.add_argument("--all-modalities", action="store_true", help="of 3D data also pictures or scans alone")
    parser.add_argument("--half-precision", action="store_true", help="store the weights in fp16")
    parser.add_argument("--backbone-weights", help="safetensors file, for a backbone that is neither stored nor timm's")
    parser.add_argument("--aliases", type=Path, metavar="FILE", help="table of names to add what is pushed to")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be pushed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        pushes = plan_pushes(options.results, all_modalities=options.all_modalities)
        pushed = {name: table for name, push in pushes.items() if (table := _push(name, push, options))}
        known = json.loads(options.aliases.read_text()) if options.aliases and options.aliases.is_file() else {}
        text = json.dumps({**known, **pushed}, indent=2) + "\n"
        sys.stdout.write(text)
        if options.aliases and not options.dry_run:
            write_atomic(options.aliases, text.encode())
        if options.collection and not options.dry_run:
            _collect([entry["repo"] for entry in pushed.values()], options)
    except (ASTError, OSError) as error:
        _LOG.error("%s", error)
        return 2
    return 0 if len(pushed) == len(pushes) else 1


def plan_pushes(results: Path, *, all_modalities: bool = False) -> dict[str, Push]:
    """What to push, by name: of each category the lowest seed's detector, with the figures of all seeds.

    `results` is a run's output folder (jobs/*/result.json, jobs/*/model), or the folder of a checkpoint. Raises a
    `CheckpointError` where there is nothing to push, or a category has several kinds of detector.
    """
    if (results / CONFIG_NAME).is_file():
        return {results.resolve().name: Push(results, None, [results / PICTURE_NAME])}
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob(f"jobs/*/{RESULT_NAME}")):
        try:
            result = {"folder": path.parent, **json.loads(path.read_text())}
            if name := _name(result, all_modalities):
                groups.setdefault(name, []).append(result)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no result of the benchmark ({error!r}).") from error
    if not groups:
        named = ", ".join(name for name, facts in DATASETS.items() if facts.categories)
        raise CheckpointError(f"{results} has no detector of a dataset with a name on the Hub: {named}.")
    return {name: _push_of(name, group) for name, group in sorted(groups.items())}


def _name(result: dict[str, Any], all_modalities: bool) -> str | None:
    job, facts = result["job"], DATASETS[result["job"]["dataset"]]
    modality = job["config"]["modality"]
    alone = f"-{modality}" * (modality != facts.modalities[0])
    missing = job["variant"] != AST or not (result["folder"] / MODEL_NAME / CONFIG_NAME).is_file()
    if not facts.categories or missing or (alone and not all_modalities):
        return None
    return facts.checkpoint_prefix + job["category"] + alone + "-synthetic" * (job["data"] == "synthetic")


def _push_of(name: str, group: list[dict[str, Any]]) -> Push:
    group.sort(key=lambda result: result["job"]["seed"])
    jobs, folder, first = [result["job"] for result in group], group[0]["folder"], group[0]["job"]
    if any((job["config"], job["recipe"]) != (first["config"], first["recipe"]) for job in jobs):
        raise CheckpointError(f"There are several kinds of detector for {name}: push them from runs of their own.")
    shared = set.intersection(*(set(result["figures"]) for result in group))
    numbers = [k for k, v in group[0]["figures"].items() if isinstance(v, float) and k in shared]
    values = {figure: [result["figures"][figure] for result in group] for figure in numbers}
    facts, drawn = DATASETS[first["dataset"]], first["data"] == "synthetic"
    metrics = {
        **{key: first[key] for key in ("dataset", "category", "data", "preset")},
        "title": facts.title + " (synthetic: drawn, not photographed)" * drawn,
        "licence": "apache-2.0" if drawn else facts.hub_licence,
        "limit": "" if drawn else facts.limit,
        "protocol": "Last epoch: nothing is chosen on the test set. Pixel figures without 'paper' are of full size.",
        "figures": {figure: fmean(of_seeds) for figure, of_seeds in values.items()},
        "std": {figure: stdev(of_seeds) for figure, of_seeds in values.items() if len(of_seeds) > 1},
        "seeds": [job["seed"] for job in jobs],
        "published": group[0].get("published", {}),
        "receipt": {**group[0].get("receipt", {}), "epochs": first["recipe"]["epochs"]},
    }
    # Pictures of the data are under their licence; drawn ones are ours.
    return Push(folder / MODEL_NAME, metrics, [folder / MODEL_NAME / PICTURE_NAME, *[folder / SHEET_NAME] * drawn])


def _push(name: str, push: Push, options: argparse.Namespace) -> dict[str, Any] | None:
    """Pushes a detector; gives its entry for the table of names, or None, with the reason logged."""
    repo_id, revision = f"{options.org}/{name}", None
    _LOG.info("%s %s <- %s", "Not pushed:" if options.dry_run else "Pushing", repo_id, push.folder)
    try:
        if not options.dry_run:
            detector = ASTDetector.from_pretrained(push.folder, device="cpu", backbone_weights=options.backbone_weights)
            detector.metrics = push.metrics or detector.metrics
            picture = next((path for path in push.pictures if path.is_file()), None)
            settings = {"private": options.private, "half_precision": options.half_precision, "picture": picture}
            revision = detector.push_to_hub(repo_id, **settings).oid
    except ASTError as error:  # the others are pushed all the same
        _LOG.error("%s", error)
        return None
    return {"repo": repo_id, "revision": revision}


def _collect(repo_ids: Sequence[str], options: argparse.Namespace) -> None:
    api, private = client(), bool(options.private)
    with explained(f"collections/{options.org}"):
        slug = api.create_collection(options.collection, namespace=options.org, private=private, exists_ok=True).slug
        for repo_id in repo_ids:
            api.add_collection_item(slug, repo_id, "model", exists_ok=True)


if __name__ == "__main__":
    sys.exit(main())
