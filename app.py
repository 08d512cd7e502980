"""The demo page: drop a picture, see the defect. `python app.py`, or a Hugging Face Space as it stands."""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

with suppress(ImportError):
    import spaces  # noqa: F401  ZeroGPU wants to be there before torch is

import gradio as gr
import PIL.Image
from gradio.utils import get_upload_folder, is_in_or_equal

import ast_hf
from ast_hf.demo import batch, drawing, inspection, teach, uploads
from ast_hf.demo.models import Detectors, on_gpu
from ast_hf.demo.uploads import DemoError
from ast_hf.errors import ImageReadError

PACKAGE = Path(ast_hf.__file__).parent
EXAMPLES = PACKAGE / "assets" / "examples"
ABOUT = """# Find the defect
AST learns what good parts look like and shows where a part differs. It needs no picture of a defect.
[Paper](https://arxiv.org/abs/2210.07829) · [API](?view=api)"""
LAUNCH: dict[str, Any] = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"]),
    "css_paths": PACKAGE / "demo" / "style.css",
    "max_file_size": uploads.MAX_FILE_BYTES,
    "show_error": False,  # what is raised on purpose, `gr.Error`, is shown all the same
    "run_history": False,
    "enable_monitoring": False,
    "footer_links": [],
    "state_session_capacity": 200,
    "ssr_mode": False,
    "quiet": True,
}
FAULTS = (DemoError, ImageReadError)  # sentences for visitors
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# Who computes holds `Detectors.device`; these keep long runs from taking the places of short ones.
SHORT: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
BATCH: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 1}
TEACH: dict[str, Any] = {"concurrency_id": "teach", "concurrency_limit": 1}


