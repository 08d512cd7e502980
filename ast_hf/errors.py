"""Every error this package raises on purpose for bad input, so that one `except ASTError` catches them all."""


class ASTError(Exception):
    """Base of the package's errors; its text is a sentence that says what was wrong, where, and what to do."""


class ConfigError(ASTError, ValueError):
    """A configuration or recipe holds a value that no model can be built from."""


class ImageReadError(ASTError, ValueError):
    """A picture or a point cloud, called by its path or a short name, cannot be used; the reason says what to do."""

    def __init__(self, source: object, reason: str) -> None:
        self.source, self.reason = str(source), reason
        super().__init__(self.source, reason)  # from which it is rebuilt in another process

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class CheckpointError(ASTError, ValueError):
    """A saved detector is incomplete, damaged, or not what its configuration says."""


class OutputError(ASTError):
    """Results cannot be written where they are to go."""


class RuntimeUnavailableError(ASTError, RuntimeError):
    """What a prediction is to be computed by cannot be used here."""


class DatasetError(ASTError, ValueError):
    """A dataset folder does not have the layout it should have."""
