"""`python -m benchmark.run --all`: trains and evaluates AST on the benchmarks and writes the tables beside the paper's.

Every finished job leaves a result file; a run that is started again goes on where it was. Several runs may share one
output folder, on one machine or on several.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ast_hf.backbone import PRETRAINED
from ast_hf.commands import plan_pushes
from ast_hf.config import PRESETS
from ast_hf.errors import ASTError
from ast_hf.hub import store
from benchmark.ablations import AST, VARIANTS
from benchmark.datasets import DATASETS
from benchmark.jobs import forget_result, read_result
from benchmark.launch import Board, describe_failures, run_jobs
from benchmark.launchers import LAUNCHERS, make_launcher
from benchmark.live import watch
from benchmark.plan import pairs, plan
from benchmark.report import write_report

_LOG = logging.getLogger("benchmark")
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit status: 0, or 1 where a job failed or the report could not be written, 2 where nothing could be
        started, 130 after Ctrl-C; what was finished is reported in any case.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        jobs = plan(options)
        if options.force:
            for job in jobs:
                forget_result(options.output, job)
        board = Board.of(options.output, jobs)
        status = _run(board, options) if board.waiting else 0
    except ASTError as error:
        _LOG.error("%s", error)
        return 2
    try:
        results = [result for job in jobs if (result := read_result(options.output, job)) is not None]
        if results:
            expected = [{"id": job.id, **job.to_dict()} for job in jobs]
            sys.stdout.write(write_report(options.output, results, expected) + "\n")
            _LOG.info("The report is %s.", options.output / "report.md")
            store_detectors(options.output)
    except OSError as error:
        _LOG.error("The report could not be written to %s: %s. Start the run again.", options.output, error)
        status = status or 1
    for text in describe_failures(board, {job.id: job for job in jobs}):
        _LOG.error("%s", text)
    return status or (1 if board.failed else 0)


def store_detectors(output: Path) -> None:
    """Puts each category's detector (of the lowest seed) where `from_pretrained("ast-mvtec-bottle")` finds it."""
    try:
        pushes = plan_pushes(output, all_modalities=True)
        for name, push in pushes.items():
            store(push.folder, name, push.metrics)
        _LOG.info("Ready for from_pretrained: %s.", ", ".join(pushes))
    except ASTError as error:
        _LOG.info("No detector is stored for from_pretrained: %s", error)


def _run(board: Board, options: argparse.Namespace) -> int:
    """Runs what is waiting; 130 where Ctrl-C or a polite end (SIGTERM) stopped it, else 0."""
    worker_options = ["--deterministic"] if options.deterministic else []
    if options.timeout:
        worker_options += ["--timeout", str(60 * options.timeout)]
    launcher = make_launcher(
        options.launcher,
        options.output,
        device=options.device,
        jobs_per_device=options.jobs_per_device,
        options={name: _value(text) for name, text in pairs(options.launcher_options).items()},
    )
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with watch(quiet=options.quiet, slots=launcher.slots) as show:
            run_jobs(board, launcher, options=worker_options, retries=options.retries, show=show)
    except KeyboardInterrupt:
        _LOG.info("Stopped. What is finished is kept: the same command goes on from here.")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _value(text: str) -> Any:
    """A number or truth value as JSON has it, or else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.run", description=__doc__.partition("\n")[0])
    what = parser.add_argument_group("what to run")
    which = what.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="all benchmarks, as far as their data are there")
    which.add_argument("--datasets", nargs="+", choices=list(DATASETS), help="these datasets")
    what.add_argument("--categories", nargs="+", help="these categories only")
    what.add_argument(
        "--modalities", nargs="+", choices=["rgb+depth", "rgb", "depth"], help="of 3D data (default: all)"
    )
    what.add_argument("--seeds", nargs="+", type=int, default=[0], help="one detector a seed (default: 0)")
    what.add_argument(
        "--ablations",
        nargs="*",
        choices=[name for name in VARIANTS if name != AST],
        metavar="NAME",
        help="also the paper's ablations (its tables 5 to 7) and those of the trunk, or only: "
        + ", ".join(name for name in VARIANTS if name != AST),
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the datasets (default: data)")
    data.add_argument(
        "--data", choices=["files", "synthetic"], default="files", help="synthetic: drawn here, nothing to download"
    )
    data.add_argument("--hub-dataset", metavar="OWNER/NAME[@REVISION]", help="for --datasets hub")
    data.add_argument(
        "--hub-columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="its image, mask, label, defect columns"
    )
    model = parser.add_argument_group("detector")
    model.add_argument("--preset", choices=list(PRESETS), help="what to train (default: the dataset's own)")
    model.add_argument("--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    model.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other settings of either")
    model.add_argument(
        "--backbone-weights", default=PRETRAINED, help="safetensors file in timm's names (default: from the Hub)"
    )
    how = parser.add_argument_group("how to run")
    how.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder for all results")
    how.add_argument("--launcher", choices=LAUNCHERS, default="local", help="where the jobs run (default: local)")
    how.add_argument("--launcher-options", nargs="+", default=[], metavar="NAME=VALUE", help="of ray or slurm")
    how.add_argument("--device", help="cpu, cuda, cuda:1 (default: all GPUs, or the CPU)")
    how.add_argument("--jobs-per-device", type=int, default=1, metavar="N", help="jobs that share one (default: 1)")
    how.add_argument("--retries", type=int, default=2, help="for jobs that were killed or lost (default: 2)")
    how.add_argument("--timeout", type=float, default=0, metavar="MINUTES", help="for one job (default: none)")
    how.add_argument("--deterministic", action="store_true", help="only deterministic algorithms; slower on a GPU")
    how.add_argument("--force", action="store_true", help="run finished jobs again")
    how.add_argument("--quiet", action="store_true", help="lines for a log instead of a live view")
    return parser


if __name__ == "__main__":
    sys.exit(main())
