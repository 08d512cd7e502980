"""`python -m benchmark.students`: what a student of another size or build costs, and what it still finds.

Of every dataset and seed the features are made and the teacher is trained once; then each student learns from that
teacher with the preset's recipe. Results are kept student by student: the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ast_hf.arithmetic import Precision, arithmetic
from ast_hf.backbone import PRETRAINED
from ast_hf.checkpoint import write_whole
from ast_hf.config import PRESETS, ASTDetectorConfig, TrainingRecipe
from ast_hf.features import FeatureCache, default_cache_folder
from ast_hf.memory import keep_freed_memory
from ast_hf.model import ASTDetector, default_device, placed
from ast_hf.student import Student
from ast_hf.training import build, fit_student, fit_teacher, progress_bars, set_standardization
from benchmark.datasets import Category, load_category
from benchmark.evaluate import image_figures, score_parts
from benchmark.experiment import prepare_category
from benchmark.timing import describe, race, stopwatch, versions


class Separable(nn.Module):
    """(depthwise 3x3 - pointwise - batch norm - leaky ReLU) twice, plus the input."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer for _ in range(2) for layer in self._half(channels, slope)))

    def _half(self, channels: int, slope: float) -> tuple[nn.Module, ...]:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        return depthwise, nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, 3x3, 1x1 back, each with batch norm and leaky ReLU, plus the input."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        narrow, layers = channels // 4, []
        for before, after, kernel in ((channels, narrow, 1), (narrow, narrow, 3), (narrow, channels, 1)):
            convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2)
            layers += [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(slope)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


BLOCKS: Mapping[str, Callable[[int, float], nn.Module] | None] = {
    "plain": None,  # the student's own
    "separable": Separable,
    "bottleneck": Bottleneck,
}


@dataclass(frozen=True)
class Design:
    """A student: its width in channels, the number of its residual blocks, and their kind."""

    width: int
    blocks: int
    kind: str

    def __str__(self) -> str:
        return f"{self.width} x {self.blocks} {self.kind}"

    @classmethod
    def parse(cls, text: str) -> Design:
        """Reads "WIDTHxBLOCKS" or "WIDTHxBLOCKS-KIND"."""
        size, _, kind = text.partition("-")
        width, _, blocks = size.partition("x")
        if not (width.isdecimal() and blocks.isdecimal()) or (kind or "plain") not in BLOCKS:
            raise argparse.ArgumentTypeError(f"{text!r} is no WIDTHxBLOCKS[-KIND], KIND one of {', '.join(BLOCKS)}")
        return cls(int(width), int(blocks), kind or "plain")

    def student(self, config: ASTDetectorConfig, seed: int = 0) -> nn.Module:
        """An untrained one."""
        slope = config.student_negative_slope
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = Student(
                config.input_channels,
                condition_channels=config.position_channels,
                hidden_channels=self.width,
                blocks=self.blocks,
                negative_slope=slope,
            )
            if block := BLOCKS[self.kind]:
                student.blocks = nn.Sequential(*(block(self.width, slope) for _ in range(self.blocks)))
        return student


DESIGNS = (
    *(Design(width, 4, "plain") for width in (32, 64, 128, 256, 512)),
    *(Design(256, blocks, "plain") for blocks in (1, 2)),
    *(Design(width, 4, kind) for width, kind in ((256, "separable"), (512, "separable"), (512, "bottleneck"))),
)


@dataclass(frozen=True)
class Result:
    """Image AUROC in [0, 1] of one design on one category with one seed, after so many epochs of each network."""

    design: Design
    category: str
    seed: int
    epochs: int
    image_auroc: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    config, device = ASTDetectorConfig.preset(options.preset), default_device(options.device)
    file = options.output / "students.json"
    results, epochs = read(file), options.epochs or TrainingRecipe.preset(options.preset).epochs
    for name in options.categories:
        dataset, _, category = name.partition("/")
        loaded = load_category(dataset, category or dataset, options.data_root)
        for seed in options.seeds:
            known = {r.design for r in results if (r.category, r.seed, r.epochs) == (name, seed, epochs)}
            missing = [design for design in options.designs if design not in known]
            for design, auroc in measure(config, loaded, missing, seed, epochs, options):
                results.append(Result(design, name, seed, epochs, auroc))
                write(file, results, {"preset": options.preset, **versions(device)})
    designs = sorted({r.design for r in results}, key=lambda d: parameters(d, config))
    times = milliseconds(config, designs, device, options.precision)
    write(
        file, results, {"preset": options.preset, **versions(device), "milliseconds": {str(d): times[d] for d in times}}
    )
    Console().print(table(results, designs, config, times))
    drawn = io.BytesIO()
    figure(results, config, f"{options.preset}, {describe(device)}").savefig(drawn, format="png", dpi=110)
    write_whole(options.output / "students.png", drawn.getbuffer())
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.students", description=__doc__.partition(": ")[2])
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="the folder with the datasets")
    parser.add_argument(
        "--categories", nargs="+", metavar="DATASET/CATEGORY", default=["mvtec_ad/bottle", "magnetic_tile"],
        help="(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="(default: 0)")
    parser.add_argument(
        "--designs", nargs="+", type=Design.parse, default=DESIGNS, metavar="WIDTHxBLOCKS[-KIND]",
        help="such as 256x4 or 256x4-separable (default: ten of them)",
    )  # fmt: skip
    parser.add_argument("--preset", choices=sorted(PRESETS), default="compact-b0")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each network (default: the preset's)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--backbone-weights", default=PRETRAINED, metavar="FILE", help="safetensors in timm's names")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--output", type=Path, default=Path("runs/students"), help="folder (default: %(default)s)")
    return parser


def measure(
    config: ASTDetectorConfig,
    category: Category,
    designs: Sequence[Design],
    seed: int,
    epochs: int,
    options: argparse.Namespace,
) -> Iterator[tuple[Design, float]]:
    """Yields each design with its image AUROC; nothing is computed where there are no designs."""
    if not designs:
        return
    recipe = TrainingRecipe.preset(options.preset, precision=options.precision, epochs=epochs)
    model = placed(build(config, seed, backbone_weights=options.backbone_weights), options.device)
    model.precision = recipe.precision
    cache = FeatureCache(default_cache_folder(), model)
    with progress_bars() as progress:
        good, test, _ = prepare_category(model, category, cache, progress)
        set_standardization(model, good.inputs)
        fit_teacher(model, good, recipe, torch.Generator().manual_seed(seed), progress)
    for design in designs:
        model.add_module("student", design.student(config, seed).to(model.device))
        with progress_bars() as progress:
            fit_student(model, good, recipe, torch.Generator().manual_seed(seed), progress)
        yield design, image_figures(score_parts(model, test), category)["image_auroc"]


def milliseconds(
    config: ASTDetectorConfig, designs: Sequence[Design], device: torch.device, precision: Precision
) -> dict[Design, float]:
    """Median time of each student for one picture, taken in turns."""
    model = ASTDetector(config)
    shape = (1, config.input_channels, *model.map_size)
    features, condition = torch.randn(shape, device=device), model.to(device).condition(1)
    students = {design: design.student(config).to(device).eval() for design in designs}
    with torch.inference_mode(), arithmetic(device, precision):
        runs = {
            str(design): functools.partial(stopwatch, functools.partial(student, features, condition), device)
            for design, student in students.items()
        }
        seconds = race(runs, 15)
    return {design: 1e3 * median(seconds[str(design)]) for design in designs}


def parameters(design: Design, config: ASTDetectorConfig) -> int:
    """How many the student has."""
    with torch.device("meta"):
        return sum(p.numel() for p in design.student(config).parameters())


def read(file: Path) -> list[Result]:
    """What an earlier run measured; nothing where there was none."""
    if not file.is_file():
        return []
    return [Result(**{**r, "design": Design(**r["design"])}) for r in json.loads(file.read_text())["results"]]


def write(file: Path, results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Writes all results, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "results": [asdict(result) for result in results]}, indent=1)
    write_whole(file, f"{text}\n".encode())


