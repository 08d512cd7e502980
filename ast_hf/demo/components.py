"""What several tabs are made of: inputs, buttons and endpoints."""

import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder, is_in_or_equal

from ast_hf.demo.uploads import DemoError, read_mask_file, read_picture


def for_page(kind: str | None = None, **options: Any) -> dict[str, Any]:
    """Options of an event that is for the page alone; of each `kind` of computing events one runs at a time."""
    limits = {"concurrency_id": kind, "concurrency_limit": 1} if kind else {}
    return {"api_visibility": "private", **limits, **options}


def endpoint(
    name: str, function: Callable[..., Any], inputs: Any = (), *, json: str, files: Sequence[str] = (), kind: str
) -> None:
    """For programs alone: no event of the page calls it, and it gives JSON and files; its docstring describes it."""
    outputs = [gr.JSON(label=json, visible=False), *(gr.File(label=label, visible=False) for label in files)]
    gr.on([], function, list(inputs), outputs, api_name=name, concurrency_id=kind, concurrency_limit=1)


def output_folder() -> Path:
    """A new folder for files that a handler gives, in the place that gradio serves files from.

    Gradio deletes what it was given when that is an hour old, see `page`; what else is there goes an hour later.
    """
    root = Path(get_upload_folder(), "results")
    for old in root.glob("*"):
        with suppress(FileNotFoundError):  # two handlers may do this at once
            if old.stat().st_mtime < time.time() - 7200:
                shutil.rmtree(old, ignore_errors=True)
    folder = root / secrets.token_hex(16)  # whoever knows the name may read
    folder.mkdir(parents=True)
    return folder


def picture_input(ids: str) -> gr.Image:
    """A picture from a file, the clipboard or the camera; handlers get the path of the file as it was uploaded.

    Gradio itself would open it, and has no words for what is wrong with it.
    """
    options: dict[str, Any] = {"sources": ["upload", "clipboard", "webcam"], "buttons": [], "image_mode": None}
    alt = "Your picture"
    image = gr.Image(label="Picture", type="filepath", height=320, alt_text=alt, elem_id=f"{ids}-image", **options)
    image.preprocess = lambda payload: None if payload is None else _uploaded(payload)  # type: ignore[method-assign]
    image.upload(_displayable, image, image, **for_page(show_progress="hidden"))
    return image


def _uploaded(file: Any) -> str:
    """A file's path, which gradio does not check to have been uploaded where a hand-made request leaves `meta` away."""
    if not file.path or not is_in_or_equal(file.path, get_upload_folder()):
        raise DemoError("Upload the picture as a file.")
    return file.path


def _displayable(picture: str | None) -> Any:
    """Browsers show no TIFF: in its place the same pixels as PNG, which score the same."""
    return read_picture(picture) if picture and picture.lower().endswith((".tif", ".tiff")) else gr.skip()


def region_input(ids: str) -> gr.ImageEditor:
    """A picture to paint on; handlers get what is painted as bool (H, W), or None where nothing is."""
    brush = gr.Brush(colors=[("#ffffff", 0.6)], color_mode="fixed", default_size=60)
    options: dict[str, Any] = {"sources": (), "transforms": (), "layers": False, "buttons": [], "show_label": False}
    editor = gr.ImageEditor(brush=brush, height=420, elem_id=f"{ids}-region", **options)

    def painted(payload: Any) -> np.ndarray | None:
        """The one layer, white on nothing, within the limits that are kept for other files."""
        region = read_mask_file(_uploaded(payload.layers[0])) if payload and payload.layers else None
        return None if region is None or not region.any() else region

    editor.preprocess = painted  # type: ignore[method-assign,assignment]
    return editor


def rate_input(ids: str) -> gr.Slider:
    """The false-positive rate."""
    label, info = "False-positive rate", "Share of good parts that may be called defective"
    low, high = 0.005, 0.5
    slider = gr.Slider(low, high, 0.05, step=0.005, label=label, info=info, elem_id=f"{ids}-rate")

    def number(payload: Any) -> float:
        """A program may send a number as text; what is none, gradio has no words for."""
        with suppress(TypeError, ValueError):
            if low <= float(payload) <= high:
                return float(payload)
        raise DemoError(f"Give the false-positive rate as a number from {low} to {high}.")

    slider.preprocess = number  # type: ignore[method-assign]
    return slider


def start_and_stop(label: str, ids: str) -> tuple[gr.Button, gr.Button]:
    """The buttons of a long run, side by side."""
    with gr.Row():
        start = gr.Button(label, variant="primary", min_width=120, elem_id=f"{ids}-run")
        return start, gr.Button("Stop", min_width=120, elem_id=f"{ids}-stop")
