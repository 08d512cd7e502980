"""Reads weights that the authors' released code saved (marco-rudolph/AST, `models/*_teacher.pth`, `*_student.pth`)."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ast_hf.config import PRETRAINED, ASTDetectorConfig
from ast_hf.detector import ASTDetector
from ast_hf.errors import CheckpointError

# Their graph counts two input nodes before the first permutation; ours is a plain sequence.
_INPUT_NODES = 2
_TEACHER_KEY = re.compile(r"module_list\.(\d+)\.s([12])\.(conv[12]\.weight|conv[12]\.bias|gamma)")
_STUDENT_NAMES = (
    (re.compile(r"^conv1\."), "conv_in."),
    (re.compile(r"^conv2\."), "conv_out."),
    (re.compile(r"^res\.(\d+)\.l([12])\."), r"blocks.\1.conv\2."),
    (re.compile(r"^res\.(\d+)\.bn([12])\."), r"blocks.\1.norm\2."),
)


def load_original(
    teacher_pth: str | Path,
    student_pth: str | Path,
    config: ASTDetectorConfig,
    *,
    backbone_weights: str | Path | None = PRETRAINED,
) -> ASTDetector:
    """A detector with the authors' trained teacher and student.

    Args:
        teacher_pth: Their `*_teacher.pth`; opened with `weights_only`, so that it cannot run code.
        student_pth: Their `*_student.pth`.
        config: What they were trained as; their code trains `preset("mvtec-3d-ad")` as released.
        backbone_weights: "pretrained", a path, or None; the authors' files do not hold the backbone.

    Raises:
        CheckpointError: A file cannot be read, or does not hold the weights that `config` asks for.
    """
    model = ASTDetector(config, backbone_weights=backbone_weights)
    load_original_state(model, _read(Path(teacher_pth)), _read(Path(student_pth)))
    return model


def load_original_state(model: ASTDetector, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> None:
    """Puts the authors' two state dicts into `model`.

    Their permutations are not stored; they follow from the block's number and are in `model` already.
    """
    _load(model.teacher, {_teacher_name(k): v for k, v in teacher.items()}, "teacher")
    # `gamma` of their student is never used.
    _load(model.student, {_student_name(k): v for k, v in student.items() if k != "gamma"}, "student")


def _teacher_name(key: str) -> str:
    match = _TEACHER_KEY.fullmatch(key)
    if match is None:
        raise CheckpointError(f"{key} is not a weight of the authors' teacher; are the two files swapped?")
    return f"module_list.{int(match[1]) - _INPUT_NODES}.net{match[2]}.{match[3]}"


def _student_name(key: str) -> str:
    for pattern, name in _STUDENT_NAMES:
        if pattern.search(key):
            return pattern.sub(name, key)
    raise CheckpointError(f"{key} is not a weight of the authors' student; are the two files swapped?")


def _load(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    own = {k: v for k, v in network.state_dict().items() if k.endswith(".permutation")}
    try:
        network.load_state_dict({**own, **state})
    except RuntimeError as error:
        raise CheckpointError(f"The authors' {what} does not fit this configuration: {error}") from error


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # What torch raises for a file that is not one of its own, or that would run code.
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a readable PyTorch state dict ({error}).") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds something else than a state dict.")
    return state
