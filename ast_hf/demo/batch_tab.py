"""The tab "Batch": many pictures in one run, the most anomalous first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ast_hf.demo import components, drawing
from ast_hf.demo.components import for_page
from ast_hf.demo.detectors import Detectors
from ast_hf.demo.training import VisitorDetector, key_of
from ast_hf.demo.uploads import MAX_PICTURES, DemoError, Upload, find_uploads
from ast_hf.inference import Calibration, Prediction
from ast_hf.inference.drift import DriftMonitor
from ast_hf.results import CSV_HEADER, csv_line

_CHUNK = 4  # pictures between two looks at who else waits
_THUMBNAIL = (384, 384)


@dataclass(frozen=True)
class BatchRow:
    """One picture of a run: `values` for machines, "error" among them where it could not be read.

    Of `prediction` the picture is no larger than its overlay: hundreds are kept for their visitor.
    """

    values: dict[str, Any]
    overlay: Path | None = None
    prediction: Prediction | None = None

    @property
    def ratio(self) -> float:
        """The score in units of the threshold; -1 where there is none."""
        return self.values["score"] / self.values["threshold"] if self.overlay else -1.0

    @property
    def cells(self) -> list[Any]:
        """What the table shows: picture, verdict, ratio and p-value, or picture and what is wrong with it."""
        if self.overlay is None:
            return [self.values["image"], f"Not read: {self.values['error']}", None, None]
        verdict = "Defect" if self.values["is_anomalous"] else "No defect found"
        return [self.values["image"], verdict, round(self.ratio, 2), round(self.values["p_value"], 3)]


@dataclass(frozen=True, eq=False)
class Batch:
    """A run so far, kept for its visitor, so that another false-positive rate judges it without the networks."""

    detector: str
    calibration: Calibration
    rate: float
    rows: Sequence[BatchRow]
    count: int

    def at_rate(self, rate: float, folder: Path) -> "Batch":
        """All rows judged anew; their overlays go into another `folder`, as browsers keep what they have seen."""
        rows = [
            _judge(row.prediction, self.detector, self.calibration, rate, folder / row.overlay.name)
            if row.prediction and row.overlay
            else row
            for row in self.rows
        ]
        return replace(self, rate=rate, rows=rows)

    def show(self, folder: Path) -> list[Any]:
        """What status, results, histogram, gallery, table and download show; the CSV goes into `folder`."""
        best, calibration = _by_score(self.rows), replace(self.calibration, false_positive_rate=self.rate)
        scored = [row for row in best if row.overlay]
        unread = f", {len(best) - len(scored)} could not be read" if len(best) > len(scored) else ""
        text = f"{len(best)} of {self.count} done{unread}{find_drift(self.rows, calibration)}"
        chart = drawing.distribution(calibration, [row.values["score"] for row in scored]) if scored else ""
        pictures = [(row.overlay, f"{row.ratio:.1f}x {row.values['image']}") for row in scored]
        table, path = [row.cells for row in best], write_csv(self.rows, folder / "scores.csv")
        return [drawing.progress(text, len(best), self.count), gr.Column(visible=True), chart, pictures, table, path]


def score_pictures(
    detectors: Detectors, name: str, own: VisitorDetector | None, uploads: Sequence[Upload], rate: float, folder: Path
) -> Iterator[Batch]:
    """Scores pictures a few at a time; after each few gives the run so far, its rows in the order of `uploads`.

    One that cannot be read becomes a row that says why. Small overlays go into `folder`.
    """
    key, rows = key_of(name, own), list[BatchRow]()
    for start in range(0, len(uploads), _CHUNK):
        chunk = [(upload.name, upload.try_picture()) for upload in uploads[start : start + _CHUNK]]
        predictions, calibration = detectors.predict(key, [read for _, read in chunk if isinstance(read, Image.Image)])
        results = iter(predictions)
        for image, read in chunk:
            if isinstance(read, DemoError):
                rows.append(BatchRow({"image": image, "error": read.reason}))
                continue
            prediction = next(results)
            small = prediction.image.copy()
            small.thumbnail(_THUMBNAIL)
            prediction = replace(prediction, name=image, image=small, full_size=prediction.size)
            rows.append(_judge(prediction, name, calibration, rate, folder / f"{len(rows):04}.jpg"))
        yield Batch(name, calibration, rate, list(rows), len(uploads))


def _judge(prediction: Prediction, detector: str, calibration: Calibration, rate: float, path: Path) -> BatchRow:
    judged = prediction.at_rate(calibration, rate)
    judged.overlay().save(path, quality=90)
    return BatchRow(drawing.report(judged, detector, rate), path, prediction)


def write_csv(rows: Sequence[BatchRow], path: Path) -> str:
    """Writes the rows, the most anomalous first, those without a score last, with the command line's columns."""
    path.write_text(CSV_HEADER + "".join(csv_line(row.values) for row in _by_score(rows)), encoding="utf-8")
    return str(path)


