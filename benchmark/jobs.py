"""A job: one detector to train and evaluate, as a JSON spec with a stable id; its result file is the done marker."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ast_hf.checkpoint import write_whole
from ast_hf.config import ASTDetectorConfig, TrainingRecipe

RESULT_NAME = "result.json"


@dataclass(frozen=True)
class Job:
    """What to train and evaluate.

    Attributes:
        dataset: A name of `benchmark.datasets.DATASETS`.
        category: One of its categories.
        seed: Of initial weights and order.
        preset: The preset that `config` and `recipe` started from, for the reader.
        config: `ASTDetectorConfig.to_dict()`.
        recipe: `TrainingRecipe.to_dict()`.
        data_root: Where the datasets are; not part of the id.
        backbone_weights: "pretrained" or a path; not part of the id (the result records the weights' SHA-256).
    """

    dataset: str
    category: str
    seed: int
    preset: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    data_root: str
    backbone_weights: str

    @property
    def id(self) -> str:
        """Readable and stable: the same job has the same id on every machine and at every time."""
        what = (self.dataset, self.category, self.seed, self.config, self.recipe)
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.category}-seed{self.seed}-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Reads what `to_dict` wrote."""
        return cls(**values)


def make_job(
    dataset: str,
    category: str,
    seed: int,
    *,
    preset: str,
    config: ASTDetectorConfig,
    recipe: TrainingRecipe,
    data_root: Path,
    backbone_weights: str,
) -> Job:
    """A job from typed settings."""
    return Job(dataset, category, seed, preset, config.to_dict(), recipe.to_dict(), str(data_root), backbone_weights)


def folder_of(output: Path, job: Job) -> Path:
    """Where a job's files go."""
    return output / "jobs" / job.id


def write_result(output: Path, job: Job, figures: Mapping[str, Any]) -> None:
    """Writes a job's result whole; from then on the job is done."""
    result = {"id": job.id, "job": job.to_dict(), **figures}
    folder_of(output, job).mkdir(parents=True, exist_ok=True)
    write_whole(folder_of(output, job) / RESULT_NAME, (json.dumps(result, indent=2) + "\n").encode())


def read_result(output: Path, job: Job) -> dict[str, Any] | None:
    """A job's result, or None where there is none, or one that is not this job's."""
    try:
        result = json.loads((folder_of(output, job) / RESULT_NAME).read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("id") == job.id else None
