"""Public names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


def lazy_attribute(package: str, modules: Mapping[str, Sequence[str]], name: str) -> Any:
    """What a package's `__getattr__` returns.

    Args:
        package: The package's `__name__`.
        modules: The public names by the module that defines them.
        name: What was asked for.

    Raises:
        AttributeError: It is not a public name.
    """
    for module, names in modules.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
