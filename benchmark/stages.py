"""What `benchmark.speed` times, by each contender: one of our runtimes, the reference, or anomalib's detectors."""

import functools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.data.images import read_image
from ast_hf.data.point_cloud import fill_holes
from ast_hf.data.samples import LoadedSample, Sample, load_sample
from ast_hf.data.transforms import to_pixel_values, upsample_map
from ast_hf.detector import ASTDetector
from ast_hf.inference import Predictor
from ast_hf.metrics import au_pro
from ast_hf.nn.precision import autocast
from ast_hf.training.features import PreparedSamples
from ast_hf.training.trainer import build, fit
from benchmark import reference
from benchmark.synthetic import draw_part

REFERENCE, ANOMALIB = "reference", "anomalib"
MANY, TRAINING = "a picture of 16, file to map", f"training step, {TrainingRecipe().batch_size} pictures"
IN_FLIGHT = 4  # batches that a GPU is asked for one after another, as `Predictor.stream` does
SCAN_SIZE, MAP_SIZE, MAPS = 800, 512, 20


@dataclass(frozen=True)
class Stage:
    """What is timed, and how many pictures or steps it is of."""

    run: Callable[[], object]
    count: int = 1


def write_inputs(folder: Path, config: ASTDetectorConfig) -> None:
    """Writes a drawn picture, and a detector with random weights, which change no time."""
    Image.fromarray(draw_part("carpet", 0).rgb).save(folder / "part.png")
    build(config, seed=0, backbone_weights=None).save_pretrained(folder / "detector")


@functools.cache  # so that a contender's process builds it once
def _stages(contender: str, folder: Path, device: torch.device) -> dict[str, Stage]:
    if contender == ANOMALIB:
        return {name: Stage(run) for name, run in reference.anomalib_detectors(device).items()}
    eager = contender == REFERENCE
    detector = ASTDetector.from_pretrained(folder / "detector", device=device)
    detector = reference.eager_copy(detector) if eager else detector
    runtime: Any = contender
    predictor = reference.EagerPredictor(detector) if eager else Predictor(detector, runtime=runtime)
    sample = load_sample(detector.config, Sample(folder / "part.png"))
    whole = _whole_stages(predictor, folder / "part.png", sample)
    if contender not in ("torch", REFERENCE):
        return whole
    pixel_values = to_pixel_values(sample.picture, detector.config.image_shape)[None].to(device)
    features = detector.extract_features(pixel_values).contiguous()
    inputs = detector.standardize(features)

    def network_stage(function: Callable[[Tensor], object], x: Tensor) -> Stage:
        def run() -> object:
            with torch.inference_mode(), autocast(device, predictor.precision):
                return function(x)

        return Stage(run)

    stages = {
        "backbone": network_stage(detector.extract_features, pixel_values),
        "teacher": network_stage(detector.teacher_forward, inputs),
        "student": network_stage(detector.student_forward, inputs),
        **whole,
        TRAINING: _training_stage(detector, features, eager=eager),
    }
    if device.type == "cpu":
        stages["fill the holes of a scan"] = _holes_stage(eager=eager)
    return stages if eager else {**stages, **_own_stages(predictor, folder, sample)}


def _whole_stages(predictor: Predictor, file: Path, sample: LoadedSample) -> dict[str, Stage]:
    on_gpu = predictor.device.type == "cuda"
    files, batch = [file] * (IN_FLIGHT * 16 if on_gpu else 16), [sample] * 64

    def compute(size: int) -> Stage:
        return Stage(lambda: [predictor.compute(batch[:size]) for _ in range(IN_FLIGHT)], IN_FLIGHT * size)

    return {
        "one picture, pixels to map": Stage(lambda: predictor.compute([sample])),
        "one picture, file to map": Stage(lambda: predictor.predict(file).anomaly_map),
        MANY: Stage(lambda: [one.anomaly_map for one in predictor.predict(files, batch_size=16)], len(files)),
        **{f"a picture of {size}, pixels to map": compute(size) for size in (16, 64) if on_gpu},
    }


def _training_stage(detector: ASTDetector, features: Tensor, *, eager: bool) -> Stage:
    """Both trainings for some steps; on a GPU ours for so many that recording the first ones hardly counts."""
    recipe, batches = TrainingRecipe(epochs=50 if detector.device.type == "cuda" and not eager else 2), 2
    count = batches * recipe.batch_size
    samples = PreparedSamples(torch.randn(count, *features.shape[1:], device=detector.device), None)
    return Stage(lambda: (reference.fit if eager else fit)(detector, samples, recipe), batches * recipe.epochs)


def _holes_stage(*, eager: bool) -> Stage:
    rng, shape = np.random.default_rng(0), (SCAN_SIZE, SCAN_SIZE)
    scan = rng.uniform(0.5, 0.6, shape).astype(np.float32) * (rng.random(shape) > 0.15)
    return Stage(lambda: (reference.fill_holes if eager else fill_holes)(scan, 3))


def _own_stages(predictor: Predictor, folder: Path, sample: LoadedSample) -> dict[str, Stage]:
    """What the reference has nothing of."""
    device, size = predictor.device, (sample.picture.height, sample.picture.width)
    loading = {"load the detector": Stage(lambda: ASTDetector.from_pretrained(folder / "detector", device=device))}
    if device.type == "cuda":
        return loading
    anomaly_map, shape = predictor.compute([sample])[0], (MAPS, MAP_SIZE, MAP_SIZE)
    maps, masks = np.random.default_rng(0).random(shape, dtype=np.float32), np.zeros(shape, bool)
    masks[:, 100:140, 200:260] = masks[:, 300:330, 40:50] = True
    return {
        "read the picture": Stage(lambda: read_image(folder / "part.png")),
        "resize and normalise": Stage(lambda: to_pixel_values(sample.picture, predictor.config.image_shape)),
        "map to the picture's size": Stage(lambda: upsample_map(anomaly_map, size)),
        **loading,
        "AU-PRO of a picture": Stage(lambda: au_pro(list(maps), list(masks)), MAPS),
    }


def stage_names(contender: str, folder: Path, device: torch.device) -> list[str]:
    """What can be timed of a contender, with what `write_inputs` wrote; raises `RuntimeUnavailableError`."""
    return list(_stages(contender, folder, device))


def time_stage(contender: str, folder: Path, device: torch.device, name: str) -> float:
    """The seconds of a stage for one picture, step or file, with all that it has a GPU do.

    The second of two calls counts: the first brings back what another contender drove out of the caches, and wakes the
    threads. One call is enough of stages that take many pictures or steps.
    """
    stage, seconds = _stages(contender, folder, device)[name], 0.0
    for _ in range(2 if stage.count == 1 else 1):
        started = time.perf_counter()
        stage.run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds / stage.count


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had so far; on a GPU, of what tensors took there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