def create_demo(detectors: Detectors | None = None, course: teach.Course | None = None) -> gr.Blocks:
    """Builds the page without starting it.

    Args:
        detectors: What to choose from; by default `default_detectors()`.
        course: How the page teaches.
    """
    detectors = detectors or default_detectors()
    with gr.Blocks(title="AST: find the defect", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        gr.Markdown(ABOUT, elem_id="about")
        taught = gr.State(None, delete_callback=lambda own: own and own.close())
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Inspect", id="inspect"):
                inspect_with, look = _inspect_tab(detectors, taught, "inspect")
            with gr.Tab("Batch", id="batch"):
                score_with = _batch_tab(detectors, taught)
            with gr.Tab("RGB + 3D", id="scan"):
                _inspect_tab(detectors, taught, "scan")
            with gr.Tab("Teach", id="teach"):
                use = _teach_tab(detectors, taught, [inspect_with, score_with], course or teach.Course())
        chosen = use.click(lambda: (gr.Tabs(selected="inspect"), teach.YOURS), None, [tabs, inspect_with], **PRIVATE)
        chosen.then(**look)

        def models() -> dict[str, list[str]]:
            return {"picture": detectors.names(with_scan=False), "picture and scan": detectors.names(with_scan=True)}

        _endpoint("models", models, [], [_json("detectors")], {}, "The detectors there are, by what they take.")
    return demo.queue(max_size=64, default_concurrency_limit=4)


def default_detectors() -> Detectors:
    """What is here, and the Hub ids in `$AST_HF_SPACE_MODELS`, with commas between them."""
    return Detectors([name.strip() for name in os.environ.get("AST_HF_SPACE_MODELS", "").split(",") if name.strip()])


def _inspect_tab(detectors: Detectors, taught: gr.State, ids: str) -> tuple[gr.Dropdown, dict[str, Any]]:
    with_scan = ids == "scan"
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            image = _picture_input(ids)
            scan = _scan_input(ids) if with_scan else gr.State(None)
            detector = _detector_input(ids, detectors.names(with_scan=with_scan))
            button = gr.Button("Inspect", variant="primary", elem_id=f"{ids}-run")
            examples = _examples([image, scan, detector] if with_scan else [image, detector])
        with gr.Column(scale=3, min_width=280):
            kept, rate, shown, map_file = _results(ids)
            cloud = gr.Model3D(label="Point cloud", visible=with_scan, height=480, elem_id=f"{ids}-cloud")
    nothing = [None, None, "", gr.Markdown(visible=True), gr.Column(visible=False), *[None] * (len(shown) - 3)]

    def look(image: str | None, scan: str | None, detector: str | None, rate: float, own: Any) -> Iterator[Any]:
        with _workplace() as folder:
            try:
                seen = inspection.inspect(detectors, detector, teach.key_of(detector, own), image, scan)
            except FAULTS:
                yield nothing  # rather than the results of another picture
                raise
            yield seen, str(inspection.save_map(seen, folder)), *_shown(seen, rate, folder)

    def look_if_whole(image: str | None, scan: str | None, *others: Any) -> Iterator[Any]:
        if image is None or (with_scan and scan is None):
            yield nothing
        else:
            yield from look(image, scan, *others)

    def look_again(seen: inspection.Inspection | None, rate: float) -> Iterator[Any]:
        with _workplace() as folder:
            yield _shown(seen, rate, folder) if seen else [gr.skip()] * len(shown)

    def answer(image: str, scan: str | None, detector: str, false_positive_rate: float) -> Iterator[Any]:
        with _workplace() as folder:
            seen = inspection.inspect(detectors, detector, teach.key_of(detector, None), image, scan)
            _, values = inspection.draw(seen, false_positive_rate, folder)
            cloud = inspection.save_cloud(seen, false_positive_rate, folder)
            files = [folder / "overlay.png", inspection.save_map(seen, folder), *([cloud] if cloud else [])]
            yield values, *map(str, files)

    # Not a generator: gradio's viewer stays empty where a value comes twice, as a generator's last one does.
    def turn(seen: inspection.Inspection | None, rate: float) -> Path | None:
        return seen and inspection.save_cloud(seen, rate, Path(seen.temporary.name))

    inputs, outputs = [image, scan, detector, rate, taught], [kept, map_file, *shown]
    options = {"show_progress_on": shown[:2], **SHORT, **PRIVATE}
    automatic = {"fn": look_if_whole, "inputs": inputs, "outputs": outputs, **options}
    events = [button.click(look, inputs, outputs, **options)]
    inputs_change = [image.input, detector.input, *([scan.upload] if with_scan else [])]
    # The second of two files may come while the page still looks at the first.
    events.append(gr.on(inputs_change, trigger_mode="always_last", **automatic))
    if examples is not None:
        events.append(examples.load_input_event.then(**automatic))
    quiet: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
    image.upload(_displayable, image, image, **quiet)
    events.append(rate.change(look_again, [kept, rate], shown, trigger_mode="always_last", **quiet))
    for event in events if with_scan else []:
        event.then(turn, [kept, rate], cloud, **quiet)
    about = (
        "Score, threshold, verdict, p-value and regions of a picture{} as JSON; overlay (PNG), anomaly map (.npy){}."
    )
    about = about.format(" and its point cloud", ", coloured point cloud (GLB)") if with_scan else about.format("", "")
    files = [_file("overlay"), _file("map"), *([_file("cloud")] if with_scan else [])]
    name = "predict_3d" if with_scan else "predict"
    _endpoint(name, answer, [image, scan, detector, rate], [_json("result"), *files], SHORT, about)
    return detector, automatic


def _picture_input(ids: str) -> gr.Image:
    options: dict[str, Any] = {"sources": ["upload", "clipboard", "webcam"], "height": 320, "buttons": []}
    alt = {"label": "Picture", "alt_text": "Your picture", "elem_id": f"{ids}-image"}
    image = gr.Image(type="filepath", image_mode=None, **options, **alt)

    def untouched(payload: Any) -> str | None:
        """The file as it was uploaded: gradio would open it, and has no words for what is wrong with it.

        Nor does it check that a path was uploaded where a hand-made request leaves `meta` away.
        """
        if payload is None:
            return None
        if not payload.path or not is_in_or_equal(payload.path, get_upload_folder()):
            raise gr.Error("Upload the picture as a file.", print_exception=False)
        return payload.path

    image.preprocess = untouched  # type: ignore[method-assign]
    return image


def _scan_input(ids: str) -> gr.File:
    label, types = "Point cloud: TIFF of x, y, z in metres", [".tif", ".tiff"]
    return gr.File(label=label, file_types=types, height=120, elem_id=f"{ids}-scan")


def _detector_input(ids: str, names: list[str]) -> gr.Dropdown:
    return gr.Dropdown(names, value=next(iter(names), None), label="Detector", elem_id=f"{ids}-detector")


def _displayable(picture: str | None) -> Any:
    """Browsers show no TIFF: in its place the same pixels as PNG, which score the same."""
    if picture is None or not picture.lower().endswith((".tif", ".tiff")):
        return gr.skip()
    with _workplace():
        return uploads.read_picture(picture)


def _examples(inputs: list[Any]) -> Any:
    rows, names = [], [name for name, _ in inputs[-1].choices]
    for path in sorted(EXAMPLES.glob("*.png")):
        part = path.stem.replace("_", "-")
        name = next((name for name in names if part.startswith(f"{name.removeprefix('demo-')}-")), None)
        files = [path, path.with_suffix(".tiff")][: len(inputs) - 1]
        if name and all(file.is_file() for file in files):
            rows.append([*map(str, files), name])
    options: dict[str, Any] = {"cache_examples": False, "visible_columns": [0], **PRIVATE}
    return gr.Examples(rows, inputs, **options) if rows else None


def _results(ids: str) -> tuple[gr.State, gr.Slider, list[Any], gr.DownloadButton]:
    """What is kept for the slider, the slider, what it redraws (in the order of `_shown`), and the map."""
    hint = gr.Markdown("Drop a picture, or choose an example.", elem_id=f"{ids}-hint")
    options: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "format": "png"}
    with gr.Column(visible=False, elem_id=f"{ids}-results") as panel:
        verdict = gr.HTML(elem_id=f"{ids}-verdict")
        rate = _rate(ids)
        with gr.Tabs():
            with gr.Tab("Heat map"):
                slider = gr.ImageSlider(label="Picture | heat map", max_height=480, elem_id=f"{ids}-slider", **options)
            with gr.Tab("Regions"):
                alt = {"alt_text": "The picture with a frame around each anomalous region", "show_label": False}
                outlined = gr.Image(elem_id=f"{ids}-regions", **alt, **options)
            with gr.Tab("JSON"):
                values = gr.JSON(show_label=False, elem_id=f"{ids}-json")
        with gr.Row(elem_classes="downloads"):
            overlay, report, raw = (
                _download(kind, f"{ids}-download-{kind.lower()}") for kind in ("Overlay", "JSON", "Map")
            )
    kept = gr.State(None, time_to_live=1800)
    return kept, rate, [verdict, hint, panel, slider, outlined, values, overlay, report], raw


