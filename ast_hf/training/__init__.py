"""Training: features made once and kept, teacher, student, calibration.

May import from `ast_hf`: everything but `export`, `original`, `cli` and `demo`.
"""

from ast_hf.training.trainer import calibrate, fit, hold_out, train

__all__ = ["calibrate", "fit", "hold_out", "train"]
