"""Reads weights that the authors' released code saved (marco-rudolph/AST, `models/*_teacher.pth`, `*_student.pth`)."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ast_hf.config import PRETRAINED, ASTDetectorConfig
from ast_hf.detector import ASTDetector
from ast_hf.errors import CheckpointError

_Names = Mapping[str, str | Callable[[re.Match[str]], str]]  # ours by a pattern of theirs, as `re.sub` takes them
_TEACHER_NAMES: _Names = {
    # Their graph counts two input nodes before the first permutation; ours is a plain sequence.
    r"module_list\.(\d+)\.s([12])\.(conv[12]\.weight|conv[12]\.bias|gamma)\Z": lambda found: (
        f"module_list.{int(found[1]) - 2}.net{found[2]}.{found[3]}"
    )
}
_STUDENT_NAMES: _Names = {
    r"conv1\.": "conv_in.",
    r"conv2\.": "conv_out.",
    r"res\.(\d+)\.l([12])\.": r"blocks.\1.conv\2.",
    r"res\.(\d+)\.bn([12])\.": r"blocks.\1.norm\2.",
}


def load_original(
    teacher_pth: str | Path,
    student_pth: str | Path,
    config: ASTDetectorConfig,
    *,
    backbone_weights: str | Path | None = PRETRAINED,
) -> ASTDetector:
    """A detector with the authors' trained teacher and student.

    Args:
        teacher_pth, student_pth: Their files; opened with `weights_only`, so that they cannot run code.
        config: What they were trained as; their code trains `preset("mvtec-3d-ad")` as released.
        backbone_weights: "pretrained", a path, or None; the authors' files do not hold the backbone.

    Raises:
        CheckpointError: A file cannot be read, or does not hold the weights that `config` asks for.
    """
    model = ASTDetector(config, backbone_weights=backbone_weights)
    load_original_state(model, _read(teacher_pth), _read(student_pth))
    return model


def load_original_state(model: ASTDetector, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> None:
    """Puts the authors' two state dicts into `model`.

    Their permutations are not stored; they follow from the block's number and are in `model` already.
    """
    _load(model.teacher, teacher, _TEACHER_NAMES, "teacher")
    # `gamma` of their student is never used.
    _load(model.student, {k: v for k, v in student.items() if k != "gamma"}, _STUDENT_NAMES, "student")


def _load(network: nn.Module, state: Mapping[str, Tensor], names: _Names, what: str) -> None:
    own = {k: v for k, v in network.state_dict().items() if k.endswith(".permutation")}
    for key, tensor in state.items():
        pattern = next((pattern for pattern in names if re.match(pattern, key)), None)
        if pattern is None:
            raise CheckpointError(f"{key} is not a weight of the authors' {what}; are the two files swapped?")
        own[re.sub(pattern, names[pattern], key, count=1)] = tensor
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(f"The authors' {what} does not fit this configuration: {error}") from error


def _read(path: str | Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # What torch raises for a file that is not one of its own, or that would run code.
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a readable PyTorch state dict ({error}).") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds something else than a state dict.")
    return state