def _shown(seen: inspection.Inspection, rate: float, folder: Path) -> tuple[Any, ...]:
    prediction, values = inspection.draw(seen, rate, folder)
    original, overlay, outlined = (str(folder / f"{name}.png") for name in ("original", "overlay", "regions"))
    verdict = drawing.verdict(prediction, seen.calibration)
    pages = gr.Markdown(visible=False), gr.Column(visible=True), (original, overlay), outlined, values
    return verdict, *pages, overlay, str(folder / "result.json")


def _batch_tab(detectors: Detectors, taught: gr.State) -> gr.Dropdown:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            files = gr.File(label="Pictures, or a zip of them", file_count="multiple", elem_id="batch-files")
            detector, rate = _detector_input("batch", detectors.names(with_scan=False)), _rate("batch")
            button, stop = _start_and_stop("Score all", "batch")
        with gr.Column(scale=3, min_width=280):
            hint = drawing.progress(f"Up to {uploads.MAX_PICTURES} pictures; the most anomalous come first.")
            status = gr.HTML(hint, elem_id="batch-status")
            with gr.Column(visible=False) as done:
                options: dict[str, Any] = {"format": "png", "height": "auto", "buttons": ["fullscreen"], "columns": 3}
                gallery = gr.Gallery(show_label=False, elem_id="batch-gallery", interactive=False, **options)
                table = gr.HTML(elem_id="batch-table")
                csv_file = _download("CSV", "batch-download")

    def score(files: list[str] | None, detector: str | None, rate: float, own: Any) -> Iterator[Any]:
        with _workplace() as folder:
            key, found, path = teach.key_of(detector, own), uploads.find_uploads(files), folder / "scores.csv"
            yield drawing.progress("Starting", 0, len(found)), *[gr.skip()] * 4
            for rows in batch.run(detectors, str(detector), key, found, rate, folder):
                best, unread = batch.by_score(rows), sum(row.overlay is None for row in rows)
                batch.write_csv(best, path)
                text = f"{len(rows)} of {len(found)} done" + (f", {unread} could not be read" if unread else "")
                pictures = [(row.overlay, row.caption) for row in best if row.overlay]
                bar = drawing.progress(text, len(rows), len(found))
                cells = drawing.table(batch.HEADERS, [row.cells for row in best])
                yield bar, gr.Column(visible=True), pictures, cells, str(path)

    def answer(files: list[str], detector: str, false_positive_rate: float) -> Iterator[Any]:
        with _workplace() as folder:
            key, found, path = teach.key_of(detector, None), uploads.find_uploads(files), folder / "scores.csv"
            *_, rows = batch.run(detectors, detector, key, found, false_positive_rate, folder)
            batch.write_csv(batch.by_score(rows), path)
            yield [row.values for row in rows], str(path)

    inputs, outputs = [files, detector, rate, taught], [status, done, gallery, table, csv_file]
    run = button.click(score, inputs, outputs, show_progress="hidden", **BATCH, **PRIVATE)
    stop.click(lambda: drawing.progress("Stopped."), None, status, cancels=[run], **PRIVATE)
    about = (
        "Scores pictures, or zips of them: a row each as JSON, in the order given (one that cannot be read says why),"
    )
    about += " and a CSV, the most anomalous first."
    _endpoint("batch", answer, inputs[:3], [_json("rows"), _file("csv")], BATCH, about)
    return detector


