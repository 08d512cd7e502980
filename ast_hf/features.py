"""What teacher and student learn from, computed once: features through the frozen backbone, kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ast_hf.checkpoint import write_whole
from ast_hf.hub import home
from ast_hf.images import ImageSource, read_image
from ast_hf.model import ASTDetector
from ast_hf.parts import Part, ReadPart, ahead, pixel_values, read_part, stack

_Item = TypeVar("_Item")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedParts:
    """N parts as `ASTDetector.compare` takes them, before standardisation, on the model's device."""

    inputs: Tensor  # (N, C, h, w)
    foreground: Tensor | None  # (N, 1, h, w) in [0, 1], or None for all ones

    def __len__(self) -> int:
        return len(self.inputs)


def default_cache_folder() -> Path:
    """`$AST_HF_HOME/features`, or ~/.cache/ast_hf/features."""
    return home() / "features"


class FeatureCache:
    """Features of pictures on disk, found by content: the same picture under another name is the same entry.

    The key covers the picture's bytes and all that the features depend on: backbone weights, layer, size, padding
    and arithmetic. Entries may be deleted at any time.

    Args:
        folder: Made where it is missing.
        model: The detector whose backbone computes what is missing.
    """

    def __init__(self, folder: Path, model: ASTDetector) -> None:
        if model.backbone is None:
            raise ValueError("A detector without a backbone has no features to keep.")
        config = model.config
        settings = (config.backbone_layer, config.image_size, config.backbone_padding, model.effective_precision)
        self.settings = f"{model.backbone.digest()} {settings}".encode()
        self.folder = folder

    def path(self, image: ImageSource) -> Path:
        """Where a picture's features are or will be."""
        sha = hashlib.sha256(self.settings)
        for piece in _content(image):
            sha.update(piece)
        name = sha.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, image: ImageSource) -> Tensor | None:
        """The features (F, h, w), or None where they are missing or damaged."""
        try:
            return load_file(self.path(image))["features"]
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, image: ImageSource, features: Tensor) -> None:
        """Keeps the features (F, h, w) of a picture; where the disk is full they are computed again next time."""
        path = self.path(image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save({"features": features.cpu().contiguous()}))
        except OSError as error:
            _LOG.warning("Features are not kept in %s: %s", self.folder, error)


@torch.inference_mode()
def prepare(
    model: ASTDetector,
    parts: Sequence[Part],
    *,
    cache: FeatureCache | None = None,
    batch_size: int = 8,
    on_batch: Callable[[int, int], None] | None = None,
) -> PreparedParts:
    """Reads parts and runs the backbone over those pictures whose features are not in the cache yet.

    Args:
        model: Its backbone and sizes are used; it is not changed.
        parts: At least one.
        cache: Where features are looked up and kept; None computes all of them.
        batch_size: Pictures a forward pass.
        on_batch: Called with (parts done, parts in all).

    Raises:
        ImageReadError: A part cannot be used.
    """
    inputs, foreground = [], []
    for batch in _batches(ahead(lambda part: _lookup(model, part, cache), parts), batch_size):
        features = _features(model, batch, cache)
        read = [entry.read for entry in batch if entry.read is not None]
        inputs.append(model.join(features, stack([r.depth for r in read], model.device)))
        foreground.append(model.mask(stack([r.foreground for r in read], model.device)))
        if on_batch is not None:
            on_batch(sum(map(len, inputs)), len(parts))
    masks = [mask for mask in foreground if mask is not None]
    # Clones leave inference mode behind, so that training may use the tensors.
    return PreparedParts(torch.cat(inputs).clone(), torch.cat(masks).clone() if masks else None)


@dataclass(frozen=True)
class _Entry:
    part: Part
    read: ReadPart | None  # None where the features are all that is needed, and are there
    features: Tensor | None


def _lookup(model: ASTDetector, part: Part, cache: FeatureCache | None) -> _Entry:
    features = cache.get(part.image) if cache is not None and part.image is not None else None
    if features is not None and not model.config.uses_depth:
        return _Entry(part, None, features)
    return _Entry(part, read_part(model.config, part), features)


def _features(model: ASTDetector, batch: Sequence[_Entry], cache: FeatureCache | None) -> Tensor | None:
    """Features (B, F, h, w) of a batch: from the cache where it has all of them, else computed and kept.

    A batch is computed whole, because rounding depends on its size: who starts again after a break in the middle of a
    batch gets the same bits as who was never stopped.
    """
    if model.backbone is None:
        return None
    found = [entry.features for entry in batch if entry.features is not None]
    if len(found) == len(batch):
        return torch.stack(found).to(model.device)
    reads = [entry.read or read_part(model.config, entry.part) for entry in batch]
    # The trunk may give channels_last, and convolutions round differently on that than on what comes from the cache.
    computed = model.features(pixel_values(reads, model.device)).contiguous()
    for entry, features in zip(batch, computed, strict=True):
        if cache is not None and entry.features is None and entry.part.image is not None:
            cache.put(entry.part.image, features)
    return computed


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _content(image: ImageSource) -> Iterator[bytes]:
    if isinstance(image, (str, os.PathLike)):
        yield Path(image).read_bytes()
    elif isinstance(image, bytes):
        yield image
    else:
        # As the network sees it: the raw pixels of a PIL image leave out its palette and its EXIF orientation.
        picture = read_image(image)
        yield f"pixels {picture.size}".encode()
        yield picture.tobytes()
