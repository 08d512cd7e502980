"""Drawn data in the official layouts of four benchmarks, to try everything without a download.

Figures on them say that the toolkit works, not how good a method is. The same settings give the same files, byte for
byte where the versions of the libraries are the same.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.synthetic.layouts import DEFECTS, Counts, Part, draw_part, write_category

__all__ = ["DEFECTS", "Counts", "Part", "draw_part", "write_synthetic"]


def write_synthetic(root: Path, *, seed: int = 0, counts: Counts | None = None) -> Path:
    """Writes the datasets into the folder `root`, whole or not at all, unless they are there with these settings.

    Raises:
        DatasetError: `root` holds something else.
    """
    counts = counts or Counts()
    # The version is that of the drawings: a tree of another one is written anew.
    settings = json.dumps({"version": 1, "seed": seed, "counts": asdict(counts)})
    marker = root / "synthetic.json"
    if marker.is_file() and marker.read_text() == settings:
        return root
    if root.exists() and not marker.is_file() and (root.is_file() or any(root.iterdir())):
        raise DatasetError(f"{root} holds something that is no synthetic data: give a new or an empty folder.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        tree = Path(temporary) / "tree"
        for dataset, category in DEFECTS:
            write_category(tree / dataset, dataset, category, counts, seed)
        (tree / marker.name).write_text(settings)
        shutil.rmtree(root, ignore_errors=True)
        os.replace(tree, root)
    return root
