"""The launchers on real processes; Ray and Slurm's local executor where they are installed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.jobs import EXIT_RETRY
from benchmark.launch import Handle, LaunchError
from benchmark.launchers import LocalLauncher, SlurmLauncher, end_process, local_devices, make_launcher


def script(code: str) -> Sequence[str]:
    """Arguments of Python that run some code, with what the launcher adds to them in `sys.argv`."""
    return ["-c", f"import os, sys, time; {code}"]


def wait(handle: Handle, seconds: float = 300) -> int:
    end = time.monotonic() + seconds
    while (status := handle.poll()) is None:
        assert time.monotonic() < end, "the worker does not end"
        time.sleep(0.02)
    return status


def test_local_workers_have_a_device_a_log_and_their_share_of_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher = LocalLauncher(["cuda:0", "cuda:1"])
    with pytest.raises(OSError, match="not there"):  # leaves the device free
        launcher.start(script("pass"), tmp_path / "not there" / "log.txt")
    code = "print(os.environ['OMP_NUM_THREADS'], sys.argv[1:]); sys.exit(3)"
    handles = [launcher.start(script(code), tmp_path / f"{i}.txt") for i in range(2)]
    assert [wait(handle) for handle in handles] == [3, 3]
    assert wait(launcher.start(script(code), tmp_path / "0.txt")) == 3  # a device is free again
    logs = [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    assert logs[0].startswith("4 ['--device', 'cuda:0', '--with-parent']\n4")  # a second try is added to the log
    assert "cuda:1" in logs[1]


def test_stopping_ends_a_worker_that_does_not_want_to(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    end_process(process, grace_seconds=0.5)
    assert process.returncode == -9
    handle = LocalLauncher(["cpu"]).start(script("sys.exit(5)"), tmp_path / "log.txt")
    assert wait(handle) == 5
    handle.stop()
    assert handle.poll() == 5  # its own, not that of a signal


def test_local_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_devices("cuda:3") == ["cuda:3"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert local_devices(None) == local_devices("cuda") == ["cuda:0", "cuda:1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_devices(None) == ["cpu"]
    with pytest.raises(LaunchError, match="no CUDA device"):
        local_devices("cuda")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local", {"gpus": 1}, "takes no --launcher-options"),
        ("ray", {"gpu": 1}, "not gpu=1"),
        ("ray", {"gpus": "all"}, "not gpus=all"),
        ("ray", {"address": "foo"}, "no Ray cluster at foo"),
        ("slurm", {}, "Slurm cannot be used"),
        ("slurm", {"cluster": "nowhere"}, "nowhere"),
        ("slurm", {"cluster": "local", "slurm_colour": 1}, "slurm_colour"),
        ("slurm", {"cluster": "local", "timeout_min": "soon"}, "timeout_min"),
        ("slurm", {"cluster": "local", "slots": "many"}, "many"),
        ("slurm", {"cluster": "local", "slots": 0}, "lets no job start"),
    ],
)
def test_wrong_options_are_sentences(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    pytest.importorskip({"slurm": "submitit"}.get(name, name) if name != "local" else "sys")
    with pytest.raises(LaunchError, match=message):
        make_launcher(name, tmp_path, device="cpu", jobs_per_device=1, options=options)


def test_slurm_by_its_local_executor(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launcher = SlurmLauncher(tmp_path / "slurm", {"cluster": "local", "gpus_per_node": 0})
    handles = [launcher.start(script(f"print('ran'); sys.exit({status})"), tmp_path / "log.txt") for status in (0, 75)]
    assert [wait(handle) for handle in handles] == [0, EXIT_RETRY]
    assert (tmp_path / "log.txt").read_text() == "ran\nran\n"


def test_slurm_jobs_are_cancelled_and_lost_ones_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    errors, cancelled = submitit.core.utils, list[bool]()

    def lost() -> int:
        raise errors.UncompletedJobError("the node failed")

    job = SimpleNamespace(done=lambda: bool(cancelled), cancel=lambda check: cancelled.append(check), result=lost)
    monkeypatch.setattr(submitit.AutoExecutor, "submit", lambda self, *args: job)
    launcher = SlurmLauncher(tmp_path / "slurm", {"cluster": "local"})
    handle = launcher.start([], tmp_path / "log.txt")
    assert handle.poll() is None
    handle.stop()
    assert handle.poll() == EXIT_RETRY

    def refuse(self: Any, *args: Any) -> None:
        raise errors.FailedJobError("invalid partition")

    monkeypatch.setattr(submitit.AutoExecutor, "submit", refuse)
    with pytest.raises(LaunchError, match=r"sbatch refuses it \(invalid partition\)"):
        launcher.start([], tmp_path / "log.txt")
