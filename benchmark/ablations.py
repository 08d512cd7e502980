"""The networks of those variants of AST that the library alone cannot build."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ast_hf.config import ASTDetectorConfig
from ast_hf.detector import ASTDetector
from ast_hf.nn.flow import build_teacher
from ast_hf.training.trainer import build
from benchmark.variants import RANDOM_TRUNK, RAW_PATCHES, SYMMETRIC


def build_variant(config: ASTDetectorConfig, variant: str, seed: int, backbone_weights: str) -> ASTDetector:
    """An untrained detector of a variant (`benchmark.variants.VARIANTS`); other arguments as `trainer.build`."""
    if variant == RAW_PATCHES and not timm.is_model(raw_patches.__name__):
        timm.models.register_model(raw_patches)
    weights = None if variant in (RAW_PATCHES, RANDOM_TRUNK) else backbone_weights
    detector = build(config, seed, backbone_weights=weights)
    if variant in SYMMETRIC:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = SymmetricStudent(config, detector.map_size, repeats=SYMMETRIC[variant])
        # The detector's student is typed by what the configuration describes; all that is asked of it is forward.
        detector.add_module("student", student.eval())
    return detector


class SymmetricStudent(nn.Module):
    """A student with the teacher's own architecture: a flow, `repeats` times as deep.

    Being as bijective as the teacher, it follows it too well outside of the training distribution (paper, section 4.4).
    """

    def __init__(self, config: ASTDetectorConfig, map_size: tuple[int, int], repeats: int) -> None:
        super().__init__()
        self.flow = build_teacher(
            config.network_channels,
            map_size,
            condition_channels=config.position_channels,
            hidden_channels=config.teacher_channels,
            kernel_sizes=config.coupling_kernel_sizes * repeats,
            clamp=config.coupling_clamp,
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps x (B, C, h, w), with condition (B, P, h, w), to (B, C, h, w)."""
        return self.flow(x, c=None if condition is None else [condition])[0]


def raw_patches(pretrained: bool = False, **settings: Any) -> nn.Sequential:
    """No trunk, in timm's terms: the 8 x 8 mean colours (192 channels) of every patch of 32 x 32 pixels."""
    patches = nn.Conv2d(3, 192, 32, stride=32, bias=False)
    cells = torch.eye(64).view(64, 8, 8).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2) / 16
    with torch.no_grad():
        patches.weight.copy_(torch.einsum("ij,pyx->ipjyx", torch.eye(3), cells).flatten(0, 1))
    return nn.Sequential(OrderedDict(patches=patches))
