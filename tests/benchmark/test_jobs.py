"""Job ids and the files of a job's folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmark.jobs import Job, forget, job_folder, read_progress, read_result, read_spec, write_result, write_spec
from tests.benchmark.fake_jobs import make_job


def test_ids_are_stable_and_cover_what_changes_the_result() -> None:
    job = make_job()
    assert Job(**json.loads(json.dumps(dataclasses.asdict(job)))).id == job.id
    for same in ({"data_root": "elsewhere"}, {"backbone_weights": "/moved"}, {"preset": "other"}):
        assert dataclasses.replace(job, **same).id == job.id
    others = [
        {"seed": 1}, {"category": "cable"}, {"recipe": {"epochs": 1}}, {"variant": "no mask"}, {"data": "synthetic"},
        {"backbone_digest": "abc"}, {"config": {"modality": "depth"}}, {"dataset": "visa"},
    ]  # fmt: skip
    assert len({job.id, *(dataclasses.replace(job, **other).id for other in others)}) == len(others) + 1
    own = make_job(dataset="folder")  # which is known by where it lies
    assert dataclasses.replace(own, data_root="elsewhere").id != own.id


def test_an_id_is_a_plain_file_name() -> None:
    name = make_job(category="../Teile \n/ä", config={"modality": "rgb+depth"}).id
    assert not {"/", "\n"} & set(name)
    assert "ä" in name


def test_a_spec_comes_back_with_the_runs_folder(tmp_path: Path) -> None:
    assert read_spec(write_spec(tmp_path, make_job())) == (make_job(), tmp_path.resolve())


def test_only_the_jobs_own_whole_result_counts_until_it_is_forgotten(tmp_path: Path) -> None:
    job, folder = make_job(), job_folder(tmp_path, make_job())
    assert read_result(tmp_path, job) is None
    write_result(tmp_path, job, {"figures": {"image_auroc": 1.0}})
    result = read_result(tmp_path, job)
    assert result is not None
    assert result["figures"] == {"image_auroc": 1.0}
    for damaged in (json.dumps(result)[:40], json.dumps({**result, "id": "another"}), "[]", "\x00"):
        (folder / "result.json").write_text(damaged)
        assert read_result(tmp_path, job) is None
    (folder / "model").mkdir()
    forget(tmp_path, job)
    forget(tmp_path, job)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_progress_that_is_not_there_or_damaged_is_none(tmp_path: Path, content: str | None) -> None:
    folder = write_spec(tmp_path, make_job()).parent
    if content is not None:
        (folder / "progress.json").write_text(content)
    assert read_progress(tmp_path, make_job()) == {}
