"""The page: four tabs over one set of detectors, and an API beside them."""

import os
from pathlib import Path
from typing import Any

import gradio as gr

from ast_hf.demo.batch_tab import batch_tab
from ast_hf.demo.components import endpoint, for_page
from ast_hf.demo.detectors import Detectors
from ast_hf.demo.inspect_tab import InspectTab
from ast_hf.demo.teach_tab import Draw, TeachTab
from ast_hf.demo.training import OWN_DETECTOR, TeachSettings
from ast_hf.demo.uploads import MAX_FILE_BYTES

ABOUT = """# Find the defect
AST learns what good parts look like and shows where a part differs. It needs no picture of a defect.
[Paper](https://arxiv.org/abs/2210.07829) · [API](?view=api)"""


def default_detectors() -> Detectors:
    """What is here, and the Hub ids in `$AST_HF_SPACE_MODELS`, with commas between them."""
    return Detectors([name.strip() for name in os.environ.get("AST_HF_SPACE_MODELS", "").split(",") if name.strip()])


def create_demo(
    detectors: Detectors | None = None, settings: TeachSettings | None = None, draw: Draw | None = None
) -> gr.Blocks:
    """Builds the page without starting it; `draw` draws good parts for visitors who have no pictures at hand."""
    detectors = detectors or default_detectors()
    with gr.Blocks(title="AST: find the defect", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        gr.Markdown(ABOUT, elem_id="about")
        own = gr.State(None, delete_callback=lambda own: own and own.close())
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Inspect", id="inspect"):
                inspect = InspectTab(detectors, own)
            with gr.Tab("Batch", id="batch"):
                batch_detector = batch_tab(detectors, own)
            with gr.Tab("RGB + 3D", id="scan"):
                InspectTab(detectors, own, with_scan=True)
            with gr.Tab("Teach", id="teach"):
                choices = [inspect.detector, batch_detector]
                teach = TeachTab(detectors, own, choices, settings or TeachSettings(), draw)
        outputs = [tabs, inspect.detector]
        chosen = teach.use.click(lambda: (gr.Tabs(selected="inspect"), OWN_DETECTOR), None, outputs, **for_page())
        chosen.then(**inspect.automatic)

        def models() -> dict[str, list[str]]:
            """The detectors there are, by what they take."""
            return {"picture": detectors.names(with_scan=False), "picture and scan": detectors.names(with_scan=True)}

        endpoint("models", models, json="detectors", kind="models")
    return demo.queue(max_size=64, default_concurrency_limit=4)


def launch_settings() -> dict[str, Any]:
    """Arguments for `gr.Blocks.launch`: how the page looks, and what it tells and takes."""
    return {
        "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"]),
        "css_paths": Path(__file__).with_name("style.css"),
        "max_file_size": MAX_FILE_BYTES,
        "show_error": False,  # what is raised on purpose, `gr.Error`, is shown all the same
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "state_session_capacity": 200,
        "ssr_mode": False,
        "quiet": True,
    }
