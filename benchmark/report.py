"""Tables of a run's results: a row a category, mean and deviation over seeds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ast_hf.checkpoint import write_whole

# Figures in the order of the tables, with their headings; all are in percent there.
FIGURES = {
    "image_auroc": "image AUROC",
    "image_auroc_mean": "mean score",
    "image_auroc_max": "max score",
    "teacher_image_auroc_mean": "teacher NLL, mean",
    "teacher_image_auroc_max": "teacher NLL, max",
    "pixel_auroc_paper": "pixel AUROC, paper",
    "pixel_auroc": "pixel AUROC, raw",
    "au_pro_0.3": "AU-PRO 0.3, raw",
    "au_pro_0.05": "AU-PRO 0.05, raw",
    "false_positive_rate": "FPR at threshold",
    "recall": "recall at threshold",
}


def write_report(output: Path, results: Sequence[Mapping[str, Any]]) -> str:
    """Writes tables.md and results.csv into the run's folder.

    Args:
        output: The run's folder.
        results: Of finished jobs, as `jobs.read_result` gives them.

    Returns:
        The tables as Markdown.
    """
    tables = "\n\n".join(
        _table(name, [r for r in results if _setting(r) == name]) for name in dict.fromkeys(map(_setting, results))
    )
    write_whole(output / "tables.md", (tables + "\n").encode())
    write_whole(output / "results.csv", _csv(results).encode())
    return tables


def _setting(result: Mapping[str, Any]) -> str:
    """What results must share to stand in one table."""
    job = result["job"]
    config, recipe = job["config"], job["recipe"]
    trunk = f"{config['backbone']}, {config['image_size']} px" if config["modality"] != "depth" else "no trunk"
    widths = f"teacher {config['teacher_channels']}, student {config['student_channels']}"
    extra = "" if config["feature_normalization"] == "none" else ", standardised inputs"
    held = f", {recipe['calibration_fraction']:.0%} held out" if recipe["calibration_fraction"] else ""
    epochs = f"{recipe['epochs']} + {recipe['epochs']} epochs"
    return f"{job['dataset']} ({config['modality']}; {trunk}; {widths}; {epochs}{extra}{held})"


def _table(title: str, results: Sequence[Mapping[str, Any]]) -> str:
    columns = [name for name in FIGURES if any(name in r["figures"] for r in results)]
    lines = [
        f"### {title}",
        "",
        "| category | seeds | " + " | ".join(FIGURES[name] for name in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for category in dict.fromkeys(r["job"]["category"] for r in results):
        rows = [r for r in results if r["job"]["category"] == category]
        cells = [_cell([r["figures"][name] for r in rows if name in r["figures"]]) for name in columns]
        lines.append(f"| {category} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    """Percent: the mean, and the standard deviation over seeds where there are several."""
    if not values:
        return "-"
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def _csv(results: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for r in results for name in r["figures"]))
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "dataset", "category", "seed", *names, "seconds"])
    for r in results:
        job = r["job"]
        figures = [r["figures"].get(name, "") for name in names]
        rows.writerow([r["id"], job["dataset"], job["category"], job["seed"], *figures, round(r["seconds"]["total"])])
    return text.getvalue()
