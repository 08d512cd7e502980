"""`Predictor`: pictures as people have them in, predictions in the picture's own frame out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from ast_hf.config import Precision
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
from ast_hf.errors import ConfigError, ImageReadError, RuntimeUnavailableError
from ast_hf.inference.calibration import Calibration
from ast_hf.inference.prediction import Prediction
from ast_hf.inference.runtimes import RuntimeName, make_runtime
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import resolve_precision

_Item = TypeVar("_Item")


class CalibratedNetwork(ASTNetwork):
    """A network with what is known of the scores of good parts: what a `Predictor` runs.

    Attributes:
        calibration: Threshold and p-value from held-out good parts, or None.
    """

    calibration: Calibration | None = None


class Predictor:
    """Reads, batches and computes; does not change once built.

    It computes in eval mode, whatever mode the detector is in, and leaves the detector as it is. After the detector
    was trained further, moved or calibrated anew, build another one.

    Args:
        detector: An `ASTDetector`.
        runtime: "torch"; "compile" for `torch.compile`, which takes half a minute at first; "openvino" for a CPU.
        precision: Arithmetic of the convolutions. "auto" is fp32 where the threshold was found in that: a detector
            that learnt in fp32 gives good parts scores that are some percent higher in bf16, and with them false
            alarms, while one that learnt in bf16 gives nearly the same scores in both.

    Attributes:
        precision: What it came to, "fp32" or "bf16".
        region: bool *image_shape, the detector's region of interest, or None where it has none.

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
        self.region = detector.region[0, 0].bool().cpu().numpy() if self.config.region else None
        self._compute = make_runtime(runtime, detector, self.precision)

    def predict(self, image: Any = None, points: Any = None, *, batch_size: int = 8) -> Any:
        """Scores pictures (and organised point clouds) as they come: a `Prediction`, or a list of them for a list.

        Maps come back in the picture's own frame, upright and at its size.

        Args:
            image: A path, PIL image or array (see `data.read_image`); a list of them gives a list.
            points: A path or array (H, W, 3) or (H, W) in metres (see `data.read_scan`), pixel by pixel over the
                picture; a list where `image` is one. Depth detectors need it, RGB detectors refuse it.
            batch_size: How many are computed at once.

        Raises:
            ImageReadError: A picture or scan cannot be used, is missing, or is of no use to this detector's modality.
            ValueError: There is not one scan a picture.
        """
        if isinstance(image, (list, tuple)) or isinstance(points, (list, tuple)):
            return list(map(_raised, self.stream(_pair(image, points), batch_size=batch_size)))
        return _raised(next(self.stream([Sample(image, points)])))

    def stream(
        self, samples: Iterable[Sample], *, batch_size: int = 8, overlay_size: int | None = None
    ) -> Iterator[Prediction | ImageReadError]:
        """Predictions in the order of the samples, with the error in place of one that cannot be used.

        The next pictures are read while these are computed.

        Args:
            samples: The parts.
            batch_size: How many are computed at once.
            overlay_size: Longest side in pixels that the predictions' pictures are scaled down to, once the networks
                have seen them; None keeps their size, and all that are under way in memory.

        Raises:
            ConfigError: A number is less than 1.
        """
        for name, number in (("batch_size", batch_size), ("overlay_size", overlay_size)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} is {number}: give 1 or more.")
        load = partial(self._try_load, longest_side=overlay_size)
        batches = batched(prefetch(load, samples, workers=count_readers(self.device)), batch_size)
        started: Iterator[_Batch] = (_Batch(self, batch) for batch in batches)
        if self.device.type == "cuda":  # which computes a batch while the results of the one before are used
            started = delayed(started)
        return chain.from_iterable(batch.results() for batch in started)

    def compute(self, samples: Sequence[LoadedSample]) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, h, w) and scores (B,) of a batch, on the detector's device."""
        return self._compute(
            stack_pixel_values(self.config, samples, self.device),
            stack([sample.depth for sample in samples], self.device),
            stack([sample.foreground for sample in samples], self.device),
        )

    def _try_load(self, sample: Sample, longest_side: int | None) -> tuple[str, LoadedSample] | ImageReadError:
        try:
            return sample.name, load_sample(self.config, sample, longest_side=longest_side)
        except ImageReadError as error:
            return error


class _Batch:
    """Samples under way: a GPU may still be computing when this has been made."""

    def __init__(self, predictor: Predictor, entries: Sequence[tuple[str, LoadedSample] | ImageReadError]) -> None:
        self._calibration, self._region, self._entries = predictor.calibration, predictor.region, entries
        self._outputs: list[Tensor] = []
        self._fetched: torch.cuda.Event | None = None
        loaded = [entry[1] for entry in entries if not isinstance(entry, ImageReadError)]
        if not loaded:
            return
        # Asked for now, so that they do not queue up behind the next batch.
        self._outputs = [output.to("cpu", non_blocking=True) for output in predictor.compute(loaded)]
        if predictor.device.type == "cuda":
            self._fetched = torch.cuda.Event()
            self._fetched.record(torch.cuda.current_stream(predictor.device))

    def results(self) -> Iterator[Prediction | ImageReadError]:
        """A prediction or an error for each sample, in their order."""
        if self._fetched is not None:
            self._fetched.synchronize()
        outputs = zip(*self._outputs, strict=True)
        for entry in self._entries:
            if isinstance(entry, ImageReadError):
                yield entry
                continue
            (name, loaded), (cells, score) = entry, next(outputs)
            prediction = Prediction(
                name, loaded.picture, cells.numpy(), score.item(), full_size=loaded.size, region=self._region
            )
            yield prediction if self._calibration is None else prediction.at_rate(self._calibration)


def delayed(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items, each when the next one has been made."""
    source = iter(items)
    for previous in islice(source, 1):
        for item in source:
            yield previous
            previous = item
        yield previous


def _raised(result: Prediction | ImageReadError) -> Prediction:
    if isinstance(result, ImageReadError):
        raise result
    return result


def _pair(image: Any, points: Any) -> list[Sample]:
    images = list(image) if image is not None else [None] * len(points)
    scans = list(points) if points is not None else [None] * len(images)
    if len(images) != len(scans):
        raise ValueError(f"{len(images)} pictures came with {len(scans)} scans: give one scan a picture.")
    return [Sample(i, s) for i, s in zip(images, scans, strict=True)]
