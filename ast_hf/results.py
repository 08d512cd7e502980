"""What a run over many parts leaves: rows as JSON lines or CSV, overlays and raw maps."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from ast_hf.errors import ImageReadError
from ast_hf.files import write_atomic
from ast_hf.inference.prediction import Prediction

COLUMNS = ("image", "score", "threshold", "is_anomalous", "p_value", "regions", "overlay", "raw_map", "error")


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a row; without a calibration there is a score only."""
    row: dict[str, Any] = {"image": prediction.name, "score": prediction.score}
    if prediction.threshold is not None:
        row |= {"threshold": prediction.threshold, "is_anomalous": prediction.is_anomalous}
        row |= {"p_value": prediction.p_value}
        row["regions"] = [dataclasses.asdict(region) for region in prediction.regions()]
    return row


def error_row(error: ImageReadError, name: str | None = None) -> dict[str, Any]:
    """A part that could not be used, as a row."""
    return {"image": name or error.source, "error": error.reason}


def csv_line(row: Mapping[str, Any], columns: Sequence[str] = COLUMNS) -> str:
    """A row of CSV with its line end; lists as JSON, other columns than these left out."""
    cells = io.StringIO()
    values = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
    values = {k: _no_formula(v) if isinstance(v, str) else v for k, v in values.items()}
    csv.DictWriter(cells, columns, restval="", extrasaction="ignore").writerow(values)
    # Written with "\r\n", so that either of the two within a cell is put into quotes.
    return cells.getvalue().removesuffix("\r\n") + "\n"


def _no_formula(text: str) -> str:
    """A stranger's file name must not become a formula in somebody's spreadsheet."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


class RowWriter:
    """Rows in a format, printed as they come and kept for a file."""

    def __init__(self, kind: Literal["jsonl", "csv"], stream: TextIO) -> None:
        self._kind, self._stream = kind, stream
        self._kept: list[str] = []
        if kind == "csv":
            self._print(csv_line(dict(zip(COLUMNS, COLUMNS, strict=True))))

    def add(self, row: Mapping[str, Any]) -> None:
        """Prints and keeps a row."""
        self._print(json.dumps(row) + "\n" if self._kind == "jsonl" else csv_line(row))

    def save(self, folder: Path) -> None:
        """Writes all rows so far to `folder`/results.FORMAT."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"results.{self._kind}", "".join(self._kept).encode())

    def _print(self, line: str) -> None:
        self._kept.append(line)
        self._stream.write(line)
        self._stream.flush()


class PictureWriter:
    """Overlays and raw maps in folders that mirror the inputs', so that equal names never meet."""

    def __init__(self, folder: Path, names: Sequence[str], *, raw_maps: bool) -> None:
        self._folder, self._raw_maps = folder, raw_maps
        parents = [os.path.dirname(os.path.abspath(name)) for name in names]
        try:
            self._root = os.path.commonpath(parents) if parents else ""
        except ValueError:  # several drives
            self._root = ""

    def write(self, prediction: Prediction) -> dict[str, str]:
        """Writes what was asked for and returns where, by column."""
        written: dict[str, str] = {}
        if prediction.map_threshold is not None:
            png = io.BytesIO()
            prediction.overlay().save(png, "PNG")
            written["overlay"] = self._write("overlays", prediction.name, ".png", png.getvalue())
        if self._raw_maps:
            raw = io.BytesIO()
            np.save(raw, prediction.anomaly_map)
            written["raw_map"] = self._write("raw_maps", prediction.name, ".npy", raw.getvalue())
        return written

    def _write(self, kind: str, name: str, suffix: str, data: bytes) -> str:
        relative = os.path.relpath(os.path.abspath(name), self._root) if self._root else os.path.basename(name)
        # The picture's own suffix stays: a.png and a.jpg are two pictures.
        path = self._folder / kind / (relative + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return str(path)
