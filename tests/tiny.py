"""Detectors and pictures small enough to train in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ast_hf import ASTDetectorConfig, TrainingRecipe

# timm's own test network; blocks.3 gives 48 channels at stride 16.
BACKBONE = {"backbone": "test_efficientnet", "backbone_layer": "blocks.3", "feature_channels": 48}
RECIPE = TrainingRecipe(epochs=2)


def config(modality: str = "rgb", **changes: Any) -> ASTDetectorConfig:
    """A detector with a 4 x 4 map."""
    fields: dict[str, Any] = {
        "modality": modality,
        "image_size": 64,
        "backbone_padding": None,
        "depth_size": 16,
        "depth_unshuffle": 4,
        "position_channels": 8,
        "coupling_blocks": 2,
        "coupling_kernel_sizes": (3, 3),
        "teacher_channels": 8,
        "student_channels": 8,
        "student_blocks": 1,
        "image_score": "mean" if modality == "rgb" else "max",
        "foreground_dilation": 2,
    }
    return ASTDetectorConfig(**{**BACKBONE, **fields, **changes})


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


def folder_of_pictures(folder: Path, count: int, start: int = 0) -> Path:
    """`count` good pictures as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(start, start + count):
        picture(seed).save(folder / f"{seed:03}.png")
    return folder
