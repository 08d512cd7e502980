"""Options that several verbs share."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from ast_hf.config import PRETRAINED

if TYPE_CHECKING:
    from ast_hf.inference import Predictor


def add_model(verb: argparse.ArgumentParser) -> None:
    """The detector, as the first argument."""
    verb.add_argument("model", help="name, Hub id or folder of a detector")


def add_device(verb: argparse.ArgumentParser) -> None:
    """Where to compute."""
    verb.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


def add_scoring(verb: argparse.ArgumentParser) -> None:
    """How parts are scored, for `make_predictor`."""
    verb.add_argument(
        "--false-positive-rate", type=float, help="another rate for the threshold than the one it was trained with"
    )
    verb.add_argument("--batch-size", type=int, default=8, help="pictures computed at once (default: 8)")
    verb.add_argument(
        "--runtime", choices=("torch", "compile", "openvino"), default="torch",
        help="what computes (default: torch); openvino is the fastest on a CPU (pip install .[openvino]), compile on a "
        "GPU, and both need up to a minute at the start",
    )  # fmt: skip
    verb.add_argument(
        "--accelerate", dest="runtime", action="store_const", const="openvino", help="the same as --runtime openvino"
    )
    add_device(verb)


def make_predictor(options: argparse.Namespace) -> Predictor:
    """The detector at the rate that was asked for, in the runtime."""
    from ast_hf.detector import ASTDetector
    from ast_hf.inference import Predictor

    detector = ASTDetector.from_pretrained(options.model, device=options.device)
    if options.false_positive_rate is not None and detector.calibration is not None:
        rate = options.false_positive_rate
        detector.calibration = dataclasses.replace(detector.calibration, false_positive_rate=rate)
    return Predictor(detector, runtime=options.runtime)


def add_half_precision(verb: argparse.ArgumentParser) -> None:
    """How weights are stored."""
    verb.add_argument("--half-precision", action="store_true", help="store the weights in fp16")


def add_backbone_weights(verb: argparse.ArgumentParser, default: str | None = PRETRAINED) -> None:
    """Where the weights of the backbone come from."""
    verb.add_argument(
        "--backbone-weights", default=default, help="safetensors file in timm's names (default: from the Hub)"
    )
