"""`ASTDetector`: frozen backbone, teacher and student; where the two disagree there is a defect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ast_hf import checkpoint
from ast_hf.arithmetic import arithmetic
from ast_hf.backbone import PRETRAINED, FeatureExtractor
from ast_hf.calibration import Calibration
from ast_hf.config import ASTDetectorConfig
from ast_hf.depth import foreground_on_map
from ast_hf.errors import ASTError, CheckpointError, ConfigError
from ast_hf.flow import build_teacher, positional_encoding
from ast_hf.hub import HubMixin, find_backbone
from ast_hf.inference import InferenceMixin
from ast_hf.prediction import predict_all
from ast_hf.scoring import distance_map, image_score
from ast_hf.student import Student


@dataclass(frozen=True)
class ASTOutput:
    """What one forward pass gives; C channels and an h x w map, both fixed by the configuration."""

    anomaly_map: Tensor  # (B, h, w), not negative
    score: Tensor  # (B,)
    teacher_z: Tensor  # (B, C, h, w)
    student_z: Tensor  # (B, C, h, w)
    log_jac: Tensor  # (B, h, w), log-determinant of the teacher at each pixel
    foreground: Tensor | None  # (B, 1, h, w) in [0, 1], the mask that was used


class ASTDetector(HubMixin, InferenceMixin, nn.Module):
    """Asymmetric student-teacher detector (Rudolph et al., WACV 2023).

    Args:
        config: What to build.
        backbone_weights: None leaves the backbone random, to be loaded over; "pretrained" takes timm's weights from
            the Hub; a path reads a safetensors file in timm's key names.

    Attributes:
        backbone: The frozen `FeatureExtractor`, or None where only depth goes in.
        teacher: The flow, `flow.build_teacher`.
        student: The `Student`.
        calibration: Threshold and p-value from held-out good parts, or None.
        metrics: What was measured with this detector, for its model card (`card.write_card`), or None.
        precision: Arithmetic of the convolutions; no part of a checkpoint (see `effective_precision`).

    Raises:
        ConfigError: Backbone and configuration do not fit together.
    """

    position: Tensor
    input_mean: Tensor
    input_deviation: Tensor

    def __init__(self, config: ASTDetectorConfig, *, backbone_weights: str | Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.calibration: Calibration | None = None
        self.metrics: dict[str, Any] | None = None
        self.backbone = _backbone(config, backbone_weights) if config.uses_rgb else None
        self.map_size = _map_size(config, self.backbone)
        position = torch.empty(config.position_channels, *self.map_size)
        # On the meta device nothing is computed, so that a stranger's configuration costs no memory.
        self.register_buffer("position", position if position.is_meta else positional_encoding(*position.shape))
        if config.feature_normalization == "channel":
            self.register_buffer("input_mean", torch.zeros(config.input_channels))
            self.register_buffer("input_deviation", torch.ones(config.input_channels))
        self.teacher = build_teacher(
            config.input_channels,
            self.map_size,
            condition_channels=config.position_channels,
            hidden_channels=config.teacher_channels,
            kernel_sizes=config.coupling_kernel_sizes,
            clamp=config.coupling_clamp,
        )
        self.student = Student(
            config.input_channels,
            condition_channels=config.position_channels,
            hidden_channels=config.student_channels,
            blocks=config.student_blocks,
            negative_slope=config.student_negative_slope,
        )
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.position.device

    def forward(
        self, pixel_values: Tensor | None = None, depth: Tensor | None = None, foreground: Tensor | None = None
    ) -> ASTOutput:
        """Scores a batch.

        Args:
            pixel_values: (B, 3, image_size, image_size), ImageNet-normalised (`images.to_pixel_values`).
            depth: (B, 1, depth_size, depth_size), as `depth.DepthProcessor` gives it.
            foreground: (B, 1, depth_size, depth_size) of 0 and 1, as `depth.DepthProcessor` gives it; None masks
                nothing.

        Raises:
            ValueError: The configuration's modality needs an input that is missing, or one has the wrong shape.
        """
        return self.compare(self.inputs(pixel_values, depth), self.mask(foreground))

    def inputs(self, pixel_values: Tensor | None = None, depth: Tensor | None = None) -> Tensor:
        """What teacher and student see before standardisation, (B, C, h, w): features, then the height map."""
        return self.join(None if self.backbone is None else self.features(pixel_values), depth)

    def features(self, pixel_values: Tensor | None) -> Tensor:
        """The backbone's features (B, F, h, w) of pictures (B, 3, image_size, image_size)."""
        assert self.backbone is not None, "a detector of depth alone has no backbone"
        size = self.config.image_size
        with arithmetic(self.device, self.effective_precision):
            return self.backbone(_checked("pixel_values", pixel_values, (3, size, size)))

    def join(self, features: Tensor | None, depth: Tensor | None) -> Tensor:
        """Image features (B, F, h, w), where pictures go in, then the unshuffled height map: (B, C, h, w)."""
        parts = [] if features is None else [features]
        if self.config.uses_depth:
            size = self.config.depth_size
            depth = _checked("depth", depth, (1, size, size))
            parts.append(nn.functional.pixel_unshuffle(depth, self.config.depth_unshuffle))
        return torch.cat(parts, dim=1)

    def mask(self, foreground: Tensor | None) -> Tensor | None:
        """The foreground (B, 1, depth_size, depth_size) dilated and brought to the map, or None where none is used."""
        if foreground is None or not self.config.foreground_dilation:
            return None
        return foreground_on_map(foreground, self.config.foreground_dilation, self.map_size)

    def standardize(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, h, w) as the networks take them: per channel with the training set's mean and deviation."""
        if self.config.feature_normalization == "none":
            return inputs
        return (inputs - self.input_mean[:, None, None]) / self.input_deviation[:, None, None]

    def condition(self, batch: int) -> Tensor | None:
        """The positional encoding for a batch, (B, P, h, w), or None without one."""
        return self.position.expand(batch, -1, -1, -1) if self.config.position_channels else None

    def teach(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's z (B, C, h, w) and log_jac (B, h, w) for standardised inputs (B, C, h, w)."""
        # Not len() here and below: an export would take it for a constant, and the batch size is none.
        condition = self.condition(inputs.shape[0])
        with arithmetic(self.device, self.effective_precision):
            return self.teacher(inputs, c=None if condition is None else [condition])

    def study(self, inputs: Tensor) -> Tensor:
        """The student's guess at z (B, C, h, w) for standardised inputs (B, C, h, w)."""
        with arithmetic(self.device, self.effective_precision):
            return self.student(inputs, self.condition(inputs.shape[0]))

    def compare(self, inputs: Tensor, foreground: Tensor | None = None) -> ASTOutput:
        """Scores inputs (B, C, h, w) from `inputs()`, masked by foreground (B, 1, h, w) in [0, 1]."""
        inputs = self.standardize(inputs)
        return self.judge(self.teach(inputs), self.study(inputs), foreground)

    def judge(self, taught: tuple[Tensor, Tensor], student_z: Tensor, foreground: Tensor | None = None) -> ASTOutput:
        """Scores what `teach` and `study` gave, masked by foreground (B, 1, h, w) in [0, 1]."""
        teacher_z, log_jac = taught
        anomaly_map = distance_map(teacher_z, student_z, foreground)
        score = image_score(anomaly_map, self.config.image_score)
        return ASTOutput(anomaly_map, score, teacher_z, student_z, log_jac, foreground)

    def predict(self, image: Any = None, points: Any = None, *, batch_size: int = 8) -> Any:
        """Scores pictures (and organised point clouds) as they come: a `Prediction`, or a list of them for a list.

        Maps come back in the picture's own frame, upright and at its size.

        Args:
            image: A path, PIL image or array (see `images.read_image`); a list of them gives a list.
            points: A path or array (H, W, 3) or (H, W) in metres (see `images.read_scan`), pixel by pixel over the
                picture; a list where `image` is one. Depth detectors need it, RGB detectors refuse it.
            batch_size: How many are computed at once.

        Raises:
            ImageReadError: A picture or scan cannot be used, is missing, or is of no use to this detector's modality.
            ValueError: There is not one scan a picture.
        """
        return predict_all(self, image, points, batch_size=batch_size)

    def save_pretrained(  # type: ignore[override]
        self, folder: str | Path, *, include_backbone: bool = True, half_precision: bool = False
    ) -> None:
        """Writes config.json, model.safetensors and, where there are any, calibration.json and metrics.json.

        Args:
            folder: Made where it is missing; files of an earlier save are replaced whole.
            include_backbone: Without the backbone the file is smaller; `from_pretrained` then looks for it in the
                local store, and on the Hub.
            half_precision: Store the large weights in fp16 (they are computed with in fp32 again).
        """
        state = {k: v for k, v in self.state_dict().items() if include_backbone or not k.startswith("backbone.")}
        backbone = {} if self.backbone is None else {"backbone_sha256": self.backbone.digest()}
        calibration = None if self.calibration is None else self.calibration.to_dict()
        checkpoint.write(
            Path(folder), self.config.to_dict(), state, calibration, self.metrics,
            metadata=backbone, half_precision=half_precision,
        )  # fmt: skip

    @classmethod
    def _from_folder(
        cls, folder: Path, device: str | torch.device | None, backbone_weights: str | Path | None
    ) -> ASTDetector:
        saved = checkpoint.read(folder)
        config = ASTDetectorConfig.from_dict(saved.config)
        model = cls._without_memory(config)
        own_backbone = any(name.startswith("backbone.") for name in saved.tensors)
        wanted = {k: v for k, v in model.state_dict().items() if own_backbone or not k.startswith("backbone.")}
        tensors = checkpoint.checked(saved, wanted)
        if config.uses_rgb and not own_backbone:
            model.backbone = _stored_backbone(config, saved, backbone_weights)
        model.load_state_dict(tensors, strict=own_backbone or not config.uses_rgb, assign=True)
        if model.backbone is not None:  # the layout that `assign` does not keep, and the rounding hangs on
            model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.metrics = saved.metrics
        if saved.calibration is not None:
            model.calibration = Calibration.from_dict(saved.calibration)
        return placed(model, device).eval()

    @classmethod
    def _without_memory(cls, config: ASTDetectorConfig) -> ASTDetector:
        """A detector on the meta device, whose weights take no memory and no time."""
        try:
            with torch.device("meta"):
                return cls(config)
        except ASTError:
            raise
        except Exception as error:  # whatever modules raise that do not fit together
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"The configuration cannot be built with {config.backbone} ({reason}).") from error


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or CUDA where there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def placed(model: ASTDetector, device: str | torch.device | None = None) -> ASTDetector:
    """The detector on a device, with weights in the memory layout that its convolutions are fastest at."""
    model = model.to(default_device(device))
    # On CPUs teacher and student are slower in channels_last; the backbone has it everywhere.
    return model.to(memory_format=torch.channels_last) if model.device.type == "cuda" else model  # type: ignore[call-overload]


