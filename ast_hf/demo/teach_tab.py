"""The tab "Teach": a detector of the visitor's own, from pictures of good parts."""

import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ast_hf.demo import components, drawing
from ast_hf.demo.components import for_page
from ast_hf.demo.detectors import Detectors
from ast_hf.demo.training import OWN_DETECTOR, TeachSettings, TrainingStep, VisitorDetector, read_good
from ast_hf.demo.uploads import DemoError, find_uploads, read_mask_file
from ast_hf.hub.checkpoint import CALIBRATION_NAME
from ast_hf.training.trainer import MIN_SAMPLES

MAX_SAMPLES = 100
Draw = Callable[[int], Image.Image]  # a good part by its number, from 0
_DRAWN = 24
_PLOTS = ("teacher", "student")
_COLOURS = {"whole parts": "#6366f1", "details": "#d97706"}  # what the first pair looks at, and the local one
_CANVAS = (800, 800)


class TeachTab:
    """Builds the tab where it is made; the new detector becomes one of the `choices`, `use` is the button to try it."""

    def __init__(
        self,
        detectors: Detectors,
        own: gr.State,
        choices: Sequence[gr.Dropdown],
        settings: TeachSettings,
        draw: Draw | None = None,
    ) -> None:
        self._detectors, self._settings, self._own, self._choices = detectors, settings, own, choices
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                label = "Pictures of good parts, or a zip of them"
                files = gr.File(label=label, file_count="multiple", elem_id="teach-files")
                drawn = gr.Button(f"Take {_DRAWN} drawn parts", size="sm", visible=bool(draw), elem_id="teach-drawn")
                with gr.Accordion("Region of interest", open=False):
                    gr.Markdown("Paint over what is to be looked at. Without paint that is the whole picture.")
                    region = components.region_input("teach")
                button, stop = components.start_and_stop("Teach", "teach")
            with gr.Column(scale=3, min_width=280):
                hint = f"{MIN_SAMPLES} to {MAX_SAMPLES} pictures of good parts, all in the same pose and light."
                self._status = gr.HTML(drawing.progress(hint), elem_id="teach-status")
                with gr.Row(visible=False, elem_id="teach-curves") as self._curves:
                    options: dict[str, Any] = {"x": "epoch", "y": "loss", "height": 200, "min_width": 200}
                    options |= {"color": "pair", "color_map": _COLOURS}
                    self._plots = [gr.LinePlot(title=f"{network.capitalize()} loss", **options) for network in _PLOTS]
                with gr.Column(visible=False, elem_id="teach-done") as self._done:
                    with gr.Row():
                        self.use = gr.Button("Try it in Inspect", variant="primary", elem_id="teach-use")
                        self._archive = gr.DownloadButton("↓ Checkpoint", elem_id="teach-download")
                    _push_form(own)
        outputs = [self._status, self._curves, *self._plots, own, self._done, self._archive, *choices]
        files.change(_canvas, files, region, **for_page(show_progress="hidden"))
        if draw:
            drawn.click(lambda: _pack_drawn(draw), None, files, **for_page())
        run = button.click(self._learn, [files, region, own], outputs, **for_page("teach", show_progress="hidden"))
        stop.click(lambda: drawing.progress("Stopped."), None, self._status, cancels=[run], **for_page())
        inputs = [files, gr.File(label="Region of interest", visible=False)]
        components.endpoint("teach", self._answer, inputs, json="result", files=["checkpoint"], kind="teach")

    def _learn(self, files: list[str] | None, region: np.ndarray | None, old: VisitorDetector | None) -> Iterator[Any]:
        status, plots = self._status, self._plots
        start = {status: drawing.progress("Reading the pictures"), self._curves: gr.Row(visible=False)}
        yield start | dict.fromkeys(plots)
        pictures, notes = read_good(find_uploads(files, most=MAX_SAMPLES))
        yield {status: drawing.progress(" ".join([f"Teaching {len(pictures)} good parts.", *notes]))}
        own, steps = VisitorDetector(self._detectors), list[TrainingStep]()
        for step in own.train(pictures, self._settings, region):
            steps.append(step)
            bar = drawing.progress(f"{step.stage.capitalize()}: {step.done} of {step.total}", step.done, step.total)
            yield {status: bar, self._curves: gr.Row(visible=True), **dict(zip(plots, loss_frames(steps), strict=True))}
        if old is not None:
            old.close()
        calibration = self._detectors.calibration(own.folder)
        text = " ".join([f"Your detector knows {len(pictures)} good parts.", calibration.describe(), *notes])
        names = gr.Dropdown([OWN_DETECTOR, *self._detectors.names(with_scan=False)])
        yield {
            status: drawing.progress(text) + drawing.distribution(calibration),
            self._own: own,
            self._done: gr.Column(visible=True),
            self._archive: own.pack(components.output_folder()),
            **dict.fromkeys(self._choices, names),
        }

    def _answer(self, files: list[str], region: str | None = None) -> tuple[dict[str, Any], str]:
        """Trains a detector on pictures of good parts, or zips of them: losses, calibration, checkpoint (zip).

        Unpacked, that is what ASTDetector.from_pretrained takes. With a region of interest, a mask of the pictures'
        aspect, only what is white in it is looked at.
        """
        pictures, notes = read_good(find_uploads(files, most=MAX_SAMPLES))
        own, mask = VisitorDetector(self._detectors), None if region is None else read_mask_file(region)
        if mask is not None and not mask.any():
            raise DemoError("The region of interest has nothing white: white is looked at.")
        steps = list(own.train(pictures, self._settings, mask))
        calibration = json.loads((own.folder / CALIBRATION_NAME).read_text("utf-8"))
        values = {"pictures": len(pictures), "notes": notes, "loss": _losses(steps), "calibration": calibration}
        return values, own.pack(components.output_folder())


