"""Public names of a package that are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


def lazy_attribute(package: str, modules: Mapping[str, Sequence[str]], name: str) -> Any:
    """What a package's `__getattr__` returns, from its public names by the module that defines them."""
    for module, names in modules.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
