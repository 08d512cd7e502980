"""What teacher and student learn from, computed once: features through the frozen backbone, kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ast_hf.config import Precision
from ast_hf.data.images import ImageSource, read_image
from ast_hf.data.samples import (
    LoadedSample,
    Sample,
    batched,
    count_readers,
    load_sample,
    prefetch,
    stack,
    stack_pixel_values,
)
from ast_hf.files import home, write_atomic
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import autocast, resolve_precision

_LOG = logging.getLogger(__name__)
MAX_CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class PreparedSamples:
    """N samples as `ASTNetwork.score_inputs` takes them, before standardisation, on the network's device."""

    inputs: Tensor  # (N, C, h, w)
    mask: Tensor | None  # (N, 1, h, w) in [0, 1], or None for all ones

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, indices: Sequence[int] | Tensor) -> PreparedSamples:
        """Some of the samples."""
        rows = torch.as_tensor(indices, device=self.inputs.device)
        return PreparedSamples(self.inputs[rows], None if self.mask is None else self.mask[rows])


def default_cache_folder() -> Path:
    """`$AST_HF_HOME/features`, or ~/.cache/ast_hf/features."""
    return home() / "features"


class FeatureCache:
    """Features of pictures on disk, found by content: the same picture under another name is the same entry.

    The key covers the picture's bytes and all that the features depend on: backbone weights, layer, size, bits, padding
    and arithmetic. Entries may be deleted at any time.

    Args:
        folder: Made where it is missing.
        network: The one whose backbone computes what is missing.
        precision: Arithmetic that it computes them in.
        max_bytes: The entries used longest ago are deleted until the folder holds no more (`trim`).
    """

    def __init__(
        self, folder: Path, network: ASTNetwork, precision: Precision = "auto", *, max_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        if network.backbone is None:
            raise ValueError("A detector without a backbone has no features to keep.")
        config = network.config
        precision = resolve_precision(network.device, precision) if config.backbone_precision == "auto" else "fp32"
        settings = (
            config.backbone_layers, config.image_shape, config.tiles, config.image_bits, config.image_mean,
            config.image_std, config.backbone_padding, precision,
        )  # fmt: skip
        self.settings = f"{network.backbone.digest()} {settings}".encode()
        if config.region:
            self.settings += network.region.cpu().numpy().tobytes()
        self._bits = config.image_bits
        self.folder, self.max_bytes, self._takes_more = folder, max_bytes, True

    def path(self, image: ImageSource) -> Path:
        """Where a picture's features are or will be."""
        sha = hashlib.sha256(self.settings)
        for piece in _content(image, self._bits):
            sha.update(piece)
        name = sha.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, image: ImageSource) -> Tensor | None:
        """The features (F, h, w), or None where they are missing or damaged."""
        path = self.path(image)
        try:
            features = load_file(path)["features"]
            os.utime(path)  # for `trim`
        except (OSError, SafetensorError, KeyError):
            return None
        return features

    def put(self, image: ImageSource, features: Tensor) -> None:
        """Keeps the features (F, h, w) of a picture; where the disk is full they are computed again next time."""
        if not self._takes_more:
            return
        path = self.path(image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"features": features.cpu().contiguous()}))
        except OSError as error:
            self._takes_more = False  # and one warning is enough
            _LOG.warning("Features are not kept in %s: %s", self.folder, error)

    def trim(self) -> None:
        """Deletes the entries used longest ago, down to `max_bytes`; other processes may do the same meanwhile."""
        entries = []
        for path in self.folder.glob("??/*.safetensors"):
            try:
                status = path.stat()
            except OSError:
                continue
            entries.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in entries) - self.max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


@torch.no_grad()
def prepare(
    network: ASTNetwork,
    samples: Sequence[Sample],
    *,
    precision: Precision = "auto",
    cache: FeatureCache | None = None,
    batch_size: int = 8,
    on_batch: Callable[[int, int], None] | None = None,
) -> PreparedSamples:
    """Reads samples and runs the backbone over those pictures whose features are not in the cache yet.

    Args:
        network: Its backbone and sizes are used; it is not changed.
        samples: At least one.
        precision: Arithmetic of the backbone.
        cache: Where features are looked up and kept; None computes all of them.
        batch_size: Pictures a forward pass.
        on_batch: Called with (samples done, samples in all).

    Raises:
        ImageReadError: A sample cannot be used.
    """
    inputs, masks = [], []
    with autocast(network.device, precision):
        found = prefetch(lambda sample: _lookup(network, sample, cache), samples, workers=count_readers(network.device))
        for batch in batched(found, batch_size):
            features = _features(network, batch, cache)
            loaded = [entry.loaded for entry in batch if entry.loaded is not None]
            inputs.append(network.join_inputs(features, stack([s.depth for s in loaded], network.device)))
            masks.append(network.map_mask(stack([s.foreground for s in loaded], network.device), len(batch)))
            if on_batch is not None:
                on_batch(sum(map(len, inputs)), len(samples))
    if cache is not None:
        cache.trim()
    used = [mask for mask in masks if mask is not None]
    return PreparedSamples(torch.cat(inputs), torch.cat(used) if used else None)


@dataclass(frozen=True)
class _Entry:
    sample: Sample
    loaded: LoadedSample | None  # None where the features are all that is needed, and are there
    features: Tensor | None


def _lookup(network: ASTNetwork, sample: Sample, cache: FeatureCache | None) -> _Entry:
    features = cache.get(sample.image) if cache is not None and sample.image is not None else None
    if features is not None and not network.config.uses_depth:
        return _Entry(sample, None, features)
    return _Entry(sample, load_sample(network.config, sample), features)


def _features(network: ASTNetwork, batch: Sequence[_Entry], cache: FeatureCache | None) -> Tensor | None:
    """Features (B, F, h, w) of a batch: from the cache where it has all of them, else computed and kept.

    A batch is computed whole, because rounding depends on its size: who starts again after a break in the middle of a
    batch gets the same bits as who was never stopped.
    """
    if network.backbone is None:
        return None
    found = [entry.features for entry in batch if entry.features is not None]
    if len(found) == len(batch):
        return torch.stack(found).to(network.device)
    loaded = [entry.loaded or load_sample(network.config, entry.sample) for entry in batch]
    # The backbone may give channels_last, and convolutions round differently on that than on what the cache gives.
    computed = network.extract_features(stack_pixel_values(network.config, loaded, network.device)).contiguous()
    for entry, features in zip(batch, computed, strict=True):
        if cache is not None and entry.features is None and entry.sample.image is not None:
            cache.put(entry.sample.image, features)
    return computed


def _content(image: ImageSource, bits: int | None) -> Iterator[bytes]:
    if isinstance(image, (str, os.PathLike)):
        yield Path(image).read_bytes()
    elif isinstance(image, bytes):
        yield image
    else:
        # As the network sees it: the raw pixels of a PIL image leave out its palette and its EXIF orientation.
        picture = read_image(image, bits=bits)
        yield f"pixels {picture.size}".encode()
        yield picture.tobytes()
