"""What our speed is measured against: AST as the paper's code computes it, and the detectors of anomalib.

The networks are ours and give the same numbers, but run in eager fp32 and PyTorch's default layout, with the backbone
of `efficientnet_pytorch` where that is installed, the teacher computed anew at every step of the student, the loss
fetched at every step, and holes filled pixel by pixel.
"""

import copy
import functools
import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ast_hf.config import TrainingRecipe
from ast_hf.data.samples import LoadedSample, stack_pixel_values
from ast_hf.detector import ASTDetector
from ast_hf.inference import Predictor
from ast_hf.nn.losses import distance_map, nll_map
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import autocast
from ast_hf.training.features import PreparedSamples


def eager_copy(detector: ASTDetector) -> ASTDetector:
    """A copy with nothing that makes it fast; the caller computes with it in fp32."""
    detector = copy.deepcopy(detector)
    for tensor in (*detector.parameters(), *detector.buffers()):
        # A new tensor each: 1 x 1 kernels count as contiguous in either layout, and would keep theirs.
        tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
    assert detector.backbone is not None, "the reference is for detectors of pictures"
    if len(detector.config.backbone_layers) > 1:  # which efficientnet_pytorch does not give, nor a plain chain
        return detector
    backbone = nn.Sequential(*detector.backbone.children())  # without our forward, which changes the layout
    name = detector.config.backbone.partition(".")[0].removeprefix("tf_").replace("_", "-")
    if name.startswith("efficientnet-b") and importlib.util.find_spec("efficientnet_pytorch"):
        from efficientnet_pytorch import EfficientNet

        network, state = EfficientNet.from_name(name).to(detector.device), backbone.state_dict()
        blocks = network._blocks[: sum(key.endswith("conv_dw.weight") for key in state)]
        backbone = nn.Sequential(network._conv_stem, network._bn0, network._swish, *blocks).eval()
        # Both packages define their modules in the same order.
        backbone.load_state_dict(dict(zip(backbone.state_dict(), state.values(), strict=True)))
    detector.add_module("backbone", backbone.requires_grad_(False))
    return detector


class EagerPredictor(Predictor):
    """Computes a detector in fp32 as it is, kernel by kernel."""

    def __init__(self, detector: ASTDetector) -> None:
        super().__init__(detector, precision="fp32")
        self._detector = detector

    def compute(self, samples: Sequence[LoadedSample]) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, h, w) and scores (B,) of a batch of pictures."""
        pixel_values = stack_pixel_values(self.config, samples, self.device)
        with torch.inference_mode(), autocast(self.device, "fp32"):
            output = self._detector(pixel_values)
        return output.anomaly_map, output.score


def fit(network: ASTNetwork, samples: PreparedSamples, recipe: TrainingRecipe) -> list[float]:
    """Trains teacher, then student; gives the loss of every step."""
    inputs, losses = network.standardize(samples.inputs), []
    for part in (network.teacher, network.student):
        optimizer = torch.optim.Adam(part.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        part.train()
        for batch in inputs.split(recipe.batch_size) * recipe.epochs:
            with autocast(network.device, "fp32"):
                loss = _loss(network, batch, of_teacher=part is network.teacher)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            losses.append(loss.item())
        part.eval()
    return losses


def _loss(network: ASTNetwork, batch: Tensor, *, of_teacher: bool) -> Tensor:
    with torch.set_grad_enabled(of_teacher):
        z, log_jac = network.teacher_forward(batch)
    return (nll_map(z, log_jac) if of_teacher else distance_map(z, network.student_forward(batch))).mean()


def fill_holes(z: np.ndarray, rounds: int) -> np.ndarray:
    """`ast_hf.data.point_cloud.fill_holes`, one pixel after another."""
    for _ in range(rounds):
        filled = z.copy()
        for row, column in np.argwhere(z[1:, 1:] == 0):
            window = z[row : row + 3, column : column + 3]
            if count := np.count_nonzero(window):
                filled[row + 1, column + 1] = window.sum(dtype=np.float64) / count
        z = filled
    return z


def anomalib_detectors(device: torch.device) -> dict[str, Callable[[], object]]:
    """What scores one picture by each of anomalib's networks, from pixels to the map, with random weights in fp32."""
    import torchvision
    from anomalib.models.image.csflow import torch_model as csflow
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize
    from anomalib.models.image.fastflow.torch_model import FastflowModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    # It would fetch ImageNet's weights, which change no time.
    csflow.efficientnet_b5 = lambda weights=None: torchvision.models.efficientnet_b5()
    patchcore = PatchcoreModel(["layer2", "layer3"], "wide_resnet50_2", pre_trained=False)
    # A tenth of the patches of MVTec AD's 209 bottles, 28 x 28 each: anomalib's default.
    patchcore.memory_bank = torch.randn(209 * 28 * 28 // 10, 1536)
    networks: dict[str, tuple[nn.Module, int]] = {
        "FastFlow, ResNet-18": (FastflowModel((256, 256), "resnet18", pre_trained=False), 256),
        "EfficientAD-S": (EfficientAdModel(model_size=EfficientAdModelSize.S), 256),
        "EfficientAD-M": (EfficientAdModel(model_size=EfficientAdModelSize.M), 256),
        "PatchCore, WideResNet-50": (patchcore, 224),
        "CS-Flow, EfficientNet-B5": (csflow.CsFlowModel((768, 768), cross_conv_hidden_channels=1024), 768),
    }
    found: dict[str, Callable[[], object]] = {}
    for name, (network, size) in networks.items():
        forward = torch.inference_mode()(network.eval().to(device).forward)
        found[f"{name}, {size} px"] = functools.partial(forward, torch.rand(1, 3, size, size, device=device))
    return found
