"""`ASTDetector`, the front door: a network with its calibration, which predicts, and is stored and found by name."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub import CommitInfo

from ast_hf.config import PRETRAINED, ASTDetectorConfig
from ast_hf.errors import CheckpointError, ConfigError, RuntimeUnavailableError
from ast_hf.files import name_compiler_cache
from ast_hf.hub import checkpoint
from ast_hf.hub.model_card import PICTURE_NAME, write_card
from ast_hf.hub.names import find_backbone, find_checkpoint
from ast_hf.hub.upload import upload_checkpoint
from ast_hf.inference.calibration import Calibration
from ast_hf.inference.predictor import CalibratedNetwork, Predictor
from ast_hf.nn.network import build_backbone


class ASTDetector(CalibratedNetwork):
    """Asymmetric student-teacher detector (Rudolph et al., WACV 2023): an `ASTNetwork` with its calibration.

    `backbone_weights` are those of `nn.backbone.Backbone`. `ConfigError` where backbone and configuration do not fit
    together.
    """

    metrics: dict[str, Any] | None = None  # what was measured with it, for its model card (`hub.model_card.write_card`)

    def __init__(self, config: ASTDetectorConfig, *, backbone_weights: str | Path | None = None) -> None:
        name_compiler_cache()  # before backbones or optimisers import torch in full
        super().__init__(config, backbone_weights=backbone_weights)

    def predict(self, image: Any = None, points: Any = None, *, batch_size: int = 8) -> Any:
        """Scores pictures (and organised point clouds) by PyTorch; arguments, results and errors as for `Predictor`."""
        return Predictor(self).predict(image, points, batch_size=batch_size)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        backbone_weights: str | Path | None = None,
        **download: Any,
    ) -> ASTDetector:
        """Loads a detector: safetensors only, every weight present, finite and where it belongs.

        Args:
            pretrained_model_name_or_path: A name such as "ast-mvtec-bottle", a Hub id such as "org/name", or a folder;
                this, revision, subfolder and download (token, cache_dir, ...) as `hub.find_checkpoint`.
            device: CUDA where there is one, by default.
            dtype: Of the weights; torch.float32 by default, which predicting needs.
            backbone_weights: A path, for a checkpoint without its backbone where neither local store nor timm has it.

        Raises:
            CheckpointError: It cannot be had, or a file of it is missing, damaged, or not one of the others'.
            ConfigError: The configuration is not one that this version can build.
            RuntimeUnavailableError: The device is not there.
            TypeError: There is no such argument.
        """
        device = default_device(device)  # now, rather than after a download
        folder = find_checkpoint(pretrained_model_name_or_path, revision=revision, subfolder=subfolder, **download)
        return _load(cls, checkpoint.read(folder), backbone_weights).place(device).to(dtype=dtype)

    def save_pretrained(
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
        checkpoint.write(
            Path(folder),
            self.config.to_dict(),
            state,
            None if self.calibration is None else self.calibration.to_dict(),
            self.metrics,
            metadata={} if self.backbone is None else {"backbone_sha256": self.backbone.digest()},
            half_precision=half_precision,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        picture: str | Path | None = None,
        include_backbone: bool = True,
        half_precision: bool = False,
        **upload: Any,
    ) -> CommitInfo:
        """Uploads what `save_pretrained` writes in one commit, whose `oid` pins it; a card that was edited is kept.

        Args:
            repo_id: "org/name"; made where it is missing.
            picture: PNG of a heat map for the card.
            upload: As `hub.upload.upload_checkpoint`, and errors: private, token, branch, commit_message, create_pr.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder, include_backbone=include_backbone, half_precision=half_precision)
            if picture is not None:
                shutil.copyfile(picture, folder / PICTURE_NAME)
            card = write_card(self.config, self.calibration, self.metrics, repo_id=repo_id, picture=picture is not None)
            return upload_checkpoint(folder, repo_id, card, **upload)

    def place(self, device: str | torch.device | None = None) -> ASTDetector:
        """Moves the detector, by default to CUDA where there is one, in the layout its convolutions are fastest in."""
        self.to(default_device(device))
        # On CPUs teacher and student are slower in channels_last; the backbone has it everywhere.
        return self.to(memory_format=torch.channels_last) if self.device.type == "cuda" else self  # type: ignore[call-overload]


from_pretrained = ASTDetector.from_pretrained


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for (`RuntimeUnavailableError` where it cannot be used), or CUDA where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError) as error:  # one that torch was not built for, or that the machine lacks
        reason = shorten(str(error).partition(". ")[0], 100, placeholder=" ...")
        raise RuntimeUnavailableError(
            f"The device {device} cannot be used ({reason}): give cpu, or cuda or cuda:1 where there is an NVIDIA GPU."
        ) from error
    return torch.device(device)


def _load(cls: type[ASTDetector], saved: checkpoint.SavedModel, backbone_weights: str | Path | None) -> ASTDetector:
    config = ASTDetectorConfig.from_dict(saved.config)
    try:
        with torch.device("meta"):  # where weights take no memory and no time
            detector = cls(config)
    except (RuntimeError, TypeError, AttributeError, IndexError, KeyError) as error:  # modules that do not fit together
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"The configuration cannot be built with {config.backbone} ({reason}).") from error
    own_backbone = any(name.startswith("backbone.") for name in saved.tensors)
    wanted = {k: v for k, v in detector.state_dict().items() if own_backbone or not k.startswith("backbone.")}
    tensors = checkpoint.checked(saved, wanted)
    if config.uses_rgb and not own_backbone:
        detector.backbone = _stored_backbone(config, saved, backbone_weights)
    detector.load_state_dict(tensors, strict=False, assign=True)  # `checked` has been strict
    if detector.backbone is not None:  # the layout that `assign` does not keep, and the rounding hangs on
        detector.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.metrics = saved.metrics
    if saved.calibration is not None:
        detector.calibration = Calibration.from_dict(saved.calibration)
    return detector.eval()


def _stored_backbone(config: ASTDetectorConfig, saved: checkpoint.SavedModel, weights: str | Path | None) -> Any:
    """The backbone of a checkpoint that does not hold it: the one given, the local store's, or timm's."""
    digest = saved.metadata.get("backbone_sha256")
    weights = weights or find_backbone(digest) or PRETRAINED
    backbone = build_backbone(config, weights)
    if digest not in (None, backbone.digest()):
        raise CheckpointError(
            f"{saved.folder} was trained on other backbone weights than {weights}: pass backbone_weights, the path of "
            f"the safetensors file of {config.backbone} that it was trained on."
        )
    return backbone
