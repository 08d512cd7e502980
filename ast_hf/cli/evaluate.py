"""The verb evaluate."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from ast_hf.cli.options import add_model, add_scoring, make_predictor
from ast_hf.files import check_folder

_LOG = logging.getLogger(__name__)


def add(verbs: Any) -> None:
    """Registers the verb."""
    verb = verbs.add_parser(
        "evaluate",
        help="measure a detector on good and defective parts",
        description="Prints how well good and defective parts are told apart, and what the threshold makes of them. "
        "The exit status is 1 where a picture could not be used.",
    )
    add_model(verb)
    verb.add_argument(
        "folder", type=Path,
        help="good/ and a folder a kind of defect; masks in ground_truth/KIND/NAME_mask.png, or beside the pictures",
    )  # fmt: skip
    verb.add_argument("--format", choices=("text", "json"), default="text", help="of the figures (default: text)")
    verb.add_argument("--report", type=Path, metavar="FILE", help="also write them with pictures, as one HTML file")
    add_scoring(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluates, and gives the exit status."""
    from ast_hf.data.labelled import labelled_samples
    from ast_hf.evaluation import evaluate, summarize, write_report
    from ast_hf.training.progress import progress_bars

    if options.report is not None:
        check_folder(options.report.parent)
    predictor = make_predictor(options)
    samples = labelled_samples(predictor.config, options.folder)
    with progress_bars() as progress:
        evaluation = evaluate(predictor, samples, batch_size=options.batch_size, progress=progress)
    as_json = json.dumps({"model": options.model, "folder": str(options.folder), **evaluation.to_dict()}, indent=2)
    sys.stdout.write(as_json + "\n" if options.format == "json" else summarize(evaluation))
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_report(options.report, evaluation, predictor, samples, f"{options.model} on {options.folder}")
        _LOG.info("Written to %s", options.report)
    for reason in evaluation.unreadable:
        _LOG.error("%s", reason)
    return 1 if evaluation.unreadable else 0
