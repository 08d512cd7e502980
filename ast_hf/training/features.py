"""What teacher and student learn from, computed once: features through the frozen backbone, kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ast_hf.config import Precision
from ast_hf.data.images import ImageSource, read_image
from ast_hf.data.sample import Sample
from ast_hf.data.samples import LoadedSample, batched, count_readers, load_sample, prefetch, stack, stack_pixel_values
from ast_hf.files import home, write_atomic
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import autocast, resolve_precision

_LOG = logging.getLogger(__name__)
_BATCH_SIZE = 8  # pictures a forward pass
# A sample, its features where they are stored, and what was read of it where these are not all that is needed.
_Entry: TypeAlias = tuple[Sample, Tensor | None, LoadedSample | None]


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
    and arithmetic. Entries may be deleted at any time; `trim` deletes those used longest ago.
    """

    def __init__(
        self, folder: Path, network: ASTNetwork, precision: Precision = "auto", *, max_bytes: int = 4 * 2**30
    ) -> None:
        assert network.backbone is not None, "without a backbone there are no features to keep"
        config = network.config
        precision = resolve_precision(network.device, precision) if config.backbone_precision == "auto" else "fp32"
        settings = (
            config.backbone_layers, config.image_shape, config.tiles, config.image_bits, config.image_mean,
            config.image_std, config.backbone_padding, precision,
        )  # fmt: skip
        self._settings = f"{network.backbone.digest()} {settings}".encode()
        if config.region:
            self._settings += network.region.cpu().numpy().tobytes()
        self.folder, self._max_bytes, self._bits, self._takes_more = folder, max_bytes, config.image_bits, True

    def path(self, image: ImageSource) -> Path:
        """Where a picture's features are or will be."""
        content = Path(image).read_bytes() if isinstance(image, (str, os.PathLike)) else image
        if not isinstance(content, bytes):
            # As the network sees it: the raw pixels of a PIL image leave out its palette and its EXIF orientation.
            picture = read_image(content, bits=self._bits)
            content = f"pixels {picture.size}".encode() + picture.tobytes()
        name = hashlib.sha256(self._settings + content).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, image: ImageSource) -> Tensor | None:
        """The features (F, h, w), or None where they are missing or damaged."""
        path = self.path(image)
        try:
            os.utime(path)  # for `trim`
            return load_file(path)["features"]
        except (OSError, SafetensorError, KeyError):
            return None

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
        """Deletes the entries used longest ago, down to `max_bytes`; other processes may do so meanwhile."""
        entries = []
        for path in self.folder.glob("??/*.safetensors"):
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        total = 0
        for _, size, path in sorted(entries, reverse=True):
            total += size
            if total > self._max_bytes:
                path.unlink(missing_ok=True)


@torch.no_grad()
def prepare(
    network: ASTNetwork,
    samples: Sequence[Sample],
    *,
    precision: Precision = "auto",
    cache: FeatureCache | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> PreparedSamples:
    """Reads samples, at least one, and runs the backbone over pictures whose features are not in the cache yet.

    `on_batch` is called with (samples done, samples in all). Raises `ImageReadError` where a sample cannot be used.
    """
    config, inputs, masks = network.config, [], []

    def look_up(sample: Sample) -> _Entry:
        stored = cache.get(sample.image) if cache is not None and sample.image is not None else None
        is_read = stored is None or config.uses_depth
        return sample, stored, load_sample(config, sample, longest_side=1) if is_read else None

    with autocast(network.device, precision):
        found = prefetch(look_up, samples, workers=count_readers(network.device))
        for batch in batched(found, _BATCH_SIZE):
            features = _features(network, batch, cache)
            loaded = [part for _, _, part in batch if part is not None]
            inputs.append(network.join_inputs(features, stack([s.depth for s in loaded], network.device)))
            masks.append(network.map_mask(stack([s.foreground for s in loaded], network.device), len(batch)))
            if on_batch is not None:
                on_batch(sum(map(len, inputs)), len(samples))
    if cache is not None:
        cache.trim()
    used = [mask for mask in masks if mask is not None]
    return PreparedSamples(torch.cat(inputs), torch.cat(used) if used else None)


def _features(network: ASTNetwork, batch: Sequence[_Entry], cache: FeatureCache | None) -> Tensor | None:
    """Features (B, F, h, w) of a batch: from the cache where it has all of them, else computed and kept.

    A batch is computed whole, because rounding depends on its size: who starts again after a break in the middle of a
    batch gets the same bits as who was never stopped.
    """
    if network.backbone is None:
        return None
    found = [stored for _, stored, _ in batch if stored is not None]
    if len(found) == len(batch):
        return torch.stack(found).to(network.device)
    loaded = [part or load_sample(network.config, sample, longest_side=1) for sample, _, part in batch]
    # The backbone may give channels_last, and convolutions round differently on that than on what the cache gives.
    computed = network.extract_features(stack_pixel_values(network.config, loaded, network.device)).contiguous()
    for (sample, stored, _), features in zip(batch, computed, strict=True):
        if cache is not None and stored is None and sample.image is not None:
            cache.put(sample.image, features)
    return computed