def _teach_tab(detectors: Detectors, taught: gr.State, dropdowns: list[gr.Dropdown], course: teach.Course) -> gr.Button:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            label = "Pictures of good parts, or a zip of them"
            files = gr.File(label=label, file_count="multiple", elem_id="teach-files")
            button, stop = _start_and_stop("Teach", "teach")
        with gr.Column(scale=3, min_width=280):
            hint = f"{teach.MIN_PARTS} to {teach.MAX_PARTS} pictures of good parts, all in the same pose and light."
            status = gr.HTML(drawing.progress(hint), elem_id="teach-status")
            curves = gr.HTML(elem_id="teach-curves")
            with gr.Column(visible=False, elem_id="teach-done") as done:
                with gr.Row():
                    use = gr.Button("Try it in Inspect", variant="primary", elem_id="teach-use")
                    archive = gr.DownloadButton("↓ Checkpoint", elem_id="teach-download")
                _push_form(taught)
    train = on_gpu(teach.teach, seconds=180)

    def learn(files: list[str] | None, old: teach.Taught | None) -> Iterator[Any]:
        nothing_else = [gr.skip()] * (3 + len(dropdowns))
        with _workplace():
            yield drawing.progress("Reading the pictures"), "", *nothing_else
            for lesson in teach.lessons(detectors, train, uploads.find_uploads(files, most=teach.MAX_PARTS), course):
                new, step, plot = lesson.taught, lesson.steps[-1], drawing.curves(lesson.steps)
                if new is None:
                    text = f"{step.stage.capitalize()}: {step.done} of {step.total}"
                    yield drawing.progress(text, step.done, step.total), plot, *nothing_else
                    continue
                if old is not None:
                    detectors.forget(old.folder)
                    old.close()
                text = " ".join([f"Your detector knows {new.pictures} good parts.", *lesson.faults])
                choices = [gr.Dropdown([teach.YOURS, *detectors.names(with_scan=False)]) for _ in dropdowns]
                yield drawing.progress(text), plot, new, gr.Column(visible=True), str(teach.pack(new)), *choices

    def answer(files: list[str]) -> Iterator[Any]:
        with _workplace():
            *_, lesson = teach.lessons(detectors, train, uploads.find_uploads(files, most=teach.MAX_PARTS), course)
            yield lesson.report(), str(teach.pack(lesson.taught))
            lesson.taught.close()

    outputs = [status, curves, taught, done, archive, *dropdowns]
    run = button.click(learn, [files, taught], outputs, show_progress="hidden", **TEACH, **PRIVATE)
    stop.click(lambda: drawing.progress("Stopped."), None, status, cancels=[run], **PRIVATE)
    about = "Trains a detector on pictures of good parts, or zips of them: losses and calibration as JSON, and the"
    about += " checkpoint as a zip; unpacked, it is what ASTDetector.from_pretrained takes."
    _endpoint("teach", answer, [files], [_json("result"), _file("checkpoint")], TEACH, about)
    return use


