"""A benchmark small enough to run in a test: tiny pictures in MVTec AD's layout, and a detector with a 4 x 4 map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from ast_hf.nn.backbone import Backbone
from tests import tiny

SETTINGS = [
    "backbone=test_efficientnet", "backbone_layer=blocks.3", "feature_channels=48", "image_size=64",
    "feature_projection=0", "position_channels=8", "teacher_channels=8", "student_channels=8", "student_blocks=1",
    "local_channels=[8, 8]", "local_epochs=2",
]  # fmt: skip


def write_category(folder: Path) -> None:
    """Ten good parts to train on; four good ones and four with a hole to test on."""
    tiny.folder_of_pictures(folder / "train" / "good", 10)
    tiny.folder_of_pictures(folder / "test" / "good", 4, start=50)
    for name in ("test", "ground_truth"):
        (folder / name / "hole").mkdir(parents=True)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:40] = 255
    for i in range(4):
        tiny.picture(i, defect=True).save(folder / "test" / "hole" / f"{i:03}.png")
        Image.fromarray(mask).save(folder / "ground_truth" / "hole" / f"{i:03}_mask.png")


def write_trunk(folder: Path) -> Path:
    """Random weights of the backbone in `SETTINGS`."""
    trunk = Backbone("test_efficientnet", "blocks.3", weights=None)
    save_file({k: v.contiguous() for k, v in trunk.state_dict().items()}, folder / "trunk.safetensors")
    return folder / "trunk.safetensors"


def command(root: Path) -> list[str]:
    """A command line of `benchmark.run` over `root/data/mvtec_ad/bottle` that writes to `root/out`."""
    write_category(root / "data" / "mvtec_ad" / "bottle")
    weights = str(write_trunk(root))
    options = ["--data-root", str(root / "data"), "--backbone-weights", weights, "--device", "cpu", "--quiet"]
    output = ["--output", str(root / "out"), "--preset", "compact", "--epochs", "2", "--set", *SETTINGS]
    return ["--datasets", "mvtec_ad", *options, *output]
