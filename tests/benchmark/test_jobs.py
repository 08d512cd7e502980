"""Job ids and the files of a job's folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmark.jobs import (
    Job,
    folder_of,
    forget_result,
    log_tail,
    read_progress,
    read_result,
    read_spec,
    write_result,
    write_spec,
)
from tests.benchmark.fake_jobs import make_job


def test_ids_are_stable_and_cover_what_changes_the_result() -> None:
    job = make_job()
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))).id == job.id
    for same in ({"data_root": "elsewhere"}, {"backbone_weights": "/moved"}, {"preset": "other"}):
        assert dataclasses.replace(job, **same).id == job.id
    others = [
        {"seed": 1}, {"category": "cable"}, {"recipe": {"epochs": 1}}, {"variant": "no mask"}, {"data": "synthetic"},
        {"backbone_digest": "abc"}, {"config": {"modality": "depth"}}, {"dataset": "visa"},
    ]  # fmt: skip
    assert len({job.id, *(dataclasses.replace(job, **other).id for other in others)}) == len(others) + 1


def test_own_data_are_known_by_their_folder() -> None:
    job = make_job(dataset="folder")
    assert dataclasses.replace(job, data_root="elsewhere").id != job.id


def test_an_id_is_a_plain_file_name() -> None:
    name = make_job(category="../Teile \n/ä", config={"modality": "rgb+depth"}).id
    assert "/" not in name
    assert "\n" not in name
    assert "ä" in name


def test_a_spec_comes_back_with_the_runs_folder(tmp_path: Path) -> None:
    path = write_spec(tmp_path, make_job())
    assert read_spec(path) == (make_job(), tmp_path.resolve())


def test_only_the_jobs_own_whole_result_counts(tmp_path: Path) -> None:
    job = make_job()
    assert read_result(tmp_path, job) is None
    write_result(tmp_path, job, {"figures": {"image_auroc": 1.0}})
    result = read_result(tmp_path, job)
    assert result is not None
    assert result["figures"] == {"image_auroc": 1.0}
    path = folder_of(tmp_path, job) / "result.json"
    for damaged in (path.read_text()[:40], json.dumps({**result, "id": "another"}), "[]", "\x00"):
        path.write_text(damaged)
        assert read_result(tmp_path, job) is None
    forget_result(tmp_path, job)
    forget_result(tmp_path, job)
    assert not path.exists()


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_progress_that_is_not_there_or_damaged_is_none(tmp_path: Path, content: str | None) -> None:
    job = make_job()
    folder_of(tmp_path, job).mkdir(parents=True)
    if content is not None:
        (folder_of(tmp_path, job) / "progress.json").write_text(content)
    assert read_progress(tmp_path, job) == {}


def test_log_tail(tmp_path: Path) -> None:
    assert log_tail(tmp_path, make_job()) == ""
    folder_of(tmp_path, make_job()).mkdir(parents=True)
    (folder_of(tmp_path, make_job()) / "log.txt").write_bytes(b"one\ntwo \xff\nthree\n")
    assert log_tail(tmp_path, make_job(), lines=2) == "two \ufffd\nthree"