def _push_form(taught: gr.State) -> None:
    with gr.Accordion("Push to the Hugging Face Hub", open=False):
        repo = gr.Textbox(label="Repository", placeholder="your-name/your-detector", elem_id="push-repo")
        info = "Used once for this upload; neither kept nor logged."
        token = gr.Textbox(label="Token with the right to write", type="password", info=info, elem_id="push-token")
        private = gr.Checkbox(label="Private repository", value=True, elem_id="push-private")
        button = gr.Button("Push", elem_id="push-run")
        status = gr.Markdown(elem_id="push-status")

    def push(own: teach.Taught | None, repo: str, token: str, private: bool) -> str:
        with _workplace():
            return f"Pushed: {teach.push(own, repo, token, private=private)}"

    button.click(push, [taught, repo, token, private], status, **PRIVATE).then(lambda: "", None, token, **PRIVATE)


def _rate(ids: str) -> gr.Slider:
    label, info = "False-positive rate", "Share of good parts that may be called defective"
    return gr.Slider(0.005, 0.5, 0.05, step=0.005, label=label, info=info, elem_id=f"{ids}-rate")


def _start_and_stop(label: str, ids: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        start = gr.Button(label, variant="primary", min_width=120, elem_id=f"{ids}-run")
        return start, gr.Button("Stop", min_width=120, elem_id=f"{ids}-stop")


def _download(kind: str, elem_id: str) -> gr.DownloadButton:
    return gr.DownloadButton(f"↓ {kind}", size="sm", min_width=80, elem_id=elem_id)


def _json(label: str) -> gr.JSON:
    return gr.JSON(label=label, visible=False)


def _file(label: str) -> gr.File:
    return gr.File(label=label, visible=False)


def _endpoint(name: str, function: Callable[..., Any], inputs: Any, outputs: Any, limits: Any, about: str) -> None:
    """For programs alone: nothing on the page calls it, and it gives no HTML."""
    gr.on([], function, inputs, outputs, api_name=name, api_description=about, **limits)


@contextmanager
def _workplace() -> Iterator[Path]:
    """A folder for what a handler gives (gradio has copied it when the handler goes on); faults become sentences."""
    try:
        with tempfile.TemporaryDirectory(prefix="ast-hf-") as folder:
            yield Path(folder)
    except FAULTS as error:
        raise gr.Error(str(error), print_exception=False) from None


def main(arguments: list[str] | None = None) -> None:
    """Serves the page until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    port, host = parser.parse_args(arguments).port, os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    PIL.Image.MAX_IMAGE_PIXELS = 64_000_000  # for gradio, which opens pictures too
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    detectors = default_detectors()
    demo = create_demo(detectors)
    for name in detectors.names(with_scan=False)[:1]:
        threading.Thread(target=detectors.warm, args=[name], daemon=True).start()
    print(f"http://{host}:{port}", flush=True)
    demo.launch(server_name=host, server_port=port, **LAUNCH)


if __name__ == "__main__":
    main()
