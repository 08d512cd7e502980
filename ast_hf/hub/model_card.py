"""The model card of a detector: what it is, what it reaches beside what was published, and what it is weak at."""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import CheckpointError
from ast_hf.inference.calibration import Calibration

_TEMPLATE = Path(__file__).with_suffix(".md")
CARD_NAME = "README.md"
PICTURE_NAME = "heat_map.png"
_MARK = re.compile(r"\n<!-- Written by ast_hf, which keeps this card once it is edited: ([0-9a-f]{64}) -->\n")
_TAGS = ["anomaly-detection", "industrial-inspection", "normalizing-flow", "student-teacher", "arxiv:2210.07829"]


def write_card(
    config: ASTDetectorConfig,
    calibration: Calibration | None,
    metrics: Mapping[str, Any] | None = None,
    *,
    repo_id: str,
    picture: bool = False,
) -> str:
    """The text of a model card, with a model-index of the figures and a mark by which `is_untouched` knows it again.

    `metrics` are what a checkpoint's metrics.json holds, all optional: "figures" (name to share of 1), "std" (name to
    sample standard deviation over seeds), "seeds" (list, the weights' own first), "published" (name to text), "receipt"
    (name to value); texts "dataset", "category", "preset", "protocol", and of the dataset "title", "licence" (in the
    Hub's spelling) and "limit" (what AST is weak at there). A `CheckpointError` says where they are not like that.
    `picture` says whether heat_map.png lies beside the card.
    """
    metrics = _checked(metrics or {})
    metrics["title"] = metrics["title"] or metrics["dataset"] or "its owner's parts"
    metrics["licence"] = metrics["licence"] or "other"
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Anomaly detection",
            dataset_type=metrics["dataset"] or "own",
            dataset_name=metrics["title"],
            dataset_config=metrics["category"] or None,
            dataset_split="test",
            metric_type=name,
            metric_name=_spoken(name),
            metric_value=value,
            metric_args={"seeds": metrics["seeds"], "std": metrics["std"].get(name), "protocol": metrics["protocol"]},
        )
        for name, value in metrics["figures"].items()
    ]
    front = ModelCardData(
        license=metrics["licence"],
        library_name="ast-hf",
        pipeline_tag="image-segmentation",
        tags=_TAGS,
        # timm's repositories are named after the network and its weights' tag.
        base_model=f"timm/{config.backbone}" if config.uses_rgb and "." in config.backbone else None,
        model_name=(model_name := repo_id.rpartition("/")[2]),
        eval_results=results or None,
    )
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.filters["spoken"] = _spoken
    body = environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        metrics,
        config=config,
        name=model_name,
        repo_id=repo_id,
        sees=" and ".join(["a picture"] * config.uses_rgb + ["a 3D scan"] * config.uses_depth),
        arguments=", ".join(['"part.png"'] * config.uses_rgb + ['points="part.tiff"'] * config.uses_depth),
        picture=PICTURE_NAME if picture else None,
        calibration=calibration and calibration.describe(),
        size=" x ".join(map(str, config.image_shape if config.uses_rgb else [config.depth_size] * 2)),
    )
    text = f"---\n{front.to_yaml()}\n---\n{body}"
    sha = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}\n<!-- Written by ast_hf, which keeps this card once it is edited: {sha} -->\n"


def is_untouched(text: str) -> bool:
    """Whether a card is as `write_card` wrote it; line endings do not count."""
    text = text.replace("\r\n", "\n")
    mark = _MARK.search(text)
    return mark is not None and hashlib.sha256(_MARK.sub("", text).encode()).hexdigest() == mark[1]


def _spoken(figure: str) -> str:
    words = figure.replace("_", " ").replace("auroc", "AUROC").replace("au pro", "AU-PRO").replace("au spro", "AU-sPRO")
    return words[:1].upper() + words[1:]


def _checked(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every field, of its type; those that are not there are empty."""
    empty: dict[str, Any] = dict.fromkeys(
        ("dataset", "title", "licence", "limit", "category", "preset", "protocol"), ""
    )
    empty |= {"seeds": [], "figures": {}, "std": {}, "published": {}, "receipt": {}}
    full = {name: metrics.get(name) or value for name, value in empty.items()}
    wrong = [name for name, value in empty.items() if not isinstance(full[name], type(value))]
    numbers = [] if wrong else [*full["figures"].values(), *full["std"].values()]
    if wrong or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
        what = wrong[0] if wrong else "a figure"
        raise CheckpointError(f"In the metrics (metrics.json) {what} is not what hub.model_card.write_card describes.")
    return full
