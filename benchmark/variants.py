"""AST with one thing changed: the paper's ablations (Rudolph et al., WACV 2023, tables 5 to 7), and two of the trunk.

"Teacher only" needs no run of its own: every job reports its teacher's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AST = "AST"
RANDOM_TRUNK, RAW_PATCHES = "random trunk", "raw patches"
SYMMETRIC = {"symmetric student": 1, "symmetric student, 8 blocks": 2}  # by how many times the teacher's depth
_PATCHES = {"backbone": "raw_patches", "backbone_layer": "patches", "backbone_padding": None, "feature_channels": 192}

# name -> the fields of the configuration that differ from AST's.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    AST: {},
    **{name: {} for name in SYMMETRIC},
    "no positional encoding": {"position_channels": 0},
    "no mask": {"foreground_dilation": 0},
    **{f"{n} residual block{'s' * (n > 1)}": {"student_blocks": n} for n in (1, 2, 8, 12)},
    # What the trunk's training is worth: its own weights before it, and no trunk at all.
    RANDOM_TRUNK: {},
    RAW_PATCHES: _PATCHES,
}
# What the library alone cannot build from its configuration, so that no checkpoint of it would load.
SPECIAL = (*SYMMETRIC, RANDOM_TRUNK, RAW_PATCHES)


def variants_of(modality: str) -> list[str]:
    """The variants that mean something for a modality: without depth no mask, and without a picture no trunk."""
    without = {"rgb": {"no mask"}, "depth": {RANDOM_TRUNK, RAW_PATCHES}}.get(modality, set())
    return [name for name in VARIANTS if name not in without]
