"""A job: one detector to train and evaluate, as a JSON spec with a stable id, and its folder in a run.

`OUTPUT/jobs/ID/` holds `job.json` (the spec), `log.txt`, `progress.json` while it runs, `error.txt` where it failed,
and all that it gave. `result.json` is written last and whole: where it is, the job is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ast_hf.checkpoint import write_whole
from benchmark.datasets import DATASETS

SPEC_NAME = "job.json"
RESULT_NAME = "result.json"
PROGRESS_NAME = "progress.json"
LOG_NAME = "log.txt"
LOCK_NAME = ".lock"


@dataclass(frozen=True)
class Job:
    """What to train and evaluate.

    Attributes:
        dataset: A name of `benchmark.datasets.DATASETS`.
        category: One of its categories.
        seed: Of initial weights and order.
        config: `ASTDetectorConfig.to_dict()`.
        recipe: `TrainingRecipe.to_dict()`.
        data_root: Where the datasets are; part of the id for a user's own data only, which have no other name.
        preset: The preset that `config` and `recipe` started from, for the reader.
        variant: "AST", or the name of an ablation (`benchmark.ablations.VARIANTS`).
        data: "files", or "synthetic" for drawn data, whose figures are comparable with nothing published.
        backbone_weights: "pretrained" or the path of a file.
        backbone_digest: SHA-256 of that file, or "" for pretrained weights; the path is not part of the id, this is.
    """

    dataset: str
    category: str
    seed: int
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    data_root: str
    preset: str = ""
    variant: str = "AST"
    data: str = "files"
    backbone_weights: str = "pretrained"
    backbone_digest: str = ""

    @property
    def id(self) -> str:
        """Readable and stable: the same job has the same id on every machine and at every time."""
        what = dataclasses.asdict(self)
        del what["preset"], what["backbone_weights"]
        if DATASETS[self.dataset].categories:
            del what["data_root"]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        words = (self.dataset, self.category, self.config["modality"], f"seed{self.seed}", digest)
        return "-".join(re.sub(r"[^\w.+]+", "_", word) for word in words)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Reads what `to_dict` wrote."""
        return cls(**values)


def folder_of(output: Path, job: Job) -> Path:
    """Where a job's files go."""
    return output / "jobs" / job.id


def write_spec(output: Path, job: Job) -> Path:
    """Writes a job's spec into its folder, for a worker to read; gives the file."""
    path = folder_of(output, job) / SPEC_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(job.to_dict(), indent=2) + "\n").encode())
    return path


def read_spec(path: Path) -> tuple[Job, Path]:
    """Reads a spec; gives the job and the run's folder that it lies in."""
    return Job.from_dict(json.loads(path.read_text())), path.resolve().parents[2]


def write_result(output: Path, job: Job, figures: Mapping[str, Any]) -> None:
    """Writes a job's result whole; from then on the job is done."""
    result = {"id": job.id, "job": job.to_dict(), **figures}
    folder_of(output, job).mkdir(parents=True, exist_ok=True)
    write_whole(folder_of(output, job) / RESULT_NAME, (json.dumps(result, indent=2) + "\n").encode())


def read_result(output: Path, job: Job) -> dict[str, Any] | None:
    """A job's result, or None where there is none, or one that is not this job's."""
    result = _read_json(folder_of(output, job) / RESULT_NAME)
    return result if result is not None and result.get("id") == job.id else None


def forget_result(output: Path, job: Job) -> None:
    """Makes a finished job one to be done."""
    (folder_of(output, job) / RESULT_NAME).unlink(missing_ok=True)


def read_progress(output: Path, job: Job) -> dict[str, Any]:
    """The stage a running job is in, with how much of it is done, its total and the loss; empty before the first."""
    return _read_json(folder_of(output, job) / PROGRESS_NAME) or {}


def log_tail(output: Path, job: Job, lines: int = 6) -> str:
    """The last lines of a job's log."""
    try:
        text = (folder_of(output, job) / LOG_NAME).read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