def mean_and_deviation(results: Sequence[Result], design: Design, category: str) -> tuple[float, float] | None:
    """Image AUROC in percent over the seeds, or None where there is none."""
    values = [100 * r.image_auroc for r in results if (r.design, r.category) == (design, category)]
    return (fmean(values), pstdev(values)) if values else None


def table(
    results: Sequence[Result], designs: Sequence[Design], config: ASTDetectorConfig, times: Mapping[Design, float]
) -> Table:
    """A row a design."""
    categories = sorted({r.category for r in results})
    table = Table(
        "student", "parameters", "ms", *categories, title="Image AUROC [%] by the student", title_justify="left"
    )
    for design in designs:
        found = [mean_and_deviation(results, design, category) for category in categories]
        cells = [f"{v[0]:.2f} ± {v[1]:.2f}" if v else "" for v in found]
        table.add_row(str(design), f"{parameters(design, config) / 1e6:.2f} M", f"{times[design]:.2f}", *cells)
    return table


def figure(results: Sequence[Result], config: ASTDetectorConfig, title: str) -> Figure:
    """What is missing to an AUROC of 100 against the number of parameters, a panel a category, a line a kind."""
    categories = sorted({r.category for r in results})
    figure = Figure(figsize=(4.6 * len(categories), 3.6), layout="constrained")
    figure.suptitle(f"The student's size, {title}", fontsize=11)
    for panel, category in enumerate(categories, 1):
        epochs = sorted({r.epochs for r in results if r.category == category})
        heading = f"{category}, {' or '.join(map(str, epochs))} epochs"
        axes = figure.add_subplot(1, len(categories), panel, title=heading, xscale="log")
        axes.set(xlabel="parameters of the student [millions]", ylabel="100 - image AUROC" if panel == 1 else "")
        for kind, colour in zip(BLOCKS, ("#0072B2", "#D55E00", "#009E73"), strict=True):
            designs = {r.design for r in results if r.category == category and r.design.kind == kind}
            for design in designs:
                found = mean_and_deviation(results, design, category)
                assert found is not None
                x, y = parameters(design, config) / 1e6, 100 - found[0]
                axes.errorbar(x, y, found[1], fmt="o", color=colour, capsize=3)
                axes.annotate(
                    f"{design.width} x {design.blocks}", (x, y), (1, 5), textcoords="offset points",
                    rotation=55, size=7, color=colour,
                )  # fmt: skip
            if designs:
                axes.plot([], [], "o", color=colour, label=kind)
        axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, title="blocks", alignment="left")
    return figure


if __name__ == "__main__":
    sys.exit(main())
