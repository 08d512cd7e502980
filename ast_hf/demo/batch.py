"""Many pictures in one run: rows that grow while it goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ast_hf.demo.inspection import report
from ast_hf.demo.models import Detectors
from ast_hf.demo.uploads import Upload
from ast_hf.errors import ImageReadError

HEADERS = ["Picture", "Verdict", "× threshold", "p-value"]  # noqa: RUF001
_CHUNK = 4  # pictures between two looks at who else waits
_THUMBNAIL = (384, 384)
_COLUMNS = ("image", "score", "threshold", "is_anomalous", "p_value", "regions", "error")  # as the command line's


@dataclass(frozen=True)
class Row:
    """One picture of a run: `values` for machines, "error" among them where it could not be read."""

    values: dict[str, Any]
    overlay: Path | None = None

    @property
    def ratio(self) -> float:
        """The score in units of the threshold; -1 where there is none."""
        return self.values["score"] / self.values["threshold"] if self.overlay else -1.0

    @property
    def caption(self) -> str:
        """For the gallery."""
        return f"{self.ratio:.1f}x {self.values['image']}"

    @property
    def cells(self) -> list[str]:
        """What stands under `HEADERS`; where the picture could not be read, its name and the reason."""
        name = self.values["image"]
        if self.overlay is None:
            return [name, f"Not read: {self.values['error']}"]
        verdict = "Defect" if self.values["is_anomalous"] else "No defect found"
        return [name, verdict, f"{self.ratio:.2f}", f"{self.values['p_value']:.3f}"]


def run(
    detectors: Detectors, name: str, key: str | Path, uploads: Sequence[Upload], rate: float, folder: Path
) -> Iterator[list[Row]]:
    """Scores pictures a few at a time; after each few gives all rows so far, in the order of `uploads`.

    Args:
        detectors: Where the detector comes from.
        name: What to call it.
        key: As `Detectors.predict`.
        uploads: What to score. One that cannot be read becomes a row that says why.
        rate: The false-positive rate, in (0, 1).
        folder: For small overlays.
    """
    rows: list[Row] = []
    for start in range(0, len(uploads), _CHUNK):
        chunk = [(upload.name, _try_read(upload)) for upload in uploads[start : start + _CHUNK]]
        pictures = [read for _, read in chunk if isinstance(read, Image.Image)]
        predictions, calibration = detectors.predict(key, pictures)
        results = iter(predictions)
        for image, read in chunk:
            if isinstance(read, str):
                rows.append(Row({"image": image, "error": read}))
                continue
            prediction, path = next(results).at_rate(calibration, rate), folder / f"{len(rows):04}.png"
            overlay = prediction.overlay()
            overlay.thumbnail(_THUMBNAIL)
            overlay.save(path)
            rows.append(Row({"image": image, **report(prediction, prediction.regions(), name, rate)}, path))
        yield list(rows)


def by_score(rows: Sequence[Row]) -> list[Row]:
    """The most anomalous first, those without a score last."""
    return sorted(rows, key=lambda row: -row.ratio)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows for a spreadsheet."""
    cells = io.StringIO()
    writer = csv.DictWriter(cells, _COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        regions = json.dumps(row.values.get("regions", []))
        writer.writerow({**row.values, "image": _no_formula(row.values["image"]), "regions": regions})
    path.write_text(cells.getvalue(), encoding="utf-8")


def _try_read(upload: Upload) -> Image.Image | str:
    try:
        return upload.picture()
    except ImageReadError as error:
        return error.reason


def _no_formula(text: str) -> str:
    """A stranger's file name must not become a formula in somebody's spreadsheet."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
