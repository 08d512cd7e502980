"""What `benchmark.speed` times, by each contender: one of our runtimes, the reference, or anomalib's detectors."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.data.images import read_image
from ast_hf.data.point_cloud import fill_holes
from ast_hf.data.samples import Sample, load_sample
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
RECIPE, BATCHES = TrainingRecipe(epochs=2), 2  # batches an epoch, of random features
MANY, TRAINING = "a picture of 16, file to map", f"training step, {RECIPE.batch_size} pictures"
AU_PRO = "AU-PRO of a picture"
COUNTS = {MANY: 16, TRAINING: BATCHES * RECIPE.epochs, AU_PRO: 20}  # pictures or steps in one call of a stage, if not 1


def write_inputs(folder: Path, config: ASTDetectorConfig) -> None:
    """Writes a drawn picture, and a detector with random weights, which change no time."""
    Image.fromarray(draw_part("carpet", 0).rgb).save(folder / "part.png")
    build(config, seed=0, backbone_weights=None).save_pretrained(folder / "detector")


@functools.cache  # so that a contender's process builds it once
def _stages(contender: str, folder: Path, device: torch.device) -> dict[str, Callable[[], object]]:
    if contender == ANOMALIB:
        return reference.anomalib_detectors(device)
    eager, file = contender == REFERENCE, folder / "part.png"
    detector = ASTDetector.from_pretrained(folder / "detector", device=device)
    detector = reference.eager_copy(detector) if eager else detector
    runtime: Any = "torch" if eager else contender
    predictor = Predictor(detector, runtime=runtime, precision="fp32" if eager else "auto")
    sample = load_sample(detector.config, Sample(file))
    whole: dict[str, Callable[[], object]] = {
        "one picture, pixels to map": lambda: predictor.compute([sample]),
        "one picture, file to map": lambda: predictor.predict(file).anomaly_map,
        MANY: lambda: [
            found.anomaly_map for found in predictor.predict([file] * COUNTS[MANY], batch_size=COUNTS[MANY])
        ],
    }
    if contender not in ("torch", REFERENCE):
        return whole
    pixel_values = to_pixel_values(sample.picture, detector.config.image_shape)[None].to(device)
    features = detector.extract_features(pixel_values).contiguous()
    inputs = detector.standardize(features)
    rng = np.random.default_rng(0)
    scan = rng.uniform(0.5, 0.6, (800, 800)).astype(np.float32) * (rng.random((800, 800)) > 0.15)
    samples = PreparedSamples(torch.randn(BATCHES * RECIPE.batch_size, *features.shape[1:], device=device), None)

    def network_stage(function: Callable[[Tensor], object], x: Tensor) -> object:
        with torch.inference_mode(), autocast(device, predictor.precision):
            return function(x)

    compared: dict[str, Callable[[], object]] = {
        "backbone": lambda: network_stage(detector.extract_features, pixel_values),
        "teacher": lambda: network_stage(detector.teacher_forward, inputs),
        "student": lambda: network_stage(detector.student_forward, inputs),
        **whole,
        "fill the holes of a scan": lambda: (reference.fill_holes if eager else fill_holes)(scan, 3),
        TRAINING: lambda: (reference.fit if eager else fit)(detector, samples, RECIPE),
    }
    if eager:
        return compared
    anomaly_map, size = predictor.compute([sample])[0], (sample.picture.height, sample.picture.width)
    maps, masks = rng.random((COUNTS[AU_PRO], 512, 512), dtype=np.float32), np.zeros((COUNTS[AU_PRO], 512, 512), bool)
    masks[:, 100:140, 200:260] = masks[:, 300:330, 40:50] = True
    return {
        "read the picture": lambda: read_image(file),
        "resize and normalise": lambda: to_pixel_values(sample.picture, detector.config.image_shape),
        "map to the picture's size": lambda: upsample_map(anomaly_map.cpu(), size),
        **compared,
        "load the detector": lambda: ASTDetector.from_pretrained(folder / "detector", device=device),
        AU_PRO: lambda: au_pro(list(maps), list(masks)),
    }


def stage_names(contender: str, folder: Path, device: torch.device) -> list[str]:
    """What can be timed of a contender, with what `write_inputs` wrote; raises `RuntimeUnavailableError`."""
    return list(_stages(contender, folder, device))


def time_stage(contender: str, folder: Path, device: torch.device, name: str) -> float:
    """The seconds of a stage for one picture, step or file, with all that it has a GPU do.

    The second of two calls counts: the first brings back what another contender drove out of the caches, and wakes the
    threads. One call is enough of stages that take many pictures or steps.
    """
    run, seconds = _stages(contender, folder, device)[name], 0.0
    for _ in range(1 if name in COUNTS else 2):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds / COUNTS.get(name, 1)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had so far; on a GPU, of what tensors took there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
