"""The demo page: drop a picture, see the defect. `python app.py`, or a Hugging Face Space as it stands."""

import argparse
import os
import threading
import warnings
from contextlib import suppress

with suppress(ImportError):
    import spaces  # noqa: F401  ZeroGPU wants to be there before torch is

from PIL import Image

from ast_hf.demo.page import create_demo, default_detectors, launch_settings
from benchmark.synthetic import draw_part


def main(arguments: list[str] | None = None) -> None:
    """Serves the page until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    port, host = parser.parse_args(arguments).port, os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    Image.MAX_IMAGE_PIXELS = 64_000_000  # for gradio, which opens pictures too
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    detectors = default_detectors()
    # Good parts that no embedded detector has seen.
    demo = create_demo(detectors, draw=lambda number: Image.fromarray(draw_part("carpet", 1000 + number).rgb))
    threading.Thread(target=detectors.warm_up, daemon=True).start()
    print(f"http://{host}:{port}", flush=True)
    demo.launch(server_name=host, server_port=port, **launch_settings())


if __name__ == "__main__":
    main()
