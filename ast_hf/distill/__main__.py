"""`python -m ast_hf.distill FOLDER`: makes the weights of `ast-tiny`, in pieces if need be."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ast_hf.distill.chunks import Teacher
from ast_hf.distill.learning import Learning, distill
from ast_hf.errors import ASTError
from ast_hf.model import default_device


def main() -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ast_hf.distill",
        description="Teaches the small trunk ast-tiny the features of an ImageNet network on pictures drawn for it. "
        "The same command goes on after a break; with more --steps it goes on from what was reached.",
    )
    parser.add_argument("folder", type=Path, help="takes pictures (200 KB each), state and weights")
    parser.add_argument("--teacher", default=Teacher.backbone, help="timm network (default: %(default)s)")
    parser.add_argument("--layers", nargs="+", default=Teacher.layers, help="to be learnt (default: %(default)s)")
    parser.add_argument("--teacher-weights", default=Teacher.weights, help="safetensors file (default: from the Hub)")
    parser.add_argument("--steps", type=int, default=Learning.steps, help="of training (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=Learning.chunks, help="of 256 pictures (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda (default: cuda where there is one)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    teacher = Teacher(options.teacher, tuple(options.layers), options.teacher_weights)
    try:
        path = distill(
            options.folder, teacher, Learning(options.steps, chunks=options.chunks), default_device(options.device)
        )
    except ASTError as error:
        logging.getLogger(__name__).error("%s", error)
        return 2
    logging.getLogger(__name__).info("Weights: %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
