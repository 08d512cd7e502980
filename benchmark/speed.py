"""`python -m benchmark.speed`: how long every step of AST takes, beside an eager fp32 loop like the paper's code.

Both take turns, so that what else the machine does falls on both; medians are given. Weights are random: they do not
change the time.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from ast_hf.acceleration import can_accelerate
from ast_hf.checkpoint import write_whole
from ast_hf.config import PRESETS, ASTDetectorConfig, TrainingRecipe
from ast_hf.depth import fill_holes
from ast_hf.features import PreparedParts
from ast_hf.images import read_image, to_pixel_values, upsample_map
from ast_hf.memory import keep_freed_memory
from ast_hf.model import ASTDetector, default_device
from ast_hf.parts import Part
from ast_hf.prediction import predict_parts
from ast_hf.scoring import distance_map
from ast_hf.training import fit
from benchmark import reference, speed_chart
from benchmark.metrics import au_pro
from benchmark.synthetic import draw_part
from benchmark.timing import describe, peak_memory, race, stopwatch, versions

OURS, ACCELERATED, REFERENCE = "ours", "accelerated", "reference"
_BATCH = 16  # pictures, for throughput; the paper trains with batches of 8
_RECIPE = TrainingRecipe(epochs=2)
_STEPS = 2 * _RECIPE.epochs  # of the teacher, and as many of the student
TRUNK, TEACHER, STUDENT, ONE = "trunk", "teacher", "student", "one picture, file to map"
MANY = f"a picture of {_BATCH}, file to map"
TRAINING = f"training step, {_RECIPE.batch_size} pictures"
HOLES = "fill the holes of a scan, 800 x 800"


# Of each step: what does it once, and the pictures, steps or files that this is.
Steps = dict[str, tuple[Callable[[], Any], int]]


@dataclass(frozen=True)
class Measurement:
    """One step: the seconds of each repetition by contender ("ours", "accelerated", "reference"), where it has one."""

    name: str
    count: int  # pictures, steps or files a repetition
    seconds: dict[str, list[float]]

    def milliseconds(self, who: str) -> float:
        """The median for one picture, step or file; NaN where the contender has no such step."""
        seconds = self.seconds.get(who)
        return 1e3 * float(np.median(seconds)) / self.count if seconds else float("nan")

    @property
    def ratio(self) -> float:
        """How many times as long as the faster of ours the reference takes; NaN without one."""
        return self.milliseconds(REFERENCE) / float(np.nanmin([self.milliseconds(who) for who in (OURS, ACCELERATED)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    console, results = Console(), []
    device = default_device(options.device)
    for preset in options.preset:
        result = measure(ASTDetectorConfig.preset(preset), options)
        console.print(table(f"{preset}, {describe(device)}", result["measurements"]))
        results.append({"preset": preset, **result, "measurements": [asdict(m) for m in result["measurements"]]})
    if options.output:
        facts = {**versions(device), "results": results}
        options.output.mkdir(parents=True, exist_ok=True)
        write_whole(options.output / "speed.json", (json.dumps(facts, indent=1) + "\n").encode())
        write_whole(options.output / "speed.png", speed_chart.draw(facts))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.speed", description=__doc__.partition(": ")[2])
    parser.add_argument("--preset", nargs="+", choices=sorted(PRESETS), default=["mvtec-ad", "compact-b0", "compact"])
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument(
        "--no-training", action="store_false", dest="training", help="leave out the steps of training, the longest"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for speed.json and speed.png")
    return parser


def measure(config: ASTDetectorConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one configuration with random weights.

    The reference runs in a process of its own, in which the C library deals with memory as it does by default.
    """
    device = default_device(options.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(draw_part("carpet", 0).rgb).save(folder / "part.png")
        ours = our_steps(config, folder, device, training=options.training)
        faster, runtimes = accelerated_steps(folder, device)
        with Reference(config, folder, device) as reference:
            measurements = []
            for step, (run, count) in ours.items():
                contenders = {OURS: functools.partial(stopwatch, run, device)}
                if step in faster:
                    contenders[ACCELERATED] = functools.partial(stopwatch, faster[step][0], device)
                if step in reference.steps:
                    contenders[REFERENCE] = functools.partial(reference.seconds, step)
                measurements.append(Measurement(step, count, race(contenders, options.rounds)))
    facts = {"reference_trunk": reference.trunk_name, "accelerated": runtimes, "peak_memory_bytes": peak_memory(device)}
    return {**facts, "measurements": measurements}


def our_steps(config: ASTDetectorConfig, folder: Path, device: torch.device, *, training: bool) -> Steps:
    """Every stage from a file to its map, the whole way for one picture and for a batch, loading, and training."""
    torch.manual_seed(0)
    model, path = ASTDetector(config).to(device), folder / "part.png"
    model.save_pretrained(folder / "model")
    picture = read_image(path)
    pixels = to_pixel_values(picture, config.image_size)[None].to(device)
    with torch.inference_mode():
        features = model.features(pixels).contiguous()
        z, guess = model.teach(features)[0], model.study(features)
        anomaly_map = distance_map(z, guess)
    shape = (picture.height, picture.width)
    steps: Steps = {
        "read the picture": (lambda: read_image(path), 1),
        "resize and normalise": (lambda: to_pixel_values(picture, config.image_size), 1),
        TRUNK: (lambda: model.features(pixels), 1),
        TEACHER: (lambda: model.teach(features), 1),
        STUDENT: (lambda: model.study(features), 1),
        "anomaly map, at the picture's size": (lambda: upsample_map(distance_map(z, guess).cpu(), shape), 1),
        "copy back": (lambda: anomaly_map.cpu(), 1),
        **whole_steps(model, path),
        "load the detector": (lambda: ASTDetector.from_pretrained(folder / "model", device=device), 1),
    }
    steps = {name: (torch.inference_mode()(run), count) for name, (run, count) in steps.items()}
    if training:
        inputs = training_inputs(model)
        steps[TRAINING] = (lambda: fit(model, PreparedParts(inputs, None), _RECIPE), _STEPS)
    scan, maps, masks = scan_with_holes(), *maps_and_masks()
    steps[HOLES] = (lambda: fill_holes(scan, 3), 1)
    steps["AU-PRO of a picture, 512 x 512"] = (lambda: au_pro(maps, masks), len(maps))
    return steps


def whole_steps(model: ASTDetector, path: Path) -> Steps:
    """From file to map, for one picture and for a batch."""
    parts = [Part(path)] * _BATCH
    return {
        ONE: (lambda: model.predict(path), 1),
        MANY: (lambda: list(predict_parts(model, parts, batch_size=_BATCH)), _BATCH),
    }


def accelerated_steps(folder: Path, device: torch.device) -> tuple[Steps, Mapping[str, str]]:
    """The same with OpenVINO where it is faster, and where that is; nothing where it is missing or on a GPU."""
    if not can_accelerate(device):
        return {}, {}
    model = ASTDetector.from_pretrained(folder / "model", device=device)
    runtimes = model.accelerate()
    return whole_steps(model, folder / "part.png"), runtimes


def reference_steps(config: ASTDetectorConfig, folder: Path, device: torch.device) -> tuple[str, Steps]:
    """What the reference does otherwise, by the same names, and the name of its trunk."""
    torch.manual_seed(0)
    plain, path = reference.ReferenceDetector(ASTDetector(config).to(device)), folder / "part.png"
    pixels = to_pixel_values(read_image(path), config.image_size)[None].to(device)
    with torch.inference_mode():
        features = plain.features(pixels).contiguous()
    inputs, scan = training_inputs(plain.model), scan_with_holes()

    def train() -> None:
        for network, step in ((plain.model.teacher, plain.teacher_step), (plain.model.student, plain.student_step)):
            optimizer = plain.optimizer(network, _RECIPE)
            for _ in range(_RECIPE.epochs):
                for batch in inputs.split(_RECIPE.batch_size):
                    step(batch, optimizer)

    steps: Steps = {
        TRUNK: (lambda: plain.features(pixels), 1),
        TEACHER: (lambda: plain.model.teach(features), 1),
        STUDENT: (lambda: plain.model.study(features), 1),
        ONE: (lambda: plain.predict([path]), 1),
        MANY: (lambda: plain.predict([path] * _BATCH), _BATCH),
    }
    steps = {name: (torch.inference_mode()(run), count) for name, (run, count) in steps.items()}
    steps |= {TRAINING: (train, _STEPS), HOLES: (lambda: reference.fill_holes(scan, 3), 1)}
    return plain.trunk_name, steps


class Reference:
    """The reference's steps in a process of their own; a context manager that ends it."""

    def __init__(self, config: ASTDetectorConfig, folder: Path, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, folder, device), daemon=True)

    def __enter__(self) -> Reference:
        self._process.start()
        self.trunk_name, self.steps = self._connection.recv()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join()

    def seconds(self, step: str) -> float:
        """Runs a step there and gives the seconds it took."""
        self._connection.send(step)
        return self._connection.recv()


