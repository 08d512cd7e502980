from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import Tensor, nn

from ast_hf.backbone import FeatureExtractor, cut
from ast_hf.errors import CheckpointError, ConfigError
from ast_hf.folding import fold_batch_norm


def authors_features(network: EfficientNet, pixel_values: Tensor, block: int) -> Tensor:
    """The output of one block of `efficientnet_pytorch`, as the authors take it."""
    x = network._swish(network._bn0(network._conv_stem(pixel_values)))
    for index, module in enumerate(network._blocks):
        x = module(x)
        if index == block:
            return x
    raise AssertionError(f"there is no block {block}")


def twin_of(network: EfficientNet, extractor: FeatureExtractor) -> FeatureExtractor:
    """Puts the weights of `efficientnet_pytorch` into a timm trunk; both define their modules in the same order."""
    theirs = {k: v for k, v in network.state_dict().items() if not k.startswith(("_conv_head", "_bn1", "_fc"))}
    ours = extractor.trunk.state_dict()
    extractor.trunk.load_state_dict(dict(zip(ours, theirs.values(), strict=False)))
    return extractor


def random_network(name: str) -> EfficientNet:
    torch.manual_seed(0)
    network = EfficientNet.from_name(name).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training, so that signals keep their size
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_b5_at_768_equals_the_authors_extractor() -> None:
    network, pixel_values = random_network("efficientnet-b5"), torch.rand(1, 3, 768, 768)
    expected = authors_features(network, pixel_values, 35)
    assert expected.shape == (1, 304, 24, 24)
    for padding, same in ((456, True), (None, False)):
        extractor = FeatureExtractor("tf_efficientnet_b5", "blocks.5", padding=padding, weights=None)
        error = relative_error(twin_of(network, extractor)(pixel_values), expected)
        # The network's own dynamic padding must differ at this size, or the test would prove nothing.
        assert error < 1e-4 if same else error > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("size", [96, 130, 224])
def test_b0_equals_efficientnet_pytorch_at_other_sizes(size: int) -> None:
    network, pixel_values = random_network("efficientnet-b0"), torch.rand(2, 3, size, size)
    extractor = FeatureExtractor("tf_efficientnet_b0", "blocks.5", padding=224, weights=None)
    expected = authors_features(network, pixel_values, 14)
    assert relative_error(twin_of(network, extractor)(pixel_values), expected) < 1e-4


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_efficientnet", "blocks.3"),
        ("test_efficientnet", "blocks.3.0"),
        ("test_resnet", "layer3"),
        ("test_byobnet", "stages.1"),
    ],
)
def test_cut_gives_the_layers_output(name: str, layer: str) -> None:
    network = timm.create_model(name).eval()
    seen: list[Tensor] = []
    network.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        network(x)
        assert torch.equal(cut(network, layer)(x), seen[0])


@torch.no_grad()
def test_folded_trunk_follows_its_weights() -> None:
    extractor = FeatureExtractor("test_efficientnet", "blocks.3", weights=None)
    names, x = list(extractor.state_dict()), torch.rand(2, 3, 64, 64)
    for seed in range(2):
        torch.manual_seed(seed)
        state = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in extractor.state_dict().items()}
        extractor.load_state_dict(state)
        assert relative_error(extractor(x), extractor.trunk(x)) < 1e-5
        assert not any(isinstance(module, nn.BatchNorm2d) for module in extractor._fast[torch.float32].modules())
    extractor.double()
    assert relative_error(extractor.trunk(x.double()), extractor(x.double())) < 1e-5
    assert list(extractor.state_dict()) == names
    copy.deepcopy(extractor)(x.double())


@torch.no_grad()
def test_a_batch_norm_elsewhere_is_not_folded() -> None:
    class Reordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(x) + 1)

    network = Reordered().eval()
    network.norm.running_var.fill_(5)
    assert fold_batch_norm(network) is network


def test_unknown_network_or_layer() -> None:
    with pytest.raises(ConfigError, match="timm has no network 'no_such_net'"):
        FeatureExtractor("no_such_net", "blocks.5", weights=None)
    with pytest.raises(ConfigError, match=r"no layer '99'.*0, 1, 2"):
        FeatureExtractor("test_efficientnet", "blocks.99", weights=None)
    with pytest.raises(ConfigError, match="not a plain chain"):
        FeatureExtractor("test_vit", "blocks.0", weights=None)


def test_an_unreachable_hub_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"cannot be fetched from the Hub.*backbone_weights"):
        FeatureExtractor("tf_efficientnet_b0.aa_in1k", "blocks.5")


def test_stays_in_eval_mode_without_gradients() -> None:
    extractor = FeatureExtractor("test_efficientnet", "blocks.3", weights=None)
    before = {k: v.clone() for k, v in extractor.state_dict().items()}
    extractor.train()
    features = extractor(torch.rand(4, 3, 64, 64).requires_grad_())
    assert not any(module.training for module in extractor.modules())
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert all(torch.equal(v, before[k]) for k, v in extractor.state_dict().items())
    assert features.shape[1:] == extractor.output_shape(64) == (48, 4, 4)


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = timm.create_model("test_efficientnet")
    path = tmp_path / "weights.safetensors"
    save_file({k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    extractor = FeatureExtractor("test_efficientnet", "blocks.3", weights=path)
    assert torch.equal(extractor.trunk.conv_stem.weight, source.conv_stem.weight)
    assert extractor.digest() == FeatureExtractor("test_efficientnet", "blocks.3", weights=path).digest()
    assert extractor.digest() != FeatureExtractor("test_efficientnet", "blocks.3", weights=None).digest()


def test_wrong_weight_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match="not a readable"):
        FeatureExtractor("test_efficientnet", "blocks.3", weights=path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="not a readable"):
        FeatureExtractor("test_efficientnet", "blocks.3", weights=path)
    state = timm.create_model("test_efficientnet").state_dict()
    save_file({k: v for k, v in state.items() if k != "conv_stem.weight"}, path)
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, first conv_stem\.weight"):
        FeatureExtractor("test_efficientnet", "blocks.3", weights=path)
    save_file({**state, "conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="another shape"):
        FeatureExtractor("test_efficientnet", "blocks.3", weights=path)
