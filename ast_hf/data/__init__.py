"""Pictures and scans as people have them: read within limits, kept upright, brought to the networks' sizes.

May import from `ast_hf`: `config`, `errors`, `files` and `nn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ast_hf._lazy import lazy_attribute

if TYPE_CHECKING:
    from ast_hf.data.images import read_image, read_mask
    from ast_hf.data.point_cloud import DepthProcessor
    from ast_hf.data.sample import Sample
    from ast_hf.data.scans import read_scan

__all__ = ["DepthProcessor", "Sample", "read_image", "read_mask", "read_scan"]

# Imported when first used: the readers need no torch, and listing a dataset needs no more than them.
_MODULES = {
    "ast_hf.data.images": ("read_image", "read_mask"),
    "ast_hf.data.point_cloud": ("DepthProcessor",),
    "ast_hf.data.sample": ("Sample",),
    "ast_hf.data.scans": ("read_scan",),
}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _MODULES, name)
