"""What a verdict is and how it is reached: calibration, predictor and its runtimes, drawing."""

from ast_hf.inference.calibration import Calibration
from ast_hf.inference.prediction import Prediction
from ast_hf.inference.predictor import Predictor

__all__ = ["Calibration", "Prediction", "Predictor"]
