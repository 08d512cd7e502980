"""A job: one detector to train and evaluate, of AST or a variant, as a JSON spec with a stable id; its folder in a run.

`OUTPUT/jobs/ID/` holds `job.json` (the spec), `log.txt`, `progress.json` while it runs, `error.txt` where it failed,
`model/` once it is trained, and all that it gave. `result.json` comes last and whole: where it is, the job is done.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ast_hf.config import PRETRAINED
from ast_hf.files import write_atomic
from benchmark.datasets import DATASETS

SPEC_NAME = "job.json"
RESULT_NAME = "result.json"
PROGRESS_NAME = "progress.json"
LOG_NAME = "log.txt"
LOCK_NAME = ".lock"
MODEL_NAME = "model"
# Exit statuses of a worker, beside 0 (the result is there) and 1 (the job failed and would fail again).
EXIT_BUSY = 73  # another worker has the job
EXIT_RETRY = 75  # EX_TEMPFAIL: another try may succeed

AST, RANDOM_TRUNK, RAW_PATCHES = "AST", "random trunk", "raw patches"
SYMMETRIC = {"symmetric student": 1, "symmetric student, 8 blocks": 2}  # by how many times the teacher's depth
_PATCHES = {"backbone": "raw_patches", "backbone_layer": "patches", "backbone_padding": None, "feature_channels": 192}
# AST with one thing changed: name -> the fields of the configuration that differ. Those of the paper (Rudolph et al.,
# WACV 2023, tables 5 to 7; "teacher only" needs no run of its own, as every job reports its teacher's figures), and
# what the trunk's training is worth: its own weights before it, and no trunk at all.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    AST: {},
    **{name: {} for name in SYMMETRIC},
    "no positional encoding": {"position_channels": 0},
    "no mask": {"foreground_dilation": 0},
    **{f"{n} residual block{'s' * (n > 1)}": {"student_blocks": n} for n in (1, 2, 8, 12)},
    RANDOM_TRUNK: {},
    RAW_PATCHES: _PATCHES,
}


@dataclass(frozen=True)
class Job:
    dataset: str  # a name of `benchmark.datasets.DATASETS`
    category: str  # one of its categories
    seed: int  # of initial weights and order
    config: Mapping[str, Any]  # `ASTDetectorConfig.to_dict()`
    recipe: Mapping[str, Any]  # `TrainingRecipe.to_dict()`
    data_root: str  # where the datasets are; part of the id for a user's own data only, which have no other name
    preset: str = ""  # what `config` and `recipe` started from, for the reader
    variant: str = AST  # or the name of an ablation (`VARIANTS`)
    data: str = "files"  # or "synthetic" for drawn data, whose figures are comparable with nothing published
    backbone_weights: str = PRETRAINED  # or the path of a file
    backbone_digest: str = ""  # SHA-256 of that file; its path is not part of the id, this is
    good: str = ""  # what a user's own folders of good parts are called, if unusually (`list_categories`)

    @property
    def id(self) -> str:
        """Readable and stable: the same job has the same id on every machine and at every time."""
        what = dataclasses.asdict(self)
        del what["preset"], what["backbone_weights"]
        if not self.good:  # as in ids from before there was this field
            del what["good"]
        if DATASETS[self.dataset].categories:
            del what["data_root"]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        words = (self.dataset, self.category, self.config["modality"], f"seed{self.seed}", digest)
        return "-".join(re.sub(r"[^\w.+]+", "_", word) for word in words)


def job_folder(output: Path, job: Job) -> Path:
    return output / "jobs" / job.id


def write_spec(output: Path, job: Job) -> Path:
    """Writes a job's spec into its folder, for a worker to read; gives the file."""
    return _write_json(job_folder(output, job) / SPEC_NAME, dataclasses.asdict(job))


def read_spec(path: Path) -> tuple[Job, Path]:
    """Reads a spec; gives the job and the run's folder that it lies in."""
    return Job(**json.loads(path.read_text())), path.resolve().parents[2]


def write_result(output: Path, job: Job, figures: Mapping[str, Any]) -> None:
    """Writes a job's result whole; from then on the job is done."""
    _write_json(job_folder(output, job) / RESULT_NAME, {"id": job.id, "job": dataclasses.asdict(job), **figures})


def read_result(output: Path, job: Job) -> dict[str, Any] | None:
    """A job's result, or None where there is none, or one that is not this job's."""
    result = _read_json(job_folder(output, job) / RESULT_NAME)
    return result if result.get("id") == job.id else None


def forget(output: Path, job: Job) -> None:
    """Makes a finished job, or one that is trained already, one to be done from the start."""
    (job_folder(output, job) / RESULT_NAME).unlink(missing_ok=True)
    shutil.rmtree(job_folder(output, job) / MODEL_NAME, ignore_errors=True)


def read_progress(output: Path, job: Job) -> dict[str, Any]:
    """The stage a running job is in, with how much of it is done, its total and the loss; empty before the first."""
    return _read_json(job_folder(output, job) / PROGRESS_NAME)


def _write_json(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
