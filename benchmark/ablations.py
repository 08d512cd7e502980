"""The paper's ablations (Rudolph et al., WACV 2023, tables 5 to 7): AST with one thing changed.

"Teacher only" needs no run of its own: every job reports its teacher's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ast_hf.config import ASTDetectorConfig
from ast_hf.flow import build_teacher
from ast_hf.model import ASTDetector

AST = "AST"
_SYMMETRIC = {"symmetric student": 1, "symmetric student, 8 blocks": 2}

# name -> the fields of the configuration that differ from AST's.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    AST: {},
    **{name: {} for name in _SYMMETRIC},
    "no positional encoding": {"position_channels": 0},
    "no mask": {"foreground_dilation": 0},
    **{f"{n} residual block{'s' * (n > 1)}": {"student_blocks": n} for n in (1, 2, 8, 12)},
}


def variants_of(modality: str) -> list[str]:
    """The variants that mean something for a modality: without depth there is no mask to leave out."""
    return [name for name in VARIANTS if modality != "rgb" or name != "no mask"]


def has_own_student(variant: str) -> bool:
    """Whether the variant's student is none that a configuration can describe, so that no checkpoint is written."""
    return variant in _SYMMETRIC


def change_student(model: ASTDetector, variant: str, seed: int) -> None:
    """Gives `model` the untrained student of a variant, in place; nothing where AST's own student is meant."""
    if has_own_student(variant):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = SymmetricStudent(model.config, model.map_size, repeats=_SYMMETRIC[variant])
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
