"""Every error this package raises on purpose for bad input, so that one `except ASTError` catches them all."""

from __future__ import annotations


class ASTError(Exception):
    """Base of the package's errors; its text is a sentence that says what was wrong, where, and what to do."""


class ConfigError(ASTError, ValueError):
    """A configuration or recipe holds a value that no model can be built from."""


class ImageReadError(ASTError, ValueError):
    """A picture or a point cloud cannot be used.

    Args:
        source: The file's path, or a short name for data that came without one.
        reason: What is wrong with it and, where there is a mend, what to do.
    """

    def __init__(self, source: object, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageReadError], tuple[str, str]]:
        # Exceptions are rebuilt from `args` (the joined text) by default, which this signature does not take.
        return type(self), (self.source, self.reason)


class CheckpointError(ASTError, ValueError):
    """A saved detector is incomplete, damaged, or not what its configuration says."""


class OutputError(ASTError):
    """Results cannot be written where they are to go."""


class RuntimeUnavailableError(ASTError, RuntimeError):
    """What a prediction is to be computed by cannot be used here."""


class DatasetError(ASTError, ValueError):
    """A dataset folder does not have the layout it should have."""
