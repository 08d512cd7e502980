"""What several verbs share: options by name, and the predictor that some of them ask for."""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ast_hf.config import PRESETS, PRETRAINED

if TYPE_CHECKING:
    from ast_hf.inference import Predictor

LOG = logging.getLogger("ast_hf.cli")
_SHARED: dict[str, dict[str, Any]] = {
    "model": {"help": "name, Hub id or folder of a detector"},
    "--preset": {"default": "compact", "choices": list(PRESETS)},
    "--set": {"nargs": "+", "default": [], "metavar": "FIELD=VALUE"},
    "--backbone-weights": {"default": PRETRAINED, "help": "safetensors file in timm's names (default: from the Hub)"},
    "--output": {"type": Path, "required": True, "help": "folder for the checkpoint"},
    "--half-precision": {"action": "store_true", "help": "store the weights in fp16"},
    "--false-positive-rate": {"type": float, "help": "another rate for the threshold than the one it was trained with"},
    "--batch-size": {"type": int, "default": 8, "help": "pictures computed at once (default: 8)"},
    "--runtime": {
        "choices": ("torch", "compile", "openvino"),
        "default": "torch",
        "help": "what computes (default: torch); openvino is the fastest on a CPU (pip install .[openvino]), compile "
        "on a GPU, and both need up to a minute at the start",
    },
    "--accelerate": {
        "dest": "runtime",
        "action": "store_const",
        "const": "openvino",
        "help": "the same as --runtime openvino",
    },
    "--device": {"help": "cpu, cuda, cuda:1 (default: cuda where there is one)"},
}
SCORING = ("--false-positive-rate", "--batch-size", "--runtime", "--accelerate", "--device")  # for `make_predictor`


def add(verb: Any, *names: str, **settings: Any) -> None:
    """Adds options to a verb or to a group of its options: shared ones by their names, others with all settings."""
    for name in names:
        verb.add_argument(name, **{**_SHARED.get(name, {}), **settings})


def make_predictor(options: argparse.Namespace) -> "Predictor":
    """The detector at the rate that was asked for, in the runtime."""
    from ast_hf.detector import ASTDetector
    from ast_hf.inference import Predictor

    detector = ASTDetector.from_pretrained(options.model, device=options.device)
    if options.false_positive_rate is not None and detector.calibration is not None:
        rate = options.false_positive_rate
        detector.calibration = dataclasses.replace(detector.calibration, false_positive_rate=rate)
    return Predictor(detector, runtime=options.runtime)
