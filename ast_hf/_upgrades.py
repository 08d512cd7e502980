"""Configurations stored by older versions, brought to the fields of this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ast_hf.errors import ConfigError

CONFIG_VERSION = 3


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored configuration as this version has them, brought there one version at a time.

    Raises:
        ConfigError: Its `config_version` is newer than this version of ast_hf, or none at all.
    """
    fields = dict(values)
    while (version := fields.pop("config_version", None)) != CONFIG_VERSION:
        if not isinstance(version, int) or version not in _UPGRADES:
            raise ConfigError(
                f"config_version is {str(version)[:80]!r}, and this version of ast_hf reads up to {CONFIG_VERSION}: "
                "upgrade ast_hf, or save the model again with it."
            )
        fields = {**_UPGRADES[version](fields), "config_version": version + 1}
    return fields


def _to_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    """`coupling_blocks` went, since it follows from `coupling_kernel_sizes`; the new ones had the paper's values."""
    sizes, blocks = fields.get("coupling_kernel_sizes"), fields.pop("coupling_blocks", None)
    if not isinstance(sizes, (list, tuple)) or len(sizes) != blocks:
        raise ConfigError(f"coupling_blocks is {str(blocks)[:80]}, and coupling_kernel_sizes is {str(sizes)[:80]}.")
    came = {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "feature_projection": 0,
        "student_kernel_size": 3,
        "image_score_fraction": 0.1,
    }
    return {**fields, **came}


def _to_version_3(fields: dict[str, Any]) -> dict[str, Any]:
    """What was learnt of pictures and scans was not written down; there was one pair, one tile, and no region."""
    came: dict[str, Any] = {"tiles": [1, 1], "region": False, "backbone_precision": "auto"}
    came |= {"image_bits": None, "depth_range": None, "local_channels": None, "local_share": 0.7}
    return {**fields, **came}


# An older config_version -> what makes its fields those of the next version.
_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_version_2, 2: _to_version_3}
