"""The model card of a detector: what it is, what it reaches beside what was published, and what it is weak at."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import CheckpointError
from ast_hf.inference.calibration import Calibration

CARD_NAME = "README.md"
PICTURE_NAME = "heat_map.png"
_MARK = re.compile(r"\n<!-- Written by ast_hf, which keeps this card once it is edited: ([0-9a-f]{64}) -->\n")
_TAGS = ["anomaly-detection", "industrial-inspection", "normalizing-flow", "student-teacher", "arxiv:2210.07829"]
_TEXT = """
# {name}

Finds defects on {part} after having seen good parts only: AST, asymmetric student-teacher networks
([Rudolph et al., WACV 2023](https://arxiv.org/abs/2210.07829)). From {sees} it makes a heat map, a score and a verdict.
{picture}
## Use
```python
from ast_hf import from_pretrained
prediction = from_pretrained("{repo_id}").predict({arguments})
print(prediction.score, prediction.is_anomalous)
```

## Figures
{figures}

## Training data
{data}

## Calibration
{calibration}

## Limits
{limit}
It knows one kind of part, in the pose, light and camera of its training data, at {size} pixels (height x width);
whatever differs from them, harmless or not, looks like a defect to it. It is not made for decisions on which safety
hangs.

## Receipt
{receipt}

## Citation
Rudolph, Wehrbein, Rosenhahn, Wandt: Asymmetric Student-Teacher Networks for Industrial Anomaly Detection, WACV 2023.
"""


def write_card(
    config: ASTDetectorConfig,
    calibration: Calibration | None,
    metrics: Mapping[str, Any] | None = None,
    *,
    repo_id: str,
    picture: bool = False,
) -> str:
    """The text of a model card, with a model-index of the figures and a mark by which `is_untouched` knows it again.

    Args:
        config: Of the detector.
        calibration: Of the detector.
        metrics: What a checkpoint's metrics.json holds, all optional: "figures" (name to share of 1), "std" (name to
            sample standard deviation over seeds), "seeds" (list, the weights' own first), "published" (name to text),
            "receipt" (name to value); texts "dataset", "category", "preset", "protocol", and of the dataset "title",
            "licence" (in the Hub's spelling) and "limit" (what AST is weak at there).
        repo_id: "org/name".
        picture: Whether heat_map.png lies beside the card.

    Raises:
        CheckpointError: The metrics are not like that.
    """
    metrics = _checked(metrics or {})
    title, licence = metrics["title"] or metrics["dataset"] or "its owner's parts", metrics["licence"] or "other"
    # timm's repositories are named after the network and its weights' tag.
    timm = f"timm/{config.backbone}" if config.uses_rgb and "." in config.backbone else None
    front = ModelCardData(
        license=licence, library_name="ast-hf", pipeline_tag="image-segmentation", tags=_TAGS, base_model=timm,
        model_name=(model_name := repo_id.rpartition("/")[2]), eval_results=_results(metrics, title) or None,
    )  # fmt: skip
    sees = " and ".join(["a picture"] * config.uses_rgb + ["a 3D scan"] * config.uses_depth)
    arguments = ", ".join(['"part.png"'] * config.uses_rgb + ['points="part.tiff"'] * config.uses_depth)
    backbone = f" The frozen backbone is timm's {config.backbone}." if config.uses_rgb else ""
    body = _TEXT.format(
        name=model_name, repo_id=repo_id, sees=sees, arguments=arguments, limit=metrics["limit"],
        figures=_table(metrics),
        part=f"{metrics['category']} of {title}" if metrics["category"] else "parts of one kind",
        picture=f"\n![A part and its heat map]({PICTURE_NAME})\n" if picture else "",
        data=f"Good parts alone: {title} {metrics['category']}. Licence of the data, and of this: {licence}.{backbone}",
        calibration=_calibration(calibration),
        size=" x ".join(map(str, config.image_shape if config.uses_rgb else [config.depth_size] * 2)),
        receipt="\n".join(f"- {k}: {v}" for k, v in metrics["receipt"].items()) or "None was kept.",
    )  # fmt: skip
    text = f"---\n{front.to_yaml()}\n---\n{body}"
    sha = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}\n<!-- Written by ast_hf, which keeps this card once it is edited: {sha} -->\n"


def is_untouched(text: str) -> bool:
    """Whether a card is as `write_card` wrote it; line endings do not count."""
    text = text.replace("\r\n", "\n")
    mark = _MARK.search(text)
    return mark is not None and hashlib.sha256(_MARK.sub("", text).encode()).hexdigest() == mark[1]


def _results(metrics: Mapping[str, Any], title: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-segmentation", task_name="Anomaly detection",
            dataset_type=metrics["dataset"] or "own", dataset_name=title, dataset_config=metrics["category"] or None,
            dataset_split="test", metric_type=name, metric_name=_spoken(name), metric_value=value,
            metric_args={"seeds": metrics["seeds"], "std": metrics["std"].get(name), "protocol": metrics["protocol"]},
        )
        for name, value in metrics["figures"].items()
    ]  # fmt: skip


def _table(metrics: Mapping[str, Any]) -> str:
    if not metrics["figures"]:
        return "None were measured."
    rows = ["| in % | this detector | published for AST |", "| --- | ---: | ---: |"]
    for name, value in metrics["figures"].items():
        spread = f" ± {100 * metrics['std'][name]:.2f}" if name in metrics["std"] else ""
        rows.append(f"| {_spoken(name)} | {100 * value:.2f}{spread} | {metrics['published'].get(name, '')} |")
    notes = [f"Preset: {metrics['preset']}."] if metrics["preset"] else []
    if seeds := metrics["seeds"]:
        of = f"mean ± sample standard deviation over seeds {', '.join(map(str, seeds))}; the " if seeds[1:] else "the "
        notes.append(f"{of}weights here are of seed {seeds[0]}.".capitalize())
    return "\n".join(rows) + "\n\n" + " ".join([*notes, metrics["protocol"]])


def _spoken(figure: str) -> str:
    words = figure.replace("_", " ").replace("auroc", "AUROC").replace("au pro", "AU-PRO").replace("au spro", "AU-sPRO")
    return words[:1].upper() + words[1:]


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "None: no good parts were kept out of training to set a threshold. There are scores but no verdicts."
    return calibration.describe()


def _checked(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every field, of its type; those that are not there are empty."""
    kinds: dict[str, type] = dict.fromkeys(
        ("dataset", "title", "licence", "limit", "category", "preset", "protocol"), str
    )
    kinds |= {"seeds": list, "figures": dict, "std": dict, "published": dict, "receipt": dict}
    full = {name: metrics.get(name) or kind() for name, kind in kinds.items()}
    wrong = [name for name, kind in kinds.items() if not isinstance(full[name], kind)]
    numbers = [] if wrong else [*full["figures"].values(), *full["std"].values()]
    if wrong or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
        what = wrong[0] if wrong else "a figure"
        raise CheckpointError(f"In the metrics (metrics.json) {what} is not what hub.model_card.write_card describes.")
    return full
