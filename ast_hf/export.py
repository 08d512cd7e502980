"""A detector as one ONNX file: pictures in, scores and maps out, with nothing left to do before or after."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ast_hf._version import __version__
from ast_hf.data.transforms import normalize, to_pixel_values, upsample_map
from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError
from ast_hf.files import write_atomic
from ast_hf.inference.openvino import to_onnx

MIN_OPSET = 18  # the first whose Resize antialiases
# How far an output may be from the detector's, relative to its largest value; ten times as far with fp16 weights.
_TOLERANCE = {"score": 1e-3, "anomaly_map": 1e-2}


class ExportError(ASTError):
    """A detector cannot be exported, or the exported graph does not compute what the detector does."""


def export_onnx(model: ASTDetector, path: str | Path, *, opset: int = MIN_OPSET, half_precision: bool = False) -> Path:
    """Writes a detector as one ONNX file that takes pictures as they come and computes in fp32; returns its path.

    Where onnxruntime is installed, the graph is run once beside the detector before anything is written.

    Inputs, by name, as far as the detector's modality needs them; B, H and W may be any:
        image: uint8 (B, H, W, 3), RGB, upright, as `data.read_image` gives it; resized and normalised in the graph.
        depth, foreground: float32 (B, 1, depth_size, depth_size), as `data.DepthProcessor` gives them: what that does
            to a point cloud is not in the graph. No foreground where `foreground_dilation` is 0.
    Outputs, float32:
        score: (B,), the image score.
        anomaly_map: (B, H, W) over the picture; where only depth goes in, (B, depth_size, depth_size).
    Metadata: ast_hf_version, opset, config (JSON); if calibrated calibration (JSON), threshold, map_threshold.

    Args:
        model: Stays as it is.
        path: The file, in a folder that exists; an earlier one is replaced whole.
        opset: ONNX operator set, 18 or later.
        half_precision: Store the weights in fp16 (they are computed with in fp32 again).

    Raises:
        ExportError: A package is missing, the file cannot be written or would exceed 2 GB, or its outputs are wrong.
    """
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise ExportError(f"{path} cannot be written: give the path of a file in a folder that exists.")
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter is built on it)
    except ImportError as error:
        raise ExportError(f"The export needs {error.name}: pip install onnx onnxscript.") from error
    if not MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise ExportError(f"opset={opset}: give one from {MIN_OPSET} to {onnx.defs.onnx_opset_version()}.")
    graph = _Graph(model)
    proto = _translate(graph, opset)
    if half_precision:
        _halve(proto)
    metadata = {"ast_hf_version": __version__, "config": json.dumps(model.config.to_dict())}
    metadata["opset"] = str(proto.opset_import[0].version)
    if model.calibration is not None:
        values = model.calibration.to_dict()
        metadata |= {"calibration": json.dumps(values)} | {k: repr(values[k]) for k in ("threshold", "map_threshold")}
    onnx.helper.set_model_props(proto, metadata)
    if proto.ByteSize() >= 2**31:  # more than a protobuf message, which the file is, may have
        raise ExportError(f"{path} would exceed 2 GB, the most that one ONNX file holds: try half_precision.")
    data = proto.SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    _compare(graph, data, slack=10 if half_precision else 1)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror or error}): choose another place.") from error
    return path


class _Graph(nn.Module):
    """What is exported: a copy of the detector on the CPU, in fp32, between pictures and maps of their size."""

    def __init__(self, model: ASTDetector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(model).float().cpu().eval()

    def forward(self, image: Any = None, depth: Any = None, foreground: Any = None) -> tuple[Tensor, Tensor]:
        config = self.detector.config
        output = self.detector(self._to_pixel_values(image) if config.uses_rgb else None, depth, foreground)
        height, width = (config.depth_size, config.depth_size) if image is None else image.shape[1:3]
        # `upsample_map` as two matrix products: the cubic Resize takes a CPU longer than the networks.
        h, w = output.anomaly_map.shape[1:]
        rows, columns = upsample_map(torch.eye(h), (height, h)), upsample_map(torch.eye(w), (width, w))
        return output.score, rows @ output.anomaly_map @ columns.T

    def _to_pixel_values(self, image: Tensor) -> Tensor:
        """`data.transforms.to_pixel_values` for (B, H, W, 3): itself, or as ONNX while the graph is made."""
        config = self.detector.config
        size, colours = config.image_shape, (config.image_mean, config.image_std)
        if not torch.compiler.is_exporting():
            return torch.stack([to_pixel_values(Image.fromarray(picture.numpy()), size, *colours) for picture in image])
        # On bytes, and with weights renormalised at the border, this Resize is Pillow's, but for one grey level at the
        # few pixels that lie half-way between two.
        how: dict[str, Any] = {"mode": "linear", "antialias": 1, "exclude_outside": 1, "axes": [1, 2]}
        inputs, shape = (image, None, None, torch.tensor(size)), (image.shape[0], *size, 3)
        resized = torch.onnx.ops.symbolic("Resize", inputs, how, dtype=torch.uint8, shape=shape, version=MIN_OPSET)
        return normalize(resized.permute(0, 3, 1, 2), *colours)

    def example(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        """Random inputs by name."""
        config, generator = self.detector.config, torch.Generator().manual_seed(0)
        shape, inputs = (batch, 1, config.depth_size, config.depth_size), {}
        if config.uses_rgb:
            inputs["image"] = torch.randint(256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
        if config.uses_depth:
            inputs["depth"] = torch.randn(shape, generator=generator)
        if config.uses_depth and config.foreground_dilation:
            inputs["foreground"] = torch.randint(2, shape, generator=generator).float()
        return inputs


def _translate(graph: _Graph, opset: int) -> Any:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # comes with onnxscript

    inputs, (batch, height, width) = graph.example(2, 80, 112), map(torch.export.Dim, ("batch", "height", "width"))
    shapes = {name: {0: batch, 1: height, 2: width} if name == "image" else {0: batch} for name in inputs}
    program = to_onnx(graph, inputs, output_names=list(_TOLERANCE), opset_version=opset, dynamic_shapes=shapes)
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with this machine's paths
    return program.model_proto


def _halve(proto: Any) -> None:
    """Stores the weights in fp16, each behind a cast to fp32 that runtimes carry out once, on loading."""
    from onnx import TensorProto, helper, numpy_helper

    for tensor in proto.graph.initializer:
        # Vectors weigh nothing, and inputs are divided by some.
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 4:
            name, half = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
            proto.graph.node.insert(0, helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))


@torch.no_grad()
def _compare(graph: _Graph, data: bytes, slack: float) -> None:
    """Runs the exported graph beside the one in PyTorch; of prime sizes, where Resize seldom has to round halves."""
    try:
        import onnxruntime
    except ImportError:
        return
    inputs = graph.example(3, 97, 131)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = session.run(list(_TOLERANCE), {name: tensor.numpy() for name, tensor in inputs.items()})
    for (name, tolerance), actual, expected in zip(_TOLERANCE.items(), outputs, graph(**inputs), strict=True):
        error = np.abs(actual - expected.numpy()).max() / expected.abs().max().item()
        if not error <= slack * tolerance:  # nor NaN
            remedy = "export without half_precision, or with another release of torch, onnxscript or onnxruntime"
            raise ExportError(f"The graph's {name} is off by {error:.1e} of the detector's maximum: {remedy}.")
