"""Regions in COCO's format, as tools for labelling and for evaluating read it."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any


def coco_document(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows (`results.prediction_row` with polygons, or `error_row`) as one COCO document.

    An image's entry holds its row's columns beside COCO's own, a region's its peak as "score". The rows of parts that
    could not be used are under "errors", which COCO does not know.
    """
    images, annotations, errors = list[dict[str, Any]](), list[dict[str, Any]](), list[Mapping[str, Any]]()
    for row in rows:
        if "error" in row:
            errors.append(row)
            continue
        columns = {column: value for column, value in row.items() if column not in ("image", "regions")}
        images.append({"id": len(images) + 1, "file_name": row["image"], **columns})
        for region in row["regions"]:
            left, top, right, bottom = region["box"]
            ids = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0}
            shape = {"segmentation": [list(chain(*region["polygon"]))], "bbox": [left, top, right - left, bottom - top]}
            annotations.append({**ids, **shape, "area": region["area"], "score": region["peak"]})
    categories = [{"id": 1, "name": "anomaly"}]
    return {"images": images, "annotations": annotations, "categories": categories, "errors": errors}
