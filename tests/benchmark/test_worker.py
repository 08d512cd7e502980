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
from benchmark.jobs import (
    EXIT_BUSY,
    EXIT_RETRY,
    LOCK_NAME,
    job_folder,
    read_progress,
    read_result,
    write_result,
    write_spec,
)
from benchmark.worker import progress_file
from tests.benchmark.fake_jobs import make_job


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return write_spec(tmp_path, make_job())


def give(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[Any]:
    """Puts a job that fails, or does nothing but write its result, in the place of the real one."""
    runs = []

    def run_job(job: Any, output: Path, **options: Any) -> None:
        runs.append({**options, "deterministic": torch.are_deterministic_algorithms_enabled()})
        options["progress"]("teacher", 1, 2, 0.5)
        if error is not None:
            raise error
        write_result(output, job, {"figures": {}})

    monkeypatch.setattr(experiment, "run_job", run_job)
    return runs


def test_a_job_is_run_once_and_leaves_no_progress(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = give(monkeypatch)
    with filelock.FileLock(spec.with_name(LOCK_NAME)):
        assert worker.main([str(spec)]) == EXIT_BUSY
    try:
        assert worker.main([str(spec), "--device", "cpu", "--deterministic"]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert read_result(tmp_path, make_job()) is not None
    assert read_progress(tmp_path, make_job()) == {}
    assert worker.main([str(spec)]) == 0
    assert [(run["device"], run["deterministic"]) for run in runs] == [("cpu", True)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a wrong value"), 1),
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("shapes do not fit"), 1),
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
    error_file = job_folder(tmp_path, make_job()) / "error.txt"
    assert type(error).__name__ in error_file.read_text()
    assert read_result(tmp_path, make_job()) is None
    give(monkeypatch)
    assert worker.main([str(spec)]) == 0
    assert not error_file.exists()


def test_progress_is_written_at_changes_and_not_too_often(tmp_path: Path) -> None:
    progress, written = progress_file(tmp_path), []
    for stage, done in (("teacher", 1), ("teacher", 2), ("teacher", 5), ("student", 1)):
        progress(stage, done, 5, 0.5)
        written.append(json.loads((tmp_path / "progress.json").read_text()))
    assert [(state["stage"], state["done"]) for state in written] == [
        ("teacher", 1), ("teacher", 1), ("teacher", 5), ("student", 1)
    ]  # fmt: skip
    progress_file(tmp_path / "not there")("teacher", 1, 2)  # as on a full disk: it does not stop the job


def test_ends_with_its_parent_and_after_its_time(tmp_path: Path) -> None:
    """Workers whose job sleeps, as processes."""
    code = (
        "import sys, time, types; from benchmark import worker\n"
        "run_job = lambda *args, **options: [print('at work', flush=True), time.sleep(60)]\n"
        "sys.modules['benchmark.experiment'] = types.SimpleNamespace(run_job=run_job)\n"
        "sys.exit(worker.main())"
    )
    with contextlib.ExitStack() as stack:
        processes = []
        for seed, options in enumerate((["--with-parent"], ["--timeout", "10"])):
            command = [sys.executable, "-c", code, str(write_spec(tmp_path, make_job(seed=seed))), *options]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes.append(subprocess.Popen(command, **pipes))  # type: ignore[call-overload]
            stack.callback(processes[-1].kill)
        orphan, late = processes
        assert orphan.stdout.readline() == b"at work\n"
        orphan.stdin.close()
        assert orphan.wait(300) == EXIT_RETRY
        assert b"Timeout" in late.stderr.read()
        assert late.wait(300) == 1
