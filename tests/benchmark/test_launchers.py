"""The launchers on real processes; Ray and Slurm's local executor where they are installed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmark.launch import Handle
from benchmark.launchers import (
    LaunchError,
    LocalLauncher,
    SlurmHandle,
    SlurmLauncher,
    end_process,
    local_devices,
    make_launcher,
)
from benchmark.worker import EXIT_RETRY


def script(code: str) -> Sequence[str]:
    """Arguments of Python that run some code, with what the launcher adds to them in `sys.argv`."""
    return ["-c", f"import os, sys, time; {code}"]


def wait(handle: Handle, seconds: float = 300) -> int:
    end = time.monotonic() + seconds
    while (status := handle.poll()) is None:
        assert time.monotonic() < end, "the worker does not end"
        time.sleep(0.02)
    return status


def test_local_workers_have_a_device_each_and_a_log(tmp_path: Path) -> None:
    launcher = LocalLauncher(["cuda:0", "cuda:1"])
    code = "print(sys.argv[1:]); sys.exit(3)"
    handles = [launcher.start(script(code), tmp_path / f"{i}.txt") for i in range(2)]
    assert [wait(handle) for handle in handles] == [3, 3]
    assert wait(launcher.start(script(code), tmp_path / "0.txt")) == 3  # a device is free again
    logs = [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    assert "'--device', 'cuda:0', '--with-parent'" in logs[0]
    assert "cuda:1" in logs[1]
    assert logs[0].count("\n") == 2  # a second try is added to the log


def test_local_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    launcher = LocalLauncher(["cpu", "cpu"])
    wait(launcher.start(script("print(os.environ['OMP_NUM_THREADS'])"), tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text() == "4\n"


def test_stopping_ends_a_worker_that_does_not_want_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.launchers._STOP_SECONDS", 0.5)
    launcher = LocalLauncher(["cpu"])
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    handle = launcher.start(script(code), tmp_path / "log.txt")
    while "up" not in (tmp_path / "log.txt").read_text():
        time.sleep(0.02)
    handle.stop()
    assert wait(handle) == -9
    handle.stop()


def test_a_device_is_free_again_where_a_start_failed(tmp_path: Path) -> None:
    launcher = LocalLauncher(["cpu"])
    with pytest.raises(OSError, match="not there"):
        launcher.start(script("pass"), tmp_path / "not there" / "log.txt")
    assert wait(launcher.start(script("pass"), tmp_path / "log.txt")) == 0


def test_local_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_devices("cuda:3") == ["cuda:3"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert local_devices(None) == local_devices("cuda") == ["cuda:0", "cuda:1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_devices(None) == ["cpu"]
    with pytest.raises(LaunchError, match="no CUDA device"):
        local_devices("cuda")


def test_wrong_options_are_sentences(tmp_path: Path) -> None:
    settings = {"device": "cpu", "jobs_per_device": 1}
    with pytest.raises(LaunchError, match="takes no --launcher-options"):
        make_launcher("local", tmp_path, options={"gpus": 1}, **settings)  # type: ignore[arg-type]
    pytest.importorskip("submitit")
    with pytest.raises(LaunchError, match="Slurm cannot be used"):
        make_launcher("slurm", tmp_path, options={}, **settings)  # type: ignore[arg-type]


def test_end_process_of_one_that_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    end_process(process)
    assert process.returncode == 0  # its own, not that of a signal


def test_slurm_by_its_local_executor(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launcher = SlurmLauncher(tmp_path / "slurm", cluster="local", gpus_per_node=0)
    handles = [launcher.start(script(f"print('ran'); sys.exit({status})"), tmp_path / "log.txt") for status in (0, 75)]
    assert [wait(handle) for handle in handles] == [0, EXIT_RETRY]
    assert (tmp_path / "log.txt").read_text() == "ran\nran\n"


def test_slurm_jobs_are_cancelled_and_lost_ones_tried_again() -> None:
    class Job:
        cancelled = False

        def cancel(self, check: bool) -> None:
            self.cancelled = not check

        def done(self) -> bool:
            return self.cancelled

        def result(self) -> int:
            raise TimeoutError("the node failed")

    job = Job()
    handle = SlurmHandle(job, TimeoutError)
    assert handle.poll() is None
    handle.stop()
    assert job.cancelled
    assert handle.poll() == EXIT_RETRY
