"""What a run over many parts leaves: rows as JSON lines or CSV, overlays and raw maps."""

import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import tifffile

from ast_hf.data.folders import mark_output
from ast_hf.errors import ImageReadError, OutputError
from ast_hf.files import write_atomic
from ast_hf.inference.prediction import Prediction

COLUMNS = ("image", "score", "threshold", "is_anomalous", "p_value", "regions", "overlay", "raw_map", "error")
CSV_HEADER = ",".join(COLUMNS) + "\n"


def prediction_row(prediction: Prediction, *, min_area: int = 1, polygons: bool = False) -> dict[str, Any]:
    """A prediction as a row, its regions perhaps with their polygons; without a calibration there is a score only."""
    width, height = prediction.size
    row: dict[str, Any] = {"image": prediction.name, "width": width, "height": height, "score": prediction.score}
    if prediction.threshold is not None:
        row |= {name: getattr(prediction, name) for name in ("threshold", "is_anomalous", "p_value")}
        row["regions"] = [r.to_dict(polygon=polygons) for r in prediction.regions(min_area=min_area)]
    return row


def error_row(error: ImageReadError, name: str) -> dict[str, Any]:
    """A part that could not be used, as a row."""
    return {"image": name, "error": error.reason}


def csv_line(row: Mapping[str, Any], columns: Sequence[str] = COLUMNS) -> str:
    """A row of CSV with its line end; lists as JSON, other columns than these left out."""
    line, cells = io.StringIO(), {column: _cell(value) for column, value in row.items()}
    csv.DictWriter(line, columns, restval="", extrasaction="ignore").writerow(cells)
    # Written with "\r\n", so that either of the two within a cell is put into quotes.
    return line.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    # A stranger's file name must not become a formula in somebody's spreadsheet.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


class RowWriter:
    """Rows in a format, written as they come: to a stream, and to `folder`/results.FORMAT, so that a run that is
    stopped leaves those it had. With `resume` they go behind the rows of an earlier run, which are else removed.
    """

    def __init__(
        self, kind: Literal["jsonl", "csv"], stream: TextIO, folder: Path | None = None, *, resume: bool = False
    ) -> None:
        self._kind, self._stream, self._path = kind, stream, folder and folder / f"results.{kind}"
        if self._path and not resume:
            self._path.unlink(missing_ok=True)
        if kind == "csv":
            self._write(CSV_HEADER, keep=not (self._path and self._path.exists() and self._path.stat().st_size))

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row."""
        self._write(json.dumps(row) + "\n" if self._kind == "jsonl" else csv_line(row))

    def _write(self, line: str, *, keep: bool = True) -> None:
        if self._path and keep:
            # File names may be no text, and so not be storable as such.
            with self._path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.write(line)
        self._stream.write(line)
        self._stream.flush()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the rows that a `RowWriter` left, if there is a file; where the last one was cut short, the file loses it.

    Raises:
        OutputError: The file has something else in it.
    """
    is_csv = path.suffix == ".csv"
    csv.field_size_limit(2**31 - 1)  # a cell with thousands of regions
    try:
        rows = _whole_rows(path, is_csv) if path.exists() else iter(())
        for row in csv.DictReader(rows) if is_csv else map(json.loads, rows):
            yield {**row, "image": str(row["image"])}
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        problem = f"{path} holds something else than rows ({error})"
        raise OutputError(f"{problem}: move it away, or give another folder.") from error


def _whole_rows(path: Path, is_csv: bool) -> Iterator[str]:
    with path.open("r+b") as file:
        end, row = 0, b""
        for line in file:
            row += line
            # Within a cell of CSV there may be lines, and then the quotes so far do not pair up.
            if line.endswith(b"\n") and not (is_csv and row.count(b'"') % 2):
                yield row.decode()
                end, row = end + len(row), b""
        file.truncate(end)


class PictureWriter:
    """Overlays and raw maps in folders that mirror the inputs', so that equal names never meet."""

    def __init__(self, folder: Path, names: Sequence[str], *, raw_maps: Literal["npy", "tiff"] | None) -> None:
        self._folder, self._raw_maps, self._root = folder, raw_maps, ""
        with suppress(ValueError):  # no names, or several drives
            self._root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])

    def write(self, prediction: Prediction) -> dict[str, str]:
        """Writes what was asked for and returns where, by column."""
        written: dict[str, str] = {}
        if prediction.map_threshold is not None:
            png = io.BytesIO()
            prediction.overlay().save(png, "PNG")
            written["overlay"] = self._write("overlays", prediction.name, ".png", png.getvalue())
        if self._raw_maps:
            raw = _raw_map(prediction.anomaly_map, self._raw_maps)
            written["raw_map"] = self._write("raw_maps", prediction.name, f".{self._raw_maps}", raw)
        return written

    def _write(self, kind: str, name: str, suffix: str, data: bytes) -> str:
        folder = self._folder / kind
        relative = os.path.relpath(os.path.abspath(name), self._root) if self._root else os.path.basename(name)
        path = folder / (relative + suffix)  # the picture's own suffix stays: a.png and a.jpg are two pictures
        mark_output(folder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise
            # The disk takes no such name: a plain one, that differs for each.
            digest = hashlib.sha256(os.fsencode(relative)).hexdigest()[:16]
            path = folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', path.name)[:64]}-{digest}{suffix}"
            write_atomic(path, data)
        return str(path)


def _raw_map(anomaly_map: np.ndarray, kind: Literal["npy", "tiff"]) -> bytes:
    """A map as float32 .npy, or as 16-bit TIFF whose description has the "scale" that its pixels are in units of."""
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, anomaly_map)
    else:
        positive = np.clip(anomaly_map, 0, None)  # below zero there is only what bicubic resizing threw there
        scale = float(positive.max()) / 65535 or 1.0
        pixels, description = np.rint(positive / scale).astype(np.uint16), json.dumps({"scale": scale})
        tifffile.imwrite(file, pixels, description=description, metadata=None, compression="zlib")
    return file.getvalue()
