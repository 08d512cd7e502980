"""`python -m benchmark.speed`: how long every step of AST takes, beside an eager fp32 loop like the paper's code.

Runtimes and reference have a process each and take turns, so that what else the machine does falls on all of them.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata, util
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table

import ast_hf
from ast_hf.config import PRESETS, ASTDetectorConfig, parse_overrides
from ast_hf.detector import default_device
from ast_hf.errors import ASTError
from ast_hf.files import write_atomic
from ast_hf.inference.runtimes import RuntimeName
from ast_hf.nn.precision import resolve_precision
from benchmark.stages import ANOMALIB, MANY, REFERENCE, TRAINING, peak_memory, stage_names, time_stage, write_inputs


@dataclass(frozen=True)
class Measurement:
    """One stage, by contender: a runtime of ours, "reference" or "anomalib"."""

    stage: str
    seconds: dict[str, list[float]]  # of each repetition, for one picture, step or file
    peak_bytes: dict[str, int]  # the most memory that the contender's process had had by then

    def milliseconds(self, contender: str) -> float:
        """The median; NaN where the contender has no such stage."""
        return 1e3 * median(self.seconds.get(contender, [math.nan]))

    @property
    def ratio(self) -> float:
        """How many times as long as the fastest of ours the reference takes; NaN without one."""
        return self.milliseconds(REFERENCE) / min(self.milliseconds(name) for name in self.seconds if name != REFERENCE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 2 where something that was asked for cannot be had."""
    command = parser()
    options = command.parse_args(arguments)
    if options.peers and util.find_spec("anomalib") is None:
        command.error("--peers needs the package anomalib: pip install anomalib.")
    try:
        results = _measure_presets(options)
    except ASTError as error:
        command.error(str(error))
    if options.output:
        write_atomic(options.output, json.dumps(results, indent=1).encode())


def _measure_presets(options: argparse.Namespace) -> dict[str, Any]:
    device, results = default_device(options.device), []
    openvino = device.type == "cpu" and util.find_spec("openvino") is not None
    runtimes = options.runtimes or (["torch", "openvino"] if openvino else ["torch"])
    contenders = [*runtimes, REFERENCE, *[ANOMALIB] * options.peers]
    for preset in options.preset:
        config = ASTDetectorConfig.preset(preset, **parse_overrides(options.set)[0])
        measurements = measure(config, contenders, device, max(options.rounds, 1), training=not options.no_training)
        Console().print(table(f"{preset}, {versions(device)['device']}", measurements, contenders))
        results.append({"preset": preset, "measurements": [asdict(m) for m in measurements]})
    return {**versions(device), "results": results}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmark.speed", description=__doc__.partition(": ")[2])
    presets = sorted(name for name in PRESETS if not ASTDetectorConfig.preset(name).uses_depth)
    parser.add_argument(
        "--preset", nargs="+", choices=presets, default=["mvtec-ad", "compact-b0", "compact"], metavar="NAME",
        help=f"detectors to measure, of {', '.join(presets)} (default: mvtec-ad compact-b0 compact)",
    )  # fmt: skip
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of their presets")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument("--no-training", action="store_true", help="leave out the steps of training, the longest")
    parser.add_argument(
        "--runtimes", nargs="+", choices=get_args(RuntimeName), metavar="NAME",
        help="torch (which single stages need), compile, openvino (default: torch, and openvino if there on a CPU)",
    )  # fmt: skip
    parser.add_argument("--peers", action="store_true", help="measure anomalib's detectors too (pip install anomalib)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep all repetitions, versions and device as JSON")
    return parser


def measure(
    config: ASTDetectorConfig, contenders: Sequence[str], device: torch.device, rounds: int, *, training: bool
) -> list[Measurement]:
    """Measures one configuration with random weights; raises `RuntimeUnavailableError` as the runtimes do."""
    measurements, spawn = [], multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # not here: children inherit the peak of our memory
            pool.submit(write_inputs, Path(folder), config).result()
        pools = {who: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for who in contenders}

        def submit(function: Callable[..., Any], who: str, *arguments: str) -> Future[Any]:
            return pools[who].submit(function, who, Path(folder), device, *arguments)

        found = {who: stages.result() for who, stages in {who: submit(stage_names, who) for who in contenders}.items()}

        def time(who: str, stage: str) -> float:
            return submit(time_stage, who, stage).result()

        wanted = dict.fromkeys(name for who in contenders if who != REFERENCE for name in found[who])
        for stage in [name for name in wanted if training or name != TRAINING]:
            runs = {who: partial(time, who, stage) for who in contenders if stage in found[who]}
            seconds = take_turns(runs, rounds)
            peaks = {who: pools[who].submit(peak_memory, device).result() for who in runs}
            measurements.append(Measurement(stage, seconds, peaks))
    return measurements


def take_turns(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What contenders give, called one after another so many times; a round before that does not count."""
    rows = [[run() for run in runs.values()] for _ in range(rounds + 1)]
    return {name: [row[column] for row in rows[1:]] for column, name in enumerate(runs)}


def versions(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    packages = ("torch", "timm", "openvino", "efficientnet_pytorch", "anomalib")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "precision": resolve_precision(device, "auto"),
        "python": platform.python_version(),
        "ast_hf": ast_hf.__version__,
        **{name: metadata.version(name) for name in packages if util.find_spec(name)},
    }


def table(title: str, measurements: Sequence[Measurement], contenders: Sequence[str]) -> Table:
    """Medians, how many times as long as the fastest of ours the reference takes, and the processes' memory."""
    table = Table("milliseconds", title=title, title_justify="left")
    for column in (*contenders, "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = {m.stage: [*map(m.milliseconds, contenders), m.ratio] for m in measurements}
    peaks = {name: size for m in measurements if m.stage == MANY for name, size in m.peak_bytes.items()}
    rows["peak memory predicting, MB"] = [peaks.get(name, math.nan) / 1e6 for name in contenders]
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.1f}".replace("nan", "") for value in values))
    return table


if __name__ == "__main__":
    main()
