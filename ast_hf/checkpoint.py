"""Checkpoints on disk: config.json, model.safetensors, calibration.json; strict, whole, and nothing but data."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ast_hf.errors import CheckpointError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CALIBRATION_NAME = "calibration.json"
_MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True)
class SavedModel:
    """What a checkpoint folder holds, read but not yet built."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    calibration: dict[str, Any] | None


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    calibration: Mapping[str, Any] | None,
    *,
    metadata: Mapping[str, str],
    half_precision: bool = False,
) -> None:
    """Writes a checkpoint; each file appears whole or not at all, the weights last.

    The weights' metadata holds the SHA-256 of the other files, so that files of two checkpoints are never mixed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {CONFIG_NAME: _to_json(config)}
    if calibration is not None:
        files[CALIBRATION_NAME] = _to_json(calibration)
    metadata = {"format": "pt", **metadata, **{f"{name}.sha256": _sha256(data) for name, data in files.items()}}
    stored = {name: _storable(name, tensor, half_precision) for name, tensor in tensors.items()}
    for name, data in files.items():
        write_whole(folder / name, data)
    if calibration is None:
        (folder / CALIBRATION_NAME).unlink(missing_ok=True)
    write_whole(folder / WEIGHTS_NAME, save(stored, metadata=metadata))


def read(folder: Path) -> SavedModel:
    """Reads a checkpoint folder.

    Raises:
        CheckpointError: A file is missing, unreadable, or was not written together with the others.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder with a saved detector (config.json, model.safetensors).")
    config_bytes = _read_bytes(folder / CONFIG_NAME)
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_NAME}; other formats (.bin, .pt, .pth) are not loaded.")
    tensors, metadata = _read_tensors(weights)
    files = {CONFIG_NAME: config_bytes}
    if f"{CALIBRATION_NAME}.sha256" in metadata:
        files[CALIBRATION_NAME] = _read_bytes(folder / CALIBRATION_NAME)
    for name, data in files.items():
        if metadata.get(f"{name}.sha256") != _sha256(data):
            raise CheckpointError(f"{folder / name} was changed or belongs to another checkpoint than {WEIGHTS_NAME}.")
    parsed = {name: _from_json(folder / name, data) for name, data in files.items()}
    return SavedModel(folder, parsed[CONFIG_NAME], tensors, metadata, parsed.get(CALIBRATION_NAME))


def check(saved: SavedModel, wanted: Mapping[str, Tensor]) -> None:
    """Every tensor is there, has its shape, is finite and in range, and there is none besides.

    Raises:
        CheckpointError: The first tensor that is not so, by name.
    """
    where = saved.folder / WEIGHTS_NAME
    if missing := sorted(set(wanted) - set(saved.tensors)):
        raise CheckpointError(f"{where} lacks {len(missing)} tensors that {CONFIG_NAME} needs, first {missing[0]}.")
    if extra := sorted(set(saved.tensors) - set(wanted)):
        raise CheckpointError(f"{where} has {len(extra)} tensors that {CONFIG_NAME} has no use for, first {extra[0]}.")
    for name, tensor in saved.tensors.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            raise CheckpointError(f"{where}: {name} has the shape {shapes}.")
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise CheckpointError(f"{where}: {name} has the type {tensor.dtype} instead of {wanted[name].dtype}.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{where}: {name} holds values that are not finite.")
        # Any other order would index outside, or leave channels out.
        if name.endswith(".permutation") and not torch.equal(tensor.sort().values, torch.arange(len(tensor))):
            raise CheckpointError(f"{where}: {name} is not a permutation.")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _storable(name: str, tensor: Tensor, half_precision: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not half_precision or not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise CheckpointError(f"{name} holds values too large for fp16: save without half_precision.")
    return half


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}, file.metadata() or {}
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


def _to_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _from_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return values


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
