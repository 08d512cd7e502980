"""AST: asymmetric student-teacher networks for industrial anomaly detection (Rudolph et al., WACV 2023).

The public names are imported when they are first used, so that importing the package takes no time and no torch.
"""

from typing import TYPE_CHECKING, Any

from ast_hf._lazy import lazy_attribute
from ast_hf._version import __version__

if TYPE_CHECKING:
    from ast_hf.config import ASTDetectorConfig, TrainingRecipe
    from ast_hf.detector import ASTDetector, from_pretrained
    from ast_hf.errors import ASTError, CheckpointError, ConfigError, ImageReadError
    from ast_hf.inference import Prediction, Predictor
    from ast_hf.nn.network import ASTOutput
    from ast_hf.training import train

__all__ = [
    "ASTDetector",
    "ASTDetectorConfig",
    "ASTError",
    "ASTOutput",
    "CheckpointError",
    "ConfigError",
    "ImageReadError",
    "Prediction",
    "Predictor",
    "TrainingRecipe",
    "__version__",
    "from_pretrained",
    "train",
]

_MODULES = {
    "ast_hf.config": ("ASTDetectorConfig", "TrainingRecipe"),
    "ast_hf.detector": ("ASTDetector", "from_pretrained"),
    "ast_hf.errors": ("ASTError", "CheckpointError", "ConfigError", "ImageReadError"),
    "ast_hf.inference": ("Prediction", "Predictor"),
    "ast_hf.nn.network": ("ASTOutput",),
    "ast_hf.training": ("train",),
}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
