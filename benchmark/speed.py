"""`python -m benchmark.speed`: how long every step of AST takes, beside an eager fp32 loop like the paper's code.

Both run in turn in one process, so that what else the machine does falls on both; medians are given. Weights are
random: they do not change the time.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import ast_hf
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
from benchmark import reference
from benchmark.metrics import au_pro
from benchmark.synthetic import draw_part

OURS, REFERENCE = "ours", "reference"
_BATCH = 16  # pictures, for throughput; the paper trains with batches of 8


@dataclass(frozen=True)
class Measurement:
    """One step: the seconds of each repetition of ours and, where there is one, of the reference's."""

    name: str
    count: int  # pictures, steps or files a repetition
    ours: list[float]
    reference: list[float]

    def milliseconds(self, who: str) -> float:
        """The median for one picture, step or file; NaN where there is no reference."""
        seconds = getattr(self, who)
        return 1e3 * float(np.median(seconds)) / self.count if seconds else float("nan")

    @property
    def ratio(self) -> float:
        """How many times as long the reference takes."""
        return self.milliseconds(REFERENCE) / self.milliseconds(OURS)


class Stopwatch:
    """Runs contenders in turn and keeps what their repetitions took.

    Args:
        rounds: Repetitions of each, after one that does not count.
        device: Waited for before and after each.
    """

    def __init__(self, rounds: int, device: torch.device) -> None:
        self.rounds, self.device = rounds, device
        self.measurements: list[Measurement] = []

    def __call__(
        self, name: str, ours: Callable[[], Any], reference: Callable[[], Any] | None = None, *, count: int = 1
    ) -> None:
        """Measures one step."""
        seconds = self.race({OURS: ours} if reference is None else {OURS: ours, REFERENCE: reference})
        self.measurements.append(Measurement(name, count, seconds[OURS], seconds.get(REFERENCE, [])))

    def race(self, contenders: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """The seconds of each repetition of each contender."""
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(self.rounds + 1):
            for name, contender in contenders.items():
                self._wait()
                started = time.perf_counter()
                contender()
                self._wait()
                if number:
                    seconds[name].append(time.perf_counter() - started)
        return seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    console, results = Console(), []
    device = default_device(options.device)
    for preset in options.preset:
        watch = Stopwatch(options.rounds, device)
        facts = measure(ASTDetectorConfig.preset(preset), watch, training=not options.no_training)
        results.append({"preset": preset, **facts, "measurements": [asdict(m) for m in watch.measurements]})
        console.print(table(f"{preset}, {describe(device)}", watch.measurements))
    if options.output:
        text = json.dumps({**versions(device), "results": results}, indent=1) + "\n"
        write_whole(options.output, text.encode())
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.speed", description=__doc__.partition(": ")[2])
    parser.add_argument("--preset", nargs="+", choices=sorted(PRESETS), default=["mvtec-ad", "compact-b0", "compact"])
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument("--no-training", action="store_true", help="leave out the steps of training, the longest")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all repetitions as JSON")
    return parser


def measure(config: ASTDetectorConfig, watch: Stopwatch, *, training: bool = True) -> dict[str, Any]:
    """Measures one configuration with random weights; what is not a time is returned."""
    torch.manual_seed(0)
    model = ASTDetector(config).to(watch.device)
    plain = reference.ReferenceDetector(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.png"
        Image.fromarray(draw_part("carpet", 0).rgb).save(path)
        with torch.inference_mode():
            inference(model, plain, path, watch)
        loading(model, Path(folder) / "model", watch)
    if training:
        training_steps(model, plain, watch)
    evaluation(watch)
    cuda = watch.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"reference_trunk": plain.trunk_name, "peak_memory_bytes": peak}


def inference(model: ASTDetector, plain: reference.ReferenceDetector, path: Path, watch: Stopwatch) -> None:
    """Every stage from a file to its map, and the whole way for one picture and for a batch."""
    size, device, backbone = model.config.image_size, watch.device, model.backbone
    assert backbone is not None
    picture = read_image(path)
    pixels = to_pixel_values(picture, size)[None].to(device)
    features = backbone(pixels).contiguous()
    z, guess = model.teach(features)[0], model.study(features)
    anomaly_map = distance_map(z, guess)
    shape = (picture.height, picture.width)
    watch("read the picture", lambda: read_image(path))
    watch("resize and normalise", lambda: to_pixel_values(picture, size))
    watch("trunk", lambda: backbone(pixels), lambda: plain.features(pixels))
    watch("teacher", lambda: model.teach(features), lambda: plain.model.teach(features))
    watch("student", lambda: model.study(features), lambda: plain.model.study(features))
    watch("anomaly map, at the picture's size", lambda: upsample_map(distance_map(z, guess).cpu(), shape))
    watch("copy back", lambda: anomaly_map.cpu())
    watch("one picture, file to map", lambda: model.predict(path), lambda: plain.predict([path]))
    files = [path] * _BATCH
    watch(
        f"a picture of {_BATCH}, file to map",
        lambda: list(predict_parts(model, [Part(file) for file in files], batch_size=_BATCH)),
        lambda: plain.predict(files),
        count=_BATCH,
    )


def loading(model: ASTDetector, folder: Path, watch: Stopwatch) -> None:
    """From a folder to a detector on the device."""
    model.save_pretrained(folder)
    watch("load the detector", lambda: ASTDetector.from_pretrained(folder, device=watch.device))


def training_steps(model: ASTDetector, plain: reference.ReferenceDetector, watch: Stopwatch) -> None:
    """A step of the teacher with one of the student, of two epochs of two batches."""
    recipe, epochs = TrainingRecipe(epochs=2), 2
    inputs = torch.randn(2 * recipe.batch_size, model.config.input_channels, *model.map_size, device=watch.device)
    parts, steps = PreparedParts(inputs, None), 2 * epochs

    def reference_steps() -> None:
        for network, step in ((plain.model.teacher, plain.teacher_step), (plain.model.student, plain.student_step)):
            optimizer = plain.optimizer(network, recipe)
            for _ in range(epochs):
                for batch in inputs.split(recipe.batch_size):
                    step(batch, optimizer)

    name = f"training step, teacher and student, {recipe.batch_size} pictures"
    watch(name, lambda: fit(model, parts, recipe), reference_steps, count=steps)


def evaluation(watch: Stopwatch) -> None:
    """What the benchmark does besides: holes of a point cloud, and the area under the PRO curve."""
    rng = np.random.default_rng(0)
    scan = rng.uniform(0.5, 0.6, (800, 800)).astype(np.float32) * (rng.random((800, 800)) > 0.15)
    watch("fill the holes of a scan, 800 x 800", lambda: fill_holes(scan, 3), lambda: reference.fill_holes(scan, 3))
    masks = [np.zeros((512, 512), bool) for _ in range(20)]
    for mask in masks:
        mask[100:140, 200:260] = mask[300:330, 40:50] = True
    maps = [rng.random((512, 512), dtype=np.float32) + mask for mask in masks]
    watch("AU-PRO of a picture, 512 x 512", lambda: au_pro(maps, masks), count=len(maps))


def table(title: str, measurements: Sequence[Measurement]) -> Table:
    """Medians and ratios."""
    table = Table("step", title=title, title_justify="left")
    for column in ("ours [ms]", "reference [ms]", "times faster"):
        table.add_column(column, justify="right")
    for m in measurements:
        cells = (f"{m.milliseconds(OURS):.3g}", f"{m.milliseconds(REFERENCE):.3g}", f"{m.ratio:.1f}")
        table.add_row(m.name, *(cells if m.reference else (cells[0], "", "")))
    return table


def versions(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "ast_hf": ast_hf.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def describe(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    sys.exit(main())
