"""`python -m ast_hf push | convert | export`: what happens to detectors after they were trained."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ast_hf.backbone import PRETRAINED
from ast_hf.card import PICTURE_NAME
from ast_hf.checkpoint import CONFIG_NAME, write_whole
from ast_hf.config import PRESETS, ASTDetectorConfig, parse_changes
from ast_hf.errors import ASTError, CheckpointError
from ast_hf.hub import client, explained
from ast_hf.model import ASTDetector

_LOG = logging.getLogger(__name__)
# By dataset, as `benchmark` names them.
_PREFIXES = {
    "mvtec_ad": "ast-mvtec-", "mvtec_3d_ad": "ast-mvtec3d-", "mvtec_loco_ad": "ast-loco-", "visa": "ast-visa-",
    "magnetic_tile": "ast-",
}  # fmt: skip


class Push(NamedTuple):
    """One detector to push: its checkpoint, and for the card its metrics (None keeps those it has) and a PNG."""

    folder: Path
    metrics: dict[str, Any] | None
    picture: Path | None


def add_hub_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the verbs; `add` is `add_parser` of the command line's verbs."""
    verb = add("push", help="upload a benchmark run, or one detector, to the Hub")
    verb.add_argument("results", type=Path, help="output folder of benchmark.run, or folder of a detector")
    verb.add_argument("--org", required=True, help="organisation or user on the Hub")
    verb.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    verb.add_argument("--collection", metavar="TITLE", help="group them in a collection")
    verb.add_argument("--all-modalities", action="store_true", help="of 3D data also pictures or scans alone")
    verb.add_argument("--half-precision", action="store_true", help="store the weights in fp16")
    verb.add_argument("--backbone-weights", help="safetensors file, for a backbone that is neither stored nor timm's")
    verb.add_argument("--aliases", type=Path, metavar="FILE", help="table of names to add what is pushed to")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be pushed")
    verb.set_defaults(run=_push)
    verb = add("convert", help="make a checkpoint of the weights that the authors' code saves")
    verb.add_argument("teacher", type=Path, help="their *_teacher.pth; only from someone you trust")
    verb.add_argument("student", type=Path, help="their *_student.pth")
    verb.add_argument("--preset", default="mvtec-3d-ad", choices=list(PRESETS), help="what they were trained as")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of the preset")
    verb.add_argument("--backbone-weights", default=PRETRAINED, help="safetensors file (default: from the Hub)")
    verb.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    verb.set_defaults(run=_convert)
    verb = add("export", help="write a detector in another format")
    verb.add_argument("model", help="name, Hub id or folder of a detector")
    verb.add_argument("--format", choices=["onnx"], default="onnx", help="(default: onnx)")
    verb.add_argument("--half-precision", action="store_true", help="store the weights in fp16")
    verb.add_argument("--output", type=Path, required=True, help="file to write")
    verb.set_defaults(run=_export)


def plan_pushes(results: Path, *, all_modalities: bool = False) -> dict[str, Push]:
    """What to push, by name: of each category the lowest seed's detector, with the figures of all seeds.

    Args:
        results: Output folder of a benchmark run (jobs/*/result.json, jobs/*/model), or folder of a checkpoint.
        all_modalities: Of 3D data also the detectors of pictures or scans alone.

    Raises:
        CheckpointError: There is nothing to push, or a category has several kinds of detector.
    """
    if (results / CONFIG_NAME).is_file():
        return {results.resolve().name: Push(results, None, _first_file(results / PICTURE_NAME))}
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("jobs/*/result.json")):
        try:
            result = {"folder": path.parent, **json.loads(path.read_text())}
            if name := _name(result, all_modalities):
                groups.setdefault(name, []).append(result)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no result of the benchmark ({error!r}).") from error
    if not groups:
        raise CheckpointError(f"{results} has no detector of a dataset with a name on the Hub: {', '.join(_PREFIXES)}.")
    return {name: _push_of(name, group) for name, group in sorted(groups.items())}