def _losses(steps: Sequence[TrainingStep]) -> dict[str, list[float]]:
    """The losses of each stage, epoch by epoch."""
    losses = defaultdict[str, list[float]](list)
    for step in steps:
        if step.loss is not None:
            losses[step.stage].append(step.loss)
    return losses


def loss_frames(steps: Sequence[TrainingStep]) -> Iterator[Any]:
    """What the plots show."""
    import pandas as pd  # half a second that the page need not wait for

    losses = _losses(steps)
    for network in _PLOTS:
        pairs = zip(_COLOURS, (network, f"local {network}"), strict=True)
        # A line is there from the start, if of no value, or gradio never draws it.
        rows = [(epoch, loss, pair) for pair, stage in pairs for epoch, loss in enumerate(losses[stage] or [np.nan], 1)]
        yield pd.DataFrame(rows, columns=["epoch", "loss", "pair"]).astype({"epoch": float, "loss": float})


def _pack_drawn(draw: Draw) -> list[str]:
    path = components.output_folder() / "drawn.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(_DRAWN):
            png = io.BytesIO()  # a detector that learnt from JPEG would find fault with pictures that are none
            draw(number).save(png, "PNG", compress_level=1)
            archive.writestr(f"{number:02}.png", png.getvalue())
    return [str(path)]


def _canvas(files: list[str] | None) -> dict[str, Any] | None:
    """The first picture to paint on; what is wrong with files is said when they are to be taught."""
    try:
        picture = find_uploads(files, most=MAX_SAMPLES)[0].picture()
    except DemoError:
        return None
    picture.thumbnail(_CANVAS)
    return {"background": picture, "layers": [], "composite": picture}


def _push_form(own: gr.State) -> None:
    with gr.Accordion("Push to the Hugging Face Hub", open=False):
        repo = gr.Textbox(label="Repository", placeholder="your-name/your-detector", elem_id="push-repo")
        info = "Used once for this upload; neither kept nor logged."
        token = gr.Textbox(label="Token with the right to write", type="password", info=info, elem_id="push-token")
        hidden = gr.Checkbox(label="Private repository", value=True, elem_id="push-private")
        button = gr.Button("Push", elem_id="push-run")
        status = gr.Markdown(elem_id="push-status")

    def push(own: VisitorDetector | None, repo: str, token: str, hidden: bool) -> str:
        if own is None:
            raise DemoError("There is no detector of yours yet: teach one.")
        return f"Pushed: {own.push(repo.strip(), token.strip(), private=hidden)}"

    button.click(push, [own, repo, token, hidden], status, **for_page()).then(lambda: "", None, token, **for_page())
