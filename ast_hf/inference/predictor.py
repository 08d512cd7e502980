"""`Predictor`: pictures as people have them in, predictions in the picture's own frame out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ast_hf.config import Precision
from ast_hf.data.sample import Sample
from ast_hf.data.samples import LoadedSample, batched, count_readers, load_sample, prefetch, stack, stack_pixel_values
from ast_hf.errors import ConfigError, ImageReadError, RuntimeUnavailableError
from ast_hf.inference.calibration import Calibration
from ast_hf.inference.prediction import Prediction
from ast_hf.inference.runtimes import RuntimeName, make_runtime
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import resolve_precision

_Entry: TypeAlias = tuple[str, LoadedSample] | ImageReadError  # a part's name and what was read of it, or why not


class CalibratedNetwork(ASTNetwork):
    """A network with what is known of the scores of good parts: what a `Predictor` runs."""

    calibration: Calibration | None = None


class Predictor:
    """Reads, batches and computes; does not change once built.

    It computes in eval mode, whatever mode the detector is in, and leaves the detector as it is. After the detector
    was trained further, moved or calibrated anew, build another one.

    Args:
        detector: An `ASTDetector`.
        runtime: "torch"; "compile" for `torch.compile`, which takes half a minute at first; "openvino" for a CPU.
        precision: "auto" is fp32 where the threshold was found in that: a detector that learnt in fp32 gives good parts
            scores that are some percent higher in bf16, and one that learnt in bf16 nearly the same in both.

    Raises:
        RuntimeUnavailableError: The runtime's package is missing, or it is not for the detector's device, or the
            detector's weights are not in fp32 or on no device.
    """

    def __init__(
        self, detector: CalibratedNetwork, *, runtime: RuntimeName = "torch", precision: Precision = "auto"
    ) -> None:
        self.config, self.device, self.calibration = detector.config, detector.device, detector.calibration
        if self.device.type == "meta":
            raise RuntimeUnavailableError("The detector is on the device meta, without its weights: load it anew.")
        if types := {str(weights.dtype) for weights in detector.parameters()} - {"torch.float32"}:
            raise RuntimeUnavailableError(
                f"The detector's weights are {', '.join(sorted(types))}, and predicting needs torch.float32: call its "
                "float(). What computes in less is Predictor(detector, precision='bf16')."
            )
        if precision == "auto" and self.calibration is not None and self.calibration.precision == "fp32":
            precision = "fp32"
        if precision == "auto" and runtime == "openvino" and self.config.backbone_precision == "fp32":
            precision = "fp32"  # its one graph has one precision
        self.precision = resolve_precision(self.device, precision)
        self.region = detector.region[0, 0].bool().cpu().numpy() if self.config.region else None  # of image_shape
        self._compute = make_runtime(runtime, detector, self.precision)

    def predict(self, image: Any = None, points: Any = None, *, batch_size: int = 8) -> Any:
        """Scores pictures (and organised point clouds) as they come: a `Prediction`, or a list of them for a list.

        Args:
            image: A path, PIL image or array (see `data.read_image`); a list of them gives a list.
            points: A path or array (H, W, 3) or (H, W) in metres (see `data.read_scan`), pixel by pixel over the
                picture; a list where `image` is one.

        Raises:
            ImageReadError: A picture or scan cannot be used, is missing, or is of no use to this detector's modality.
            ValueError: There is not one scan a picture.
        """
        is_list = isinstance(image, (list, tuple)) or isinstance(points, (list, tuple))
        found = []
        for result in self.stream(_pair(image, points) if is_list else [Sample(image, points)], batch_size=batch_size):
            if isinstance(result, ImageReadError):
                raise result
            found.append(result)
        return found if is_list else found[0]

    def stream(
        self, samples: Iterable[Sample], *, batch_size: int = 8, overlay_size: int | None = None
    ) -> Iterator[Prediction | ImageReadError]:
        """Predictions in the order of the samples, with the error in place of one that cannot be used.

        The next pictures are read while a batch is computed. `overlay_size` is the longest side in pixels that the
        predictions' pictures are scaled down to, once the networks have seen them.

        Raises:
            ConfigError: A number is less than 1.
        """
        for name, number in (("batch_size", batch_size), ("overlay_size", overlay_size)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} is {number}: give 1 or more.")
        load = partial(self._try_load, longest_side=overlay_size)
        batches = batched(prefetch(load, samples, workers=count_readers(self.device)), batch_size)
        started: Iterator[Iterator[Prediction | ImageReadError]] = map(self._start, batches)
        if self.device.type == "cuda":  # which computes a batch while the results of the one before are used
            started = (before for before, _ in pairwise(chain(started, [iter(())])))
        return chain.from_iterable(started)

    def compute(self, samples: Sequence[LoadedSample]) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, h, w) and scores (B,) of a batch, on the detector's device."""
        return self._compute(
            stack_pixel_values(self.config, samples, self.device),
            stack([sample.depth for sample in samples], self.device),
            stack([sample.foreground for sample in samples], self.device),
        )

    def _try_load(self, sample: Sample, longest_side: int | None) -> _Entry:
        try:
            return sample.name, load_sample(self.config, sample, longest_side=longest_side)
        except ImageReadError as error:
            return error

    def _start(self, batch: Sequence[_Entry]) -> Iterator[Prediction | ImageReadError]:
        """A prediction or an error for each sample, in their order; a GPU may still be computing them."""
        loaded = [entry[1] for entry in batch if not isinstance(entry, ImageReadError)]
        # Asked for now, so that they do not queue up behind the next batch.
        outputs = [output.to("cpu", non_blocking=True) for output in self.compute(loaded)] if loaded else []
        fetched = torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None
        return self._results(batch, outputs, fetched)

    def _results(
        self, batch: Sequence[_Entry], outputs: Sequence[Tensor], fetched: torch.cuda.Event | None
    ) -> Iterator[Prediction | ImageReadError]:
        if fetched is not None:
            fetched.synchronize()
        computed = zip(*outputs, strict=True)
        for entry in batch:
            if isinstance(entry, ImageReadError):
                yield entry
                continue
            (name, loaded), (cells, score) = entry, next(computed)
            prediction = Prediction(
                name, loaded.picture, cells.numpy(), score.item(), full_size=loaded.size, region=self.region
            )
            yield prediction if self.calibration is None else prediction.at_rate(self.calibration)


def _pair(image: Any, points: Any) -> list[Sample]:
    images = list(image) if image is not None else [None] * len(points)
    scans = list(points) if points is not None else [None] * len(images)
    if len(images) != len(scans):
        raise ValueError(f"{len(images)} pictures came with {len(scans)} scans: give one scan a picture.")
    return [Sample(i, s) for i, s in zip(images, scans, strict=True)]
