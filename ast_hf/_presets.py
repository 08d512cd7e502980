"""The presets of configuration and recipe, as data."""

from collections.abc import Mapping
from typing import Any

_MVTEC_3D: Mapping[str, Any] = {"coupling_clamp": 1.9, "teacher_channels": 64, "epochs": 72}
_COMPACT = {
    **_MVTEC_3D,
    "image_size": 384,
    "backbone_padding": None,
    "feature_normalization": "channel",
    "depth_size": 96,
    "epochs": 12,
}

# name -> fields of the configuration and of the recipe that differ from the defaults.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mvtec-ad": {},
    # No recipe was published for these two; EfficientAD's authors ran AST's MVTec AD recipe on them.
    "visa": {},
    "mvtec-loco-ad": {},
    "mvtec-3d-ad": {**_MVTEC_3D, "modality": "rgb+depth", "image_score": "max"},
    "mvtec-3d-ad-rgb": _MVTEC_3D,
    "mvtec-3d-ad-depth": {**_MVTEC_3D, "modality": "depth", "image_score": "max"},
    # Made for CPUs, with a backbone whose weights are a package of their own.
    "compact": {
        **_COMPACT,
        "backbone": "tf_efficientnet_lite0.in1k",
        "backbone_layer": ("blocks.2", "blocks.4", "blocks.5"),
        "backbone_precision": "fp32",
        "feature_channels": 40 + 112 + 192,
        "feature_projection": 64,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "student_channels": 128,
        "local_channels": (128, 256),
        "image_score": "top",
        "min_steps": 120,
        "learning_rate": 1e-3,
        "schedule": "one-cycle",
        "keep_aspect": True,
    },
    "compact-b0": {
        **_COMPACT,
        "backbone": "tf_efficientnet_b0.aa_in1k",
        "feature_channels": 192,
        "student_channels": 256,
    },
}
