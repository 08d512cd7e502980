"""The worker's contract with the launchers: locks, exit statuses, progress, and when it ends itself."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch

from benchmark import experiment, worker
from benchmark.jobs import LOCK_NAME, folder_of, read_progress, read_result, write_result, write_spec
from benchmark.worker import EXIT_BUSY, EXIT_FAILED, EXIT_RETRY, ProgressFile
from tests.benchmark.fake_jobs import make_job


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return write_spec(tmp_path, make_job())


def give(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[Any]:
    """Puts a job that fails, or does nothing but write its result, in the place of the real one."""
    runs = []

    def run_job(job: Any, output: Path, **options: Any) -> None:
        runs.append(options)
        options["progress"]("teacher", 1, 2, 0.5)
        if error is not None:
            raise error
        write_result(output, job, {"figures": {}})

    monkeypatch.setattr(experiment, "run_job", run_job)
    return runs


def test_runs_the_job_and_leaves_no_progress(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = give(monkeypatch)
    assert worker.main([str(spec), "--device", "cpu"]) == 0
    assert runs[0]["device"] == "cpu"
    assert read_result(tmp_path, make_job()) is not None
    assert read_progress(tmp_path, make_job()) == {}


def test_a_finished_job_is_left_alone(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = give(monkeypatch)
    write_result(tmp_path, make_job(), {"figures": {}})
    assert worker.main([str(spec)]) == 0
    assert not runs


def test_a_locked_job_is_busy(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = give(monkeypatch)
    with filelock.FileLock(spec.with_name(LOCK_NAME)):
        assert worker.main([str(spec)]) == EXIT_BUSY
    assert not runs
    assert worker.main([str(spec)]) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a wrong value"), EXIT_FAILED),
        (OSError(28, "No space left on device"), EXIT_FAILED),
        (RuntimeError("shapes do not fit"), EXIT_FAILED),
        (MemoryError(), EXIT_RETRY),
        (torch.OutOfMemoryError("CUDA out of memory"), EXIT_RETRY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), EXIT_RETRY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EXIT_RETRY),
    ],
)
def test_what_failed_says_whether_another_try_may_help(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    give(monkeypatch, error)
    assert worker.main([str(spec)]) == status
    text = (folder_of(tmp_path, make_job()) / "error.txt").read_text()
    assert type(error).__name__ in text
    assert read_result(tmp_path, make_job()) is None
    give(monkeypatch)
    assert worker.main([str(spec)]) == 0
    assert not (folder_of(tmp_path, make_job()) / "error.txt").exists()


def test_deterministic_algorithms(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    give(monkeypatch)
    worker.main([str(spec), "--deterministic"])
    assert asked == [True]


def test_progress_is_written_at_changes_and_not_too_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(worker, "write_whole", lambda path, data: written.append(json.loads(data)))
    progress = ProgressFile(tmp_path)
    for step in range(1, 6):
        progress("teacher", step, 5, 1.0 / step)
    progress("student", 1, 5, 0.5)
    assert [(state["stage"], state["done"]) for state in written] == [("teacher", 1), ("teacher", 5), ("student", 1)]


def test_progress_on_a_full_disk_does_not_stop_the_job(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "not there")("teacher", 1, 2)
    assert not list(tmp_path.iterdir())


def hanging_worker(*options: str) -> subprocess.Popen[bytes]:
    """A worker whose job sleeps, as a process."""
    code = (
        "import sys, time; from benchmark import worker, jobs, experiment\n"
        "worker.read_spec = lambda path: (None, path)\n"
        "worker.folder_of = lambda output, job: output.parent\n"
        "worker.read_result = lambda output, job: None\n"
        "worker._attempt = lambda *args, **options: [print('at work', flush=True), time.sleep(60)]\n"
        "sys.exit(worker.main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_ends_with_its_parent_and_after_its_time(tmp_path: Path) -> None:
    spec = str(tmp_path / "job.json")
    orphan = hanging_worker(spec, "--with-parent")
    (tmp_path / "other").mkdir()
    late = hanging_worker(str(tmp_path / "other" / "job.json"), "--timeout", "0.5")
    assert orphan.stdout is not None
    assert orphan.stdin is not None
    assert late.stdout is not None
    with contextlib.ExitStack() as stack:
        stack.callback(orphan.kill)
        stack.callback(late.kill)
        assert orphan.stdout.readline() == b"at work\n"
        orphan.stdin.close()
        assert orphan.wait(300) == EXIT_RETRY
        output = late.stdout.read()
        assert late.wait(300) == EXIT_FAILED
        assert b"Timeout" in output
