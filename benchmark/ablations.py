"""AST with one thing changed: the paper's ablations (Rudolph et al., WACV 2023, tables 5 to 7), and two of the trunk.

"Teacher only" needs no run of its own: every job reports its teacher's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ast_hf.backbone import FeatureExtractor
from ast_hf.config import ASTDetectorConfig
from ast_hf.flow import build_teacher
from ast_hf.model import ASTDetector

AST = "AST"
_RANDOM_TRUNK, _RAW_PATCHES = "random trunk", "raw patches"
_SYMMETRIC = {"symmetric student": 1, "symmetric student, 8 blocks": 2}

# name -> the fields of the configuration that differ from AST's.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    AST: {},
    **{name: {} for name in _SYMMETRIC},
    "no positional encoding": {"position_channels": 0},
    "no mask": {"foreground_dilation": 0},
    **{f"{n} residual block{'s' * (n > 1)}": {"student_blocks": n} for n in (1, 2, 8, 12)},
    # What the trunk's training is worth: its own weights before it, and no trunk at all.
    _RANDOM_TRUNK: {},
    _RAW_PATCHES: {
        "backbone": "raw_patches", "backbone_layer": "patches", "backbone_padding": None, "feature_channels": 192,
    },
}  # fmt: skip


def variants_of(modality: str) -> list[str]:
    """The variants that mean something for a modality: without depth no mask, and without a picture no trunk."""
    without = {"rgb": {"no mask"}, "depth": {_RANDOM_TRUNK, _RAW_PATCHES}}.get(modality, set())
    return [name for name in VARIANTS if name not in without]


def is_model_of_its_own(variant: str) -> bool:
    """Whether the library alone cannot build the variant from its configuration, so that no checkpoint is written."""
    return variant in (*_SYMMETRIC, _RANDOM_TRUNK, _RAW_PATCHES)


def change_model(model: ASTDetector, variant: str, seed: int) -> None:
    """Gives `model` the untrained student, or the random trunk, of a variant, in place; nothing for the others."""
    config = model.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if variant == _RANDOM_TRUNK:
            trunk = FeatureExtractor(
                config.backbone, config.backbone_layer, padding=config.backbone_padding, weights=None
            )
            model.backbone = trunk.to(model.device)
        elif variant in _SYMMETRIC:
            student = SymmetricStudent(config, model.map_size, repeats=_SYMMETRIC[variant])
            # The detector's student is typed by what the configuration describes; all that is asked of it is forward.
            model.add_module("student", student.to(model.device).eval())


class SymmetricStudent(nn.Module):
    """A student with the teacher's own architecture: a flow, `repeats` times as deep.

    Because it is as bijective as the teacher, it follows it too well outside of the training distribution; this is what
    AST's asymmetry is measured against (paper, section 4.4).
    """

    def __init__(self, config: ASTDetectorConfig, map_size: tuple[int, int], repeats: int) -> None:
        super().__init__()
        self.flow = build_teacher(
            config.input_channels,
            map_size,
            condition_channels=config.position_channels,
            hidden_channels=config.teacher_channels,
            kernel_sizes=config.coupling_kernel_sizes * repeats,
            clamp=config.coupling_clamp,
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps x (B, C, h, w), with condition (B, P, h, w), to (B, C, h, w)."""
        return self.flow(x, c=None if condition is None else [condition])[0]


class RawPatches(nn.Sequential):
    """No trunk: the 8 x 8 mean colours (192 channels) of every patch of 32 x 32 pixels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 32, stride=32, bias=False)
        cells = torch.eye(64).view(64, 8, 8).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2) / 16
        with torch.no_grad():
            self.patches.weight.copy_(torch.einsum("ij,pyx->ipjyx", torch.eye(3), cells).flatten(0, 1))


@timm.models.register_model
def raw_patches(pretrained: bool = False, **settings: Any) -> RawPatches:
    """`RawPatches` as timm creates it; there are no other weights."""
    return RawPatches()
