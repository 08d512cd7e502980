"""`python -m benchmark.run --all`: trains and evaluates AST on the benchmarks and writes the tables beside the paper's.

Every finished job leaves a result file; a run that is started again goes on where it was. Several runs may share one
output folder, on one machine or on several.
"""

import argparse
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ast_hf.config import PRESETS, PRETRAINED
from ast_hf.errors import ASTError
from ast_hf.files import check_folder
from benchmark.datasets import DATASETS
from benchmark.jobs import AST, VARIANTS, forget, read_result
from benchmark.launch import Launcher, RunState, describe_failures, run_jobs
from benchmark.launchers import LAUNCHERS, make_launcher

_LOG = logging.getLogger("benchmark")
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, *, launcher: Launcher | None = None) -> int:
    """Runs the command line, by another launcher than it names where one is given.

    Gives the exit status: 1 where a job failed or the report could not be written, 2 where nothing could be started,
    130 after Ctrl-C, else 0; what was finished is reported in any case.
    """
    command = parser()
    options = command.parse_args(arguments)
    if options.jobs_per_device < 1 or options.retries < 0 or options.timeout < 0:
        command.error("--jobs-per-device must be 1 or more, --retries and --timeout 0 or more.")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from benchmark.plan import plan  # what makes data, trains and draws is imported when it is needed

    try:
        check_folder(options.output)
        jobs = plan(options)
        if options.force:
            for job in jobs:
                forget(options.output, job)
        run = RunState.load(options.output, jobs)
        status = _run(run, launcher, options) if run.having("waiting") else 0
    except ASTError as error:
        _LOG.error("%s", error)
        return 2
    try:
        results = [result for job in jobs if (result := read_result(options.output, job)) is not None]
        if results:
            from benchmark.report import write_report

            expected = [{"id": job.id, **dataclasses.asdict(job)} for job in jobs]
            sys.stdout.write(write_report(options.output, results, expected) + "\n")
            _LOG.info("The report is %s.", options.output / "report.md")
            _store_detectors(options.output)
    except OSError as error:
        _LOG.error("The report could not be written to %s: %s. Start the run again.", options.output, error)
        status = status or 1
    for text in describe_failures(run):
        _LOG.error("%s", text)
    return status or (1 if run.having("failed") else 0)


def _store_detectors(output: Path) -> None:
    """Puts each category's detector (of the lowest seed) where `from_pretrained("ast-mvtec-bottle")` finds it."""
    from ast_hf.hub import store
    from benchmark.push import plan_pushes

    try:
        pushes = plan_pushes(output, all_modalities=True)
        for name, push in pushes.items():
            store(push.folder, name, push.metrics)
        _LOG.info("Ready for from_pretrained: %s.", ", ".join(pushes))
    except (ASTError, OSError) as error:
        _LOG.warning("No detector is stored for from_pretrained: %s", error)


def _run(run: RunState, launcher: Launcher | None, options: argparse.Namespace) -> int:
    """Runs what is waiting; 130 where Ctrl-C or a polite end (SIGTERM) stopped it, else 0."""
    from benchmark.live import live_view

    worker_options = ["--deterministic"] * options.deterministic
    worker_options += ["--timeout", str(60 * options.timeout)] if options.timeout else []
    where = {"device": options.device, "jobs_per_device": options.jobs_per_device}
    more = dict(options.launcher_options)
    launcher = launcher or make_launcher(options.launcher, options.output, **where, options=more)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with live_view(run, launcher.slots, quiet=options.quiet) as show:
            run_jobs(run, launcher, options=worker_options, retries=options.retries, show=show)
    except KeyboardInterrupt:
        _LOG.info("Stopped. What is finished is kept: the same command goes on from here.")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value


def _option(text: str) -> tuple[str, Any]:
    """A name with a value of JSON, or else of plain text."""
    name, value = _pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmark.run", description=__doc__.partition("\n")[0])
    what = parser.add_argument_group("what to run")
    which = what.add_mutually_exclusive_group(required=True)
    text = "these; folder: your own good parts and a folder for each kind of defect, with all folders inside"
    which.add_argument("--all", action="store_true", help="all benchmarks, as far as their data are there")
    which.add_argument("--datasets", nargs="+", choices=list(DATASETS), help=text)
    what.add_argument("--categories", nargs="+", help="these categories only")
    modalities = DATASETS["mvtec_3d_ad"].modalities
    what.add_argument("--modalities", nargs="+", choices=modalities, help="of 3D data (default: all)")
    what.add_argument("--seeds", nargs="+", type=int, default=[0], help="one detector a seed (default: 0)")
    ablations = [name for name in VARIANTS if name != AST]
    text = f"also the paper's ablations (its tables 5 to 7) and those of the trunk, or only: {', '.join(ablations)}"
    what.add_argument("--ablations", nargs="*", choices=ablations, metavar="NAME", help=text)
    data = parser.add_argument_group("data")
    data.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the datasets (default: data)")
    data.add_argument("--data", choices=["files", "synthetic"], default="files", help="synthetic: drawn, no download")
    text = "for --datasets folder: what folders of good parts are called, unless good, normal or ok"
    data.add_argument("--good", default="", metavar="NAME", help=text)
    data.add_argument("--hub-dataset", metavar="OWNER/NAME[@REVISION]", help="for --datasets hub")
    text = "its image, mask, label, defect columns"
    data.add_argument("--hub-columns", nargs="+", type=_pair, default=[], metavar="FIELD=COLUMN", help=text)
    model = parser.add_argument_group("detector")
    model.add_argument("--preset", choices=list(PRESETS), help="what to train (default: the dataset's own)")
    model.add_argument("--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    model.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other settings of either")
    model.add_argument("--backbone-weights", default=PRETRAINED, help="file in timm's names (default: from the Hub)")
    how = parser.add_argument_group("how to run")
    how.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder for all results")
    how.add_argument("--launcher", choices=LAUNCHERS, default="local", help="where the jobs run (default: local)")
    text = "of ray/slurm"
    how.add_argument("--launcher-options", nargs="+", type=_option, default=[], metavar="NAME=VALUE", help=text)
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
