"""How a detector is run: in which arithmetic, and by the fastest way there is on its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from ast_hf.arithmetic import Precision, computes_in_bf16
from ast_hf.graphs import Recordings

if TYPE_CHECKING:
    from ast_hf.acceleration import Accelerated
    from ast_hf.backbone import FeatureExtractor
    from ast_hf.calibration import Calibration


class InferenceMixin(nn.Module):
    """What `ASTDetector.predict` computes with; nothing of it is in a checkpoint."""

    # The detector's own, which this is mixed into.
    backbone: FeatureExtractor | None
    calibration: Calibration | None
    device: Any
    inputs: Callable[..., Tensor]
    join: Callable[..., Tensor]
    mask: Callable[..., Tensor | None]
    compare: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self.precision: Precision = "auto"
        self._recordings = Recordings()
        self._accelerated: Accelerated | None = None

    @property
    def effective_precision(self) -> Literal["fp32", "bf16"]:
        """What `precision` comes to on this device; "auto" is fp32 where the threshold was found in that.

        A detector that learnt and was calibrated in fp32 gives good parts scores that are some percent higher in bf16,
        and with them false alarms. One that learnt in bf16 gives nearly the same scores in both.
        """
        if self.precision == "auto" and self.calibration is not None and self.calibration.precision == "fp32":
            return "fp32"
        return "bf16" if computes_in_bf16(self.device, self.precision) else "fp32"

    @contextmanager
    def computing_in(self, precision: Precision) -> Iterator[None]:
        """A context in which this detector has another `precision`."""
        before, self.precision = self.precision, precision
        try:
            yield
        finally:
            self.precision = before

    def heads(self, inputs: Tensor, foreground: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of `compare`, what a prediction needs: anomaly_map (B, h, w) and score (B,)."""
        output = self.compare(inputs, foreground)
        return output.anomaly_map, output.score

    def maps_and_scores(
        self, pixel_values: Tensor | None = None, depth: Tensor | None = None, foreground: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of `forward`, what a prediction needs, by recorded kernels on a GPU and what `accelerate` chose on a CPU."""
        if self.device.type == "cuda":
            given = {"pixel_values": pixel_values, "depth": depth, "foreground": foreground}
            inputs = {name: tensor for name, tensor in given.items() if tensor is not None}

            def compute(*tensors: Tensor) -> tuple[Tensor, Tensor]:
                output = self(**dict(zip(inputs, tensors, strict=True)))
                return output.anomaly_map, output.score

            state, setting = (*self.parameters(), *self.buffers()), (self.effective_precision, self.training, *inputs)
            anomaly_map, score = self._recordings.run(compute, tuple(inputs.values()), state, setting)
            return anomaly_map, score
        fast = self._accelerated
        if fast is None or not fast.is_current(self):
            return self.heads(self.inputs(pixel_values, depth), self.mask(foreground))
        features = None if self.backbone is None else fast.trunk(pixel_values)
        return fast.heads(self.join(features, depth), self.mask(foreground))

    def accelerate(self) -> Mapping[str, str]:
        """Has `predict` use what is fastest on this CPU, OpenVINO (`.[openvino]`) included, until weights change.

        Compiling and timing takes seconds, with the paper's presets half a minute: for services and many pictures.

        Returns:
            "torch" or "openvino" for "trunk" and for "heads", teacher and student; for those also "torch, both at
            once".

        Raises:
            AccelerationError: OpenVINO is missing, or this detector is not on a CPU.
        """
        from ast_hf.acceleration import Accelerated

        self._accelerated = Accelerated(self)  # type: ignore[arg-type]
        return self._accelerated.runtimes
