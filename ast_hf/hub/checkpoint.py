"""Checkpoints on disk: config.json, model.safetensors, calibration.json, metrics.json; strict, whole, only data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ast_hf.errors import CheckpointError
from ast_hf.files import write_together

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CALIBRATION_NAME = "calibration.json"
METRICS_NAME = "metrics.json"
_MAX_JSON_BYTES = 64 * 2**20
_MAX_TENSORS = 50_000
# Beginnings of names in checkpoints of config_version 1, and what they are now.
_RENAMED = {
    "backbone.trunk.": "backbone.",
    "position": "positional_encoding",
    "input_deviation": "input_std",
    "student.head.": "student.conv_in.",
    "student.tail.": "student.conv_out.",
}


@dataclass(frozen=True)
class SavedModel:
    """What a checkpoint folder holds, read but not yet built."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    calibration: dict[str, Any] | None
    metrics: dict[str, Any] | None


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    calibration: Mapping[str, Any] | None,
    metrics: Mapping[str, Any] | None = None,
    *,
    metadata: Mapping[str, str],
    half_precision: bool = False,
) -> None:
    """Writes a checkpoint; one that was there before is kept until all files of the new one are on the disk.

    The weights' metadata holds the SHA-256 of config.json and calibration.json, so that files of two checkpoints are
    never mixed; metrics.json may be written later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {CONFIG_NAME: config, CALIBRATION_NAME: calibration, METRICS_NAME: metrics}
    texts = {
        name: json.dumps(values, indent=2, allow_nan=False) for name, values in files.items() if values is not None
    }
    data = {name: f"{text}\n".encode() for name, text in texts.items()}
    seals = {f"{name}.sha256": hashlib.sha256(data[name]).hexdigest() for name in data if name != METRICS_NAME}
    stored = {name: _storable(name, tensor, half_precision) for name, tensor in tensors.items()}
    weights = _serialized(stored, {"format": "pt", **metadata, **seals})
    write_together({**{folder / name: [text] for name, text in data.items()}, folder / WEIGHTS_NAME: weights})
    for name in set(files) - set(data):
        (folder / name).unlink(missing_ok=True)


def read(folder: Path) -> SavedModel:
    """Reads a checkpoint folder; `CheckpointError` where a file is missing, unreadable, or not one of the others'."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder with a saved detector (config.json, model.safetensors).")
    files, weights = {CONFIG_NAME: _read_bytes(folder / CONFIG_NAME)}, folder / WEIGHTS_NAME
    if not weights.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_NAME}; other formats (.bin, .pt, .pth) are not loaded.")
    tensors, metadata = _read_tensors(weights)
    if f"{CALIBRATION_NAME}.sha256" in metadata:
        files[CALIBRATION_NAME] = _read_bytes(folder / CALIBRATION_NAME)
    for name, data in files.items():
        if metadata.get(f"{name}.sha256") != hashlib.sha256(data).hexdigest():
            raise CheckpointError(f"{folder / name} was changed or belongs to another checkpoint than {WEIGHTS_NAME}.")
    if (folder / METRICS_NAME).is_file():
        files[METRICS_NAME] = _read_bytes(folder / METRICS_NAME)
    parsed = {name: _from_json(folder / name, data) for name, data in files.items()}
    config, calibration, metrics = parsed[CONFIG_NAME], parsed.get(CALIBRATION_NAME), parsed.get(METRICS_NAME)
    if config.get("config_version") == 1:
        tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
    return SavedModel(folder, config, tensors, metadata, calibration, metrics)


def checked(saved: SavedModel, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The saved tensors in the types of `wanted`, which may be on the meta device.

    Raises a `CheckpointError` that names one which is missing, too many, of another shape or type, or out of range.
    """
    where = saved.folder / WEIGHTS_NAME
    if missing := sorted(set(wanted) - set(saved.tensors)):
        raise CheckpointError(f"{where} lacks {len(missing)} tensors that {CONFIG_NAME} needs, first {missing[0]}.")
    if extra := sorted(set(saved.tensors) - set(wanted)):
        raise CheckpointError(f"{where} has {len(extra)} tensors that {CONFIG_NAME} has no use for, first {extra[0]}.")
    for name, tensor in saved.tensors.items():
        if fault := _fault(name, tensor, wanted[name]):
            raise CheckpointError(f"{where}: {name} {fault}.")
    # What is in its type already stays mapped to the file, and takes no memory of its own.
    return {name: tensor.to(wanted[name].dtype) for name, tensor in saved.tensors.items()}


def _renamed(name: str) -> str:
    old = next((old for old in _RENAMED if name.startswith(old)), None)
    return name if old is None else _RENAMED[old] + name.removeprefix(old)


def _fault(name: str, tensor: Tensor, wanted: Tensor) -> str | None:
    """What is wrong with a tensor, or None."""
    if tensor.shape != wanted.shape:
        return f"has the shape {tuple(tensor.shape)} instead of {tuple(wanted.shape)}"
    if tensor.dtype != wanted.dtype and (tensor.dtype, wanted.dtype) != (torch.float16, torch.float32):
        return f"has the type {tensor.dtype} instead of {wanted.dtype}"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        return "holds values that are not finite"
    # Any other order would index outside, or leave channels out.
    if name.endswith(".permutation") and not torch.equal(tensor.sort().values, torch.arange(len(tensor))):
        return "is not a permutation"
    # Division by these, or their root, would make every score infinite or no number.
    if (name == "input_std" and (tensor <= 0).any()) or (name.endswith(".running_var") and (tensor < 0).any()):
        return "holds deviations that are not positive"
    return None


def _serialized(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """A safetensors file in two pieces; the same content gives the same bytes, as safetensors' metadata does not."""
    data = memoryview(save(tensors))
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(bytes(data[8 : 8 + size]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text, data[8 + size :]


def _storable(name: str, tensor: Tensor, half_precision: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype in (torch.bfloat16, torch.float64):  # which `checked` does not take
        tensor = tensor.float()
    # Vectors (biases, statistics) are a thousandth of the file, and deviations below 6e-8 would be zero in fp16.
    if not half_precision or not tensor.is_floating_point() or tensor.dim() < 2:
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise CheckpointError(f"{name} holds values too large for fp16: save without half_precision.")
    return half


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            if len(names) > _MAX_TENSORS:
                raise CheckpointError(f"{path} holds {len(names)} tensors, more than any detector has.")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}).") from error


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is too large for what it should be.")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{path} cannot be read ({reason}); a saved detector has one.") from error


def _from_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return values