def _name(result: dict[str, Any], all_modalities: bool) -> str | None:
    """The name for a job's detector, or None where it is not to be pushed."""
    job = result["job"]
    prefix, modality = _PREFIXES.get(job["dataset"]), job["config"]["modality"]
    alone = f"-{modality}" if job["dataset"] == "mvtec_3d_ad" and modality != "rgb+depth" else ""
    missing = job["variant"] != "AST" or not (result["folder"] / "model" / CONFIG_NAME).is_file()
    if prefix is None or missing or (alone and not all_modalities):
        return None
    return f"{prefix}{job['category']}{alone}" + "-synthetic" * (job["data"] == "synthetic")


def _push_of(name: str, group: list[dict[str, Any]]) -> Push:
    group.sort(key=lambda result: result["job"]["seed"])
    jobs, folder, first = [result["job"] for result in group], group[0]["folder"], group[0]["job"]
    if any((job["config"], job["recipe"]) != (first["config"], first["recipe"]) for job in jobs):
        raise CheckpointError(f"There are several kinds of detector for {name}: push them from runs of their own.")
    shared = set.intersection(*(set(result["figures"]) for result in group))
    numbers = [k for k, v in group[0]["figures"].items() if isinstance(v, float) and k in shared]
    values = {figure: [result["figures"][figure] for result in group] for figure in numbers}
    metrics = {
        **{key: first[key] for key in ("dataset", "category", "data", "preset")},
        "protocol": "Last epoch: nothing is chosen on the test set. Pixel figures without 'paper' are of full size.",
        "figures": {figure: fmean(of_seeds) for figure, of_seeds in values.items()},
        "std": {figure: stdev(of_seeds) for figure, of_seeds in values.items() if len(of_seeds) > 1},
        "seeds": [job["seed"] for job in jobs],
        "published": group[0].get("published", {}),
        "receipt": {**group[0].get("receipt", {}), "epochs": first["recipe"]["epochs"]},
    }
    # Pictures of the data are under their licence; drawn ones are ours.
    drawn = folder / "heat_maps.png" if first["data"] == "synthetic" else folder / "model" / PICTURE_NAME
    return Push(folder / "model", metrics, _first_file(folder / "model" / PICTURE_NAME, drawn))


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _push(options: argparse.Namespace) -> int:
    pushes = plan_pushes(options.results, all_modalities=options.all_modalities)
    table = json.loads(options.aliases.read_text()) if options.aliases and options.aliases.is_file() else {}
    pushed = []
    for name, push in pushes.items():
        repo_id = f"{options.org}/{name}"
        _LOG.info("%s %s <- %s", "Not pushed:" if options.dry_run else "Pushing", repo_id, push.folder)
        try:
            table[name] = {"repo": repo_id, "revision": None if options.dry_run else _push_one(repo_id, push, options)}
            pushed.append(repo_id)
        except ASTError as error:  # the others are pushed all the same
            _LOG.error("%s", error)
    text = json.dumps(table, indent=2) + "\n"
    sys.stdout.write(text)
    if options.aliases and not options.dry_run:
        write_whole(options.aliases, text.encode())
    if options.collection and not options.dry_run:
        api = client()
        with explained(f"collections/{options.org}"):
            collection = api.create_collection(
                options.collection, namespace=options.org, private=bool(options.private), exists_ok=True
            )
            for repo_id in pushed:
                api.add_collection_item(collection.slug, repo_id, "model", exists_ok=True)
    return 0 if len(pushed) == len(pushes) else 1


def _push_one(repo_id: str, push: Push, options: argparse.Namespace) -> str:
    model = ASTDetector.from_pretrained(push.folder, device="cpu", backbone_weights=options.backbone_weights)
    model.metrics = push.metrics or model.metrics
    half = options.half_precision
    return model.push_to_hub(repo_id, private=options.private, half_precision=half, picture=push.picture).oid


def _convert(options: argparse.Namespace) -> int:
    from ast_hf.original import load_original

    config = ASTDetectorConfig.preset(options.preset, **parse_changes(options.set)[0])
    model = load_original(options.teacher, options.student, config, backbone_weights=options.backbone_weights)
    model.save_pretrained(options.output)
    _LOG.info("Saved to %s; the authors' files hold no threshold, so it gives scores and no verdicts.", options.output)
    return 0


def _export(options: argparse.Namespace) -> int:
    from ast_hf.export import export_onnx  # needs more than the rest does

    model = ASTDetector.from_pretrained(options.model, device="cpu")
    export_onnx(model, options.output, half_precision=options.half_precision)
    _LOG.info("Written to %s", options.output)
    return 0