def _serve(connection: Connection, config: ASTDetectorConfig, folder: Path, device: torch.device) -> None:
    trunk_name, steps = reference_steps(config, folder, device)
    connection.send((trunk_name, list(steps)))
    while True:
        connection.send(stopwatch(steps[connection.recv()][0], device))


def training_inputs(model: ASTDetector) -> Tensor:
    """Random features of two batches."""
    return torch.randn(2 * _RECIPE.batch_size, model.config.input_channels, *model.map_size, device=model.device)


def scan_with_holes() -> np.ndarray:
    """Heights of 800 x 800 points, 15 % of them not measured."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 0.6, (800, 800)).astype(np.float32) * (rng.random((800, 800)) > 0.15)


def maps_and_masks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Noise and defects of 20 pictures."""
    rng, masks = np.random.default_rng(0), [np.zeros((512, 512), bool) for _ in range(20)]
    for mask in masks:
        mask[100:140, 200:260] = mask[300:330, 40:50] = True
    return [rng.random((512, 512), dtype=np.float32) + mask for mask in masks], masks


def table(title: str, measurements: Sequence[Measurement]) -> Table:
    """Medians and ratios."""
    table = Table(Column("milliseconds", no_wrap=True), title=title, title_justify="left")
    for column in ("ours", "OpenVINO", "reference", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for m in measurements:
        values = [m.milliseconds(who) for who in (OURS, ACCELERATED, REFERENCE)]
        cells = [f"{value:.0f}" if value >= 1000 else f"{value:.3g}" for value in values]
        table.add_row(m.name, *("" if cell == "nan" else cell for cell in (*cells, f"{m.ratio:.1f}")))
    return table


if __name__ == "__main__":
    sys.exit(main())
