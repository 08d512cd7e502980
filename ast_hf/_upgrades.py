"""Configurations stored by older versions, brought to the fields of this one."""

from collections.abc import Mapping
from typing import Any

from ast_hf.errors import ConfigError

CONFIG_VERSION = 3
# The fields that came with a version, with what was so before it: the paper's values; one pair, one tile and no region,
# and what was learnt of pictures and scans was not written down.
_CAME: Mapping[int, Mapping[str, Any]] = {
    2: {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "feature_projection": 0,
        "student_kernel_size": 3,
        "image_score_fraction": 0.1,
    },
    3: {
        "tiles": [1, 1],
        "region": False,
        "backbone_precision": "auto",
        "image_bits": None,
        "depth_range": None,
        "local_channels": None,
        "local_share": 0.7,
    },
}


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored configuration as this version has them.

    Raises:
        ConfigError: Its `config_version` is newer than this version of ast_hf, or none at all.
    """
    fields = dict(values)
    version = fields.pop("config_version", None)
    if not isinstance(version, int) or not 1 <= version <= CONFIG_VERSION:
        raise ConfigError(
            f"config_version is {str(version)[:80]!r}, and this version of ast_hf reads up to {CONFIG_VERSION}: "
            "upgrade ast_hf, or save the model again with it."
        )
    if version == 1:  # `coupling_blocks` went, since it follows from `coupling_kernel_sizes`
        sizes, blocks = fields.get("coupling_kernel_sizes"), fields.pop("coupling_blocks", None)
        if not isinstance(sizes, (list, tuple)) or len(sizes) != blocks:
            raise ConfigError(f"coupling_blocks is {str(blocks)[:80]}, and coupling_kernel_sizes is {str(sizes)[:80]}.")
    for later in range(version + 1, CONFIG_VERSION + 1):
        fields |= _CAME[later]
    return fields
