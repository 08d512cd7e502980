"""Pictures and what the teacher network makes of them, drawn and computed ahead into files."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from ast_hf.backbone import FeatureExtractor
from ast_hf.checkpoint import write_whole
from ast_hf.distill.pictures import bundled_photographs, draw_picture
from ast_hf.errors import ASTError
from ast_hf.folding import fold_batch_norm
from ast_hf.images import normalize
from ast_hf.tiny import STRIDE

CHUNK = 256
# Chunk 0 is never trained on: it gives the validation error, and each channel's mean and deviation.
VALIDATION = 0


@dataclass(frozen=True)
class Teacher:
    """The network whose features are learnt, and the pictures that it is shown.

    Attributes:
        backbone: As in `ASTDetectorConfig`.
        layers: Paths of modules, the deepest last. Their outputs, averaged over the small trunk's cells, are
            learnt side by side.
        weights: "pretrained", or the path of a safetensors file in timm's names.
        size: Of a side of the pictures, in pixels.
        seed: Of the pictures.
    """

    backbone: str = "tf_efficientnet_b0.aa_in1k"
    layers: tuple[str, ...] = ("blocks.2", "blocks.4", "blocks.5")
    weights: str = "pretrained"
    size: int = 256
    seed: int = 0


def chunk_path(folder: Path, number: int) -> Path:
    """Where a chunk is or will be."""
    return folder / f"chunk{number:04}.safetensors"


def ready(folder: Path, count: int) -> list[int]:
    """Numbers of the chunks that can be learnt from."""
    return [number for number in range(1, count + 1) if chunk_path(folder, number).is_file()]


def load_chunk(folder: Path, number: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (CHUNK, 3, S, S) and features float16 (CHUNK, C, s, s)."""
    tensors = load_file(chunk_path(folder, number))
    return tensors["pictures"], tensors["features"]


@torch.inference_mode()
def write_chunks(folder: Path, teacher: Teacher, count: int, device: str) -> None:
    """Writes chunks 0 to `count`, as far as they are missing."""
    missing = [number for number in range(count + 1) if not chunk_path(folder, number).is_file()]
    if not missing:
        return
    network = FeatureExtractor(teacher.backbone, teacher.layers[-1], weights=teacher.weights).to(device)
    trunk = fold_batch_norm(network.trunk)
    photographs = bundled_photographs()
    parent = multiprocessing.parent_process()
    for number in missing:
        if parent is not None and not parent.is_alive():  # killed, and nobody is left to learn
            return
        pictures, features = [], []
        for index in range(number * CHUNK, (number + 1) * CHUNK):
            drawn = draw_picture(np.random.default_rng([teacher.seed, index]), teacher.size, photographs)
            pictures.append(torch.from_numpy(drawn).permute(2, 0, 1))
        for batch in torch.stack(pictures).split(16):
            features.append(_features(trunk, teacher.layers, normalize(batch.to(device))).half().cpu())
        chunk = {"pictures": torch.stack(pictures), "features": torch.cat(features).contiguous()}
        write_whole(chunk_path(folder, number), save(chunk))


def _features(trunk: nn.Module, layers: Sequence[str], pixel_values: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    hooks = [trunk.get_submodule(name).register_forward_hook(lambda *call: outputs.append(call[2])) for name in layers]
    trunk(pixel_values.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    cells = pixel_values.shape[-1] // STRIDE
    return torch.cat([F.adaptive_avg_pool2d(output.float(), cells) for output in outputs], dim=1)


def start_writing(folder: Path, teacher: Teacher, count: int, device: str) -> BaseProcess:
    """`write_chunks` in a process of its own, which ends with this one."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(
        target=_write_alone, args=(folder, teacher, count, device), daemon=True
    )
    process.start()
    return process


def chunks(folder: Path, count: int, writer: BaseProcess, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks without end, by chance among those that are there; waits for the first ones.

    Raises:
        ASTError: The writing process ended without having written any.
    """
    while True:
        numbers = ready(folder, count)
        if numbers and chunk_path(folder, VALIDATION).is_file():
            yield load_chunk(folder, int(rng.choice(numbers)))
        elif writer.is_alive():
            time.sleep(1)
        else:
            raise ASTError(f"No pictures could be prepared in {folder}; the log above says why.")


def _write_alone(folder: Path, teacher: Teacher, count: int, device: str) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the other half learns
    write_chunks(folder, teacher, count, device)