def _backbone(config: ASTDetectorConfig, weights: str | Path | None) -> FeatureExtractor:
    return FeatureExtractor(config.backbone, config.backbone_layer, padding=config.backbone_padding, weights=weights)


def _stored_backbone(
    config: ASTDetectorConfig, saved: checkpoint.SavedModel, weights: str | Path | None
) -> FeatureExtractor:
    """The backbone of a checkpoint that does not hold it: the one given, the local store's, or timm's."""
    digest = saved.metadata.get("backbone_sha256")
    weights = weights or find_backbone(digest) or PRETRAINED
    backbone = _backbone(config, weights)
    if digest not in (None, backbone.digest()):
        raise CheckpointError(
            f"{saved.folder} was trained on other backbone weights than {weights}: pass backbone_weights, the path of "
            f"the safetensors file of {config.backbone} that it was trained on."
        )
    return backbone


def _map_size(config: ASTDetectorConfig, backbone: FeatureExtractor | None) -> tuple[int, int]:
    """The feature map's (h, w), on which backbone and height map must agree."""
    side = config.depth_size // config.depth_unshuffle
    if backbone is None:
        return side, side
    channels, *size = backbone.output_shape(config.image_size)
    if channels != config.feature_channels:
        raise ConfigError(
            f"{config.backbone} gives {channels} channels at {config.backbone_layer}: set feature_channels={channels}."
        )
    if config.uses_depth and tuple(size) != (side, side):
        raise ConfigError(
            f"The features are {size[0]} x {size[1]} and the unshuffled height map is {side} x {side}: "
            f"set depth_size={size[0] * config.depth_unshuffle}."
        )
    return size[0], size[1]


def _checked(name: str, tensor: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    if tensor is None:
        raise ValueError(f"This detector needs {name} (B, {', '.join(map(str, shape))}).")
    if tensor.shape[1:] != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}: it must be (B, {', '.join(map(str, shape))}).")
    return tensor
