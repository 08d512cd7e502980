"""The tabs "Inspect" and "RGB + 3D": one part, its verdict, and where it differs from good ones."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

import ast_hf
from ast_hf.demo import components, drawing
from ast_hf.demo.components import for_page
from ast_hf.demo.detectors import Detectors
from ast_hf.demo.training import VisitorDetector, key_of
from ast_hf.demo.uploads import DemoError, read_cloud, read_picture, shown_name
from ast_hf.inference import Calibration, Prediction
from ast_hf.inference.regions import draw_regions
from ast_hf.inference.visualize import DEFAULT_OPACITY


def example_pictures() -> list[Path]:
    """Those that come with the package, named DETECTOR_KIND.png; the scan of one lies beside it."""
    return sorted(Path(ast_hf.__file__).with_name("assets").joinpath("examples").glob("*.png"))


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a detector said about a part, what it knows about good ones, and the part's scan if any.

    Kept for its visitor, so that another false-positive rate redraws without the networks.
    """

    detector: str
    prediction: Prediction
    calibration: Calibration
    points: np.ndarray | None = None

    def draw(
        self, rate: float, folder: Path, opacity: float = DEFAULT_OPACITY
    ) -> tuple[Prediction, dict[str, Any], dict[str, str]]:
        """The prediction at a false-positive rate, its report, and both as files in `folder`, by their stem.

        These are original, overlay, regions (PNG), result (JSON), anomaly_map (.npy, float32, H x W), and where there
        is a scan point_cloud in the colours of the overlay (GLB).
        """
        prediction = self.prediction.at_rate(self.calibration, rate)
        overlay, outlined = prediction.overlay(opacity=opacity), draw_regions(prediction.image, prediction.regions())
        values = drawing.report(prediction, self.detector, rate)
        for name, picture in (("original", prediction.image), ("overlay", overlay), ("regions", outlined)):
            picture.save(folder / f"{name}.png", compress_level=1)  # a visitor waits: a third of the time, more bytes
        (folder / "result.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        np.save(folder / "anomaly_map.npy", prediction.anomaly_map, allow_pickle=False)
        if self.points is not None:
            drawing.write_cloud(folder / "point_cloud.glb", self.points, overlay)
        return prediction, values, {path.stem: str(path) for path in folder.iterdir()}


class InspectTab:
    """Builds the tab where it is made, with a choice called `detector`; `with_scan` is for parts that have a scan."""

    def __init__(self, detectors: Detectors, own: gr.State, *, with_scan: bool = False) -> None:
        self._detectors, self._with_scan, self._ids = detectors, with_scan, "scan" if with_scan else "inspect"
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                self._build_inputs()
            with gr.Column(scale=3, min_width=280):
                self._build_results()
        self._connect(own)
        files = ["overlay", "map", "cloud"] if with_scan else ["overlay", "map"]
        inputs, name = [self._image, self._scan, self.detector, self._rate], "predict_3d" if with_scan else "predict"
        components.endpoint(name, self._answer, inputs, json="result", files=files, kind="device")

    def _build_inputs(self) -> None:
        names = self._detectors.names(with_scan=self._with_scan)
        self._image: gr.Image = components.picture_input(self._ids)
        self._scan: Any = gr.State(None)
        if self._with_scan:
            label, types = "Point cloud: TIFF of x, y, z in metres", [".tif", ".tiff"]
            self._scan = gr.File(label=label, file_types=types, height=120, elem_id=f"{self._ids}-scan")
        self.detector = gr.Dropdown(names, label="Detector", elem_id=f"{self._ids}-detector")
        self._button = gr.Button("Inspect", variant="primary", elem_id=f"{self._ids}-run")
        rows = []
        for path in example_pictures():
            start = f"demo-{path.stem.replace('_', '-')}"
            name = next((name for name in names if start.startswith(f"{name}-")), None)
            if name:
                scan = [str(path.with_suffix(".tiff"))] if self._with_scan else []
                rows.append([str(path), *scan, name])
        inputs = [self._image, *([self._scan] if self._with_scan else []), self.detector]
        self._examples = gr.Examples(rows, inputs, cache_examples=False, visible_columns=[0], **for_page())

    def _build_results(self) -> None:
        ids = self._ids
        hint = gr.Markdown("Drop a picture, or choose an example.", elem_id=f"{ids}-hint")
        options: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "format": "png"}
        with gr.Column(visible=False, elem_id=f"{ids}-results") as panel:
            verdict, self._rate = gr.HTML(elem_id=f"{ids}-verdict"), components.rate_input(ids)
            with gr.Tabs():
                with gr.Tab("Heat map"):
                    label = "Picture | heat map"
                    slider = gr.ImageSlider(label=label, max_height=480, elem_id=f"{ids}-slider", **options)
                    label = "Opacity of the map"
                    self._opacity = gr.Slider(0, 1, DEFAULT_OPACITY, step=0.05, label=label, elem_id=f"{ids}-opacity")
                with gr.Tab("Regions"):
                    options |= {"alt_text": "The picture with a frame around each anomalous region"}
                    outlined = gr.Image(show_label=False, elem_id=f"{ids}-regions", **options)
                with gr.Tab("JSON"):
                    values = gr.JSON(show_label=False, elem_id=f"{ids}-json")
            with gr.Row(elem_classes="downloads"):
                files = [
                    gr.DownloadButton(f"↓ {kind}", size="sm", min_width=80, elem_id=f"{ids}-download-{kind.lower()}")
                    for kind in ("Overlay", "JSON", "Map")
                ]
        cloud = gr.Model3D(label="Point cloud", visible=self._with_scan, height=480, elem_id=f"{ids}-cloud")
        self._kept = gr.State(None, time_to_live=1800)
        self._shown = [verdict, hint, panel, slider, outlined, values, *files, cloud]  # as `_redraw` gives them
        self._nothing = [None, "", gr.Markdown(visible=True), gr.Column(visible=False), *[None] * 7]

    def _connect(self, own: gr.State) -> None:
        look = [self._rate, self._opacity]
        inputs, outputs = [self._image, self._scan, self.detector, own, *look], [self._kept, *self._shown]
        options = for_page("device", inputs=inputs, outputs=outputs, show_progress_on=self._shown[:2])
        self.automatic = {"fn": self._inspect_if_complete, **options}  # for a `then`: inspects what is there
        changes = [self._image.input, self.detector.input, *([self._scan.upload] if self._with_scan else [])]
        quiet = for_page(show_progress="hidden")
        for event in (
            self._button.click(self._inspect, **options),
            # The second of two files may come while the page still looks at the first.
            gr.on(changes, trigger_mode="always_last", **self.automatic),
            self._examples.load_input_event.then(**self.automatic),
        ):
            event.failure(lambda: self._nothing, None, outputs, **quiet)  # rather than another picture's results
        for slider in look:
            slider.change(self._redraw, [self._kept, *look], self._shown, trigger_mode="always_last", **quiet)

    def _score(self, image: str | None, scan: str | None, name: str | None, own: VisitorDetector | None) -> Inspection:
        """Reads and scores a part: the files of its picture and its scan, as they were uploaded."""
        if image is None and scan is None:
            raise DemoError("There is no picture yet: drop one, or choose an example.")
        picture = None if image is None else read_picture(image)
        points = None if scan is None else read_cloud(scan)
        scans = None if points is None else [points]
        (prediction,), calibration = self._detectors.predict(key_of(name, own), [picture], scans)
        return Inspection(str(name), replace(prediction, name=shown_name(str(image or scan))), calibration, points)

    def _inspect(
        self, image: str | None, scan: str | None, name: str | None, own: VisitorDetector | None, *look: float
    ) -> list[Any]:
        inspection = self._score(image, scan, name, own)
        return [inspection, *self._redraw(inspection, *look)]

    def _inspect_if_complete(self, image: str | None, scan: str | None, *others: Any) -> list[Any]:
        is_complete = image is not None and (scan is not None or not self._with_scan)
        return self._inspect(image, scan, *others) if is_complete else self._nothing

    def _redraw(self, inspection: Inspection | None, rate: float, opacity: float) -> Any:
        if inspection is None:
            return gr.skip()
        prediction, values, files = inspection.draw(rate, components.output_folder(), opacity)
        verdict = drawing.verdict(prediction, replace(inspection.calibration, false_positive_rate=rate))
        pictures = [(files["original"], files["overlay"]), files["regions"]]
        downloads = [files["overlay"], files["result"], files["anomaly_map"], files.get("point_cloud")]
        return [verdict, gr.Markdown(visible=False), gr.Column(visible=True), *pictures, values, *downloads]

    def _answer(self, image: str, scan: str | None, detector: str, false_positive_rate: float) -> list[Any]:
        """Inspects a part: score, threshold, verdict, p-value and regions, overlay (PNG) and anomaly map (.npy).

        A part with a scan also gives its point cloud in the colours of the overlay (GLB).
        """
        inspection = self._score(image, scan, detector, None)
        _, values, files = inspection.draw(false_positive_rate, components.output_folder())
        cloud = [files.get("point_cloud")] if self._with_scan else []
        return [values, files["overlay"], files["anomaly_map"], *cloud]
