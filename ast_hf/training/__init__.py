"""Training: features made once and kept, teacher, student, calibration."""

from ast_hf.training.trainer import calibrate, fit, hold_out, train

__all__ = ["calibrate", "fit", "hold_out", "train"]
