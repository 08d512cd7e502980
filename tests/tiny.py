"""Detectors, pictures and scans small enough to train in a test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ast_hf import ASTDetector, ASTDetectorConfig, ImageReadError, TrainingRecipe
from ast_hf.data import Sample
from ast_hf.inference import Calibration

# timm's own test network; blocks.3 gives 48 channels at stride 16.
BACKBONE = {"backbone": "test_efficientnet", "backbone_layer": "blocks.3", "feature_channels": 48}
RECIPE = TrainingRecipe(epochs=2)
CALIBRATION = Calibration((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def config(modality: str = "rgb", **changes: Any) -> ASTDetectorConfig:
    """A detector with a 4 x 4 map."""
    fields: dict[str, Any] = {
        "modality": modality,
        "image_size": 64,
        "backbone_padding": None,
        "depth_size": 16,
        "depth_unshuffle": 4,
        "position_channels": 8,
        "coupling_kernel_sizes": (3, 3),
        "teacher_channels": 8,
        "student_channels": 8,
        "student_blocks": 1,
        "image_score": "mean" if modality == "rgb" else "max",
        "foreground_dilation": 2,
    }
    return ASTDetectorConfig(**{**BACKBONE, **fields, **changes})


def detector(modality: str = "rgb", seed: int = 0, *, calibrated: bool = True, **changes: Any) -> ASTDetector:
    """A random detector in which no coupling is the identity, calibrated in fp32."""
    torch.manual_seed(seed)
    network = ASTDetector(config(modality, **changes))
    for name, parameter in network.teacher.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    network.calibration = CALIBRATION if calibrated else None
    return network


def picture(seed: int, size: tuple[int, int] = (80, 60), defect: bool = False) -> Image.Image:
    """A noisy grey plate (width, height), with a black square in it where there is a defect."""
    pixels = np.random.default_rng(seed).normal(128, 8, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
    if defect:
        pixels[10:30, 20:40] = 0
    return Image.fromarray(pixels)


def scan(seed: int, size: tuple[int, int] = (80, 60)) -> np.ndarray:
    """An organised point cloud (H, W, 3) in metres: a box on a plane."""
    z = np.random.default_rng(seed).normal(0.5, 1e-4, (size[1], size[0]))
    z[15:45, 20:60] -= 0.02
    return np.stack([np.zeros_like(z), np.zeros_like(z), z], axis=-1).astype(np.float32)


def score(detector: ASTDetector | str | Path, **options: Any) -> float:
    """What a detector, or the one of that name, gives for a picture."""
    if not isinstance(detector, ASTDetector):
        detector = ASTDetector.from_pretrained(detector, device="cpu", **options)
    return detector.predict(picture(0)).score


def samples(config: ASTDetectorConfig, count: int, size: tuple[int, int] = (80, 60)) -> list[Sample]:
    """Good parts, as far as the modality needs them."""
    return [
        Sample(picture(i, size) if config.uses_rgb else None, scan(i, size) if config.uses_depth else None)
        for i in range(count)
    ]


def folder_of_pictures(folder: Path, count: int, start: int = 0) -> Path:
    """`count` good pictures as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(start, start + count):
        picture(seed).save(folder / f"{seed:03}.png")
    return folder


def assert_damage_is_refused(read: Callable[[bytes], object], whole: bytes) -> None:
    """Reads 200 damaged copies of a file: only `ImageReadError` may come of it, and some times it must."""
    random, refused = np.random.default_rng(0), 0
    for _ in range(200):
        mutant = bytearray(whole)
        for place in random.integers(0, min(len(mutant), random.choice([40, 400, 4000])), random.integers(1, 6)):
            mutant[place] = random.integers(256)
        try:
            read(bytes(mutant))
        except ImageReadError:
            refused += 1
    assert refused > 10
