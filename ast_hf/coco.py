"""Regions in COCO's format, as tools for labelling and for evaluating read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def coco_document(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows (`results.prediction_row` with polygons, or `error_row`) as one COCO document.

    An image's entry holds its row's columns beside COCO's own, a region's its peak as "score". The rows of parts that
    could not be used are under "errors", which COCO does not know.
    """
    rows = list(rows)
    errors = [row for row in rows if "error" in row]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate((row for row in rows if "error" not in row), 1):
        columns = {column: value for column, value in row.items() if column not in ("image", "regions")}
        images.append({"id": number, "file_name": row["image"], **columns})
        for region in row["regions"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(region)})
    categories = [{"id": 1, "name": "anomaly"}]
    return {"images": images, "annotations": annotations, "categories": categories, "errors": errors}


def _annotation(region: Mapping[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = region["box"]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [[coordinate for point in region["polygon"] for coordinate in point]],
        "bbox": [left, top, right - left, bottom - top],
        "area": region["area"],
        "score": region["peak"],
    }