def _by_score(rows: Sequence[BatchRow]) -> list[BatchRow]:
    return sorted(rows, key=lambda row: -row.ratio)


def find_drift(rows: Sequence[BatchRow], calibration: Calibration) -> str:
    """What a `DriftMonitor` says of the pictures in their order; nothing while it has seen no change."""
    monitor = DriftMonitor(calibration)
    for row in rows:
        if row.overlay:
            monitor.update(row.values["score"], row.values["image"])
    return f". {monitor.alarm}" if monitor.alarm else ""


def batch_tab(detectors: Detectors, own: gr.State) -> gr.Dropdown:
    """Builds the tab where it is called; gives its choice of detectors."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            files = gr.File(label="Pictures, or a zip of them", file_count="multiple", elem_id="batch-files")
            detector = gr.Dropdown(detectors.names(with_scan=False), label="Detector", elem_id="batch-detector")
            rate = components.rate_input("batch")
            button, stop = components.start_and_stop("Score all", "batch")
        with gr.Column(scale=3, min_width=280):
            hint = drawing.progress(f"Up to {MAX_PICTURES} pictures; the most anomalous come first.")
            status = gr.HTML(hint, elem_id="batch-status")
            with gr.Column(visible=False) as done:
                chart = gr.HTML(elem_id="batch-chart")
                options: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["fullscreen"]}
                gallery = gr.Gallery(show_label=False, columns=3, height="auto", elem_id="batch-gallery", **options)
                table = gr.Dataframe(
                    headers=["Picture", "Verdict", "× threshold", "p-value"],  # noqa: RUF001
                    datatype=["str", "str", "number", "number"],
                    column_widths=["28%", "34%", "21%", "17%"],
                    wrap=True,
                    max_height=10_000,  # the page scrolls, the table does not
                    interactive=False,
                    buttons=[],
                    elem_id="batch-table",
                )
                csv_file = gr.DownloadButton("↓ CSV", size="sm", elem_id="batch-download")

    def score(files: list[str] | None, name: str | None, rate: float, own: VisitorDetector | None) -> Iterator[Any]:
        found, folder = find_uploads(files), components.output_folder()
        yield {kept: None, status: drawing.progress("Starting", 0, len(found))}
        for run in score_pictures(detectors, str(name), own, found, rate, folder):
            yield run, *run.show(folder)

    def judge(run: Batch | None, rate: float) -> Any:
        if run is None or run.rate == rate:
            return gr.skip()
        folder = components.output_folder()
        run = run.at_rate(rate, folder)
        return [run, *run.show(folder)]

    def batch(files: list[str], detector: str, false_positive_rate: float) -> tuple[list[dict[str, Any]], str]:
        """Scores pictures, or zips of them: a row each, in the order given, and a CSV, the most anomalous first.

        The row of a picture that cannot be read says why.
        """
        found, folder = find_uploads(files), components.output_folder()
        *_, run = score_pictures(detectors, detector, None, found, false_positive_rate, folder)
        return [row.values for row in run.rows], write_csv(run.rows, folder / "scores.csv")

    kept = gr.State(None, time_to_live=1800)
    inputs, outputs = [files, detector, rate, own], [kept, status, done, chart, gallery, table, csv_file]
    run = button.click(score, inputs, outputs, **for_page("batch", show_progress="hidden"))
    again = for_page(fn=judge, inputs=[kept, rate], outputs=outputs, show_progress="hidden")
    rate.change(trigger_mode="always_last", **again)
    run.success(**again)  # the rate may have changed meanwhile
    stop.click(lambda: drawing.progress("Stopped."), None, status, cancels=[run], **for_page())
    components.endpoint("batch", batch, inputs[:3], json="rows", files=["csv"], kind="batch")
    return detector
