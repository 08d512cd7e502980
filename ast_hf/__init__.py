"""AST: asymmetric student-teacher networks for industrial anomaly detection (Rudolph et al., WACV 2023)."""

from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.errors import ASTError, CheckpointError, ConfigError, ImageReadError
from ast_hf.model import ASTDetector, ASTOutput
from ast_hf.prediction import Prediction
from ast_hf.training import train

__version__ = "0.1.0"
__all__ = [
    "ASTDetector",
    "ASTDetectorConfig",
    "ASTError",
    "ASTOutput",
    "CheckpointError",
    "ConfigError",
    "ImageReadError",
    "Prediction",
    "TrainingRecipe",
    "from_pretrained",
    "train",
]

from_pretrained = ASTDetector.from_pretrained
