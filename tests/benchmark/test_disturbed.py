"""Runs that are killed, that share a folder, or that have no room: whole processes, slow."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmark import tiny_run

pytestmark = pytest.mark.slow
JOBS = 6


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """Starts a run of six jobs, two at a time, into a folder, with a feature cache beside it."""
    command = tiny_run.command(tmp_path)
    tiny_run.write_category(tmp_path / "data" / "mvtec_ad" / "cable")
    command = [sys.executable, "-m", "benchmark.run", *command, "--seeds", "0", "1", "2", "--jobs-per-device", "2"]

    def start(output: Path, *options: str) -> subprocess.Popen[str]:
        output.parent.mkdir(exist_ok=True)
        environment = {**os.environ, "AST_HF_HOME": str(output.parent / "home")}
        with (output.parent / "stderr.txt").open("a") as file:
            arguments = [*command, *options, "--output", str(output)]
            return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=file, text=True)

    return start


def workers(output: Path) -> list[int]:
    """Processes whose command line names a job of this run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"benchmark.worker" in line and str(output).encode() in line:
                found.append(int(entry.name))
    return found


def results(output: Path) -> dict[str, int]:
    """The finished jobs, each with what changes when its result is written again."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("jobs/*/result.json")}


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_killed_twenty_times_it_gives_the_same_tables_and_does_nothing_twice(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Workers and launchers are killed at random moments; whenever a run is whole, the next begins in a new folder."""
    options = ("--deterministic", "--retries", "20")
    started, undisturbed = time.monotonic(), tmp_path / "whole" / "run"
    assert start(undisturbed, *options).wait(900) == 0
    whole = time.monotonic() - started

    def finish(output: Path) -> None:
        done = results(output)
        assert start(output, *options).wait(900) == 0
        assert done.items() <= results(output).items(), "a finished job was done again"
        assert len(results(output)) == JOBS
        for name in ("tables.md", "tables.tex", "results.csv"):
            assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name

    chance, kills = random.Random(0), {"launcher": 0, "worker": 0}
    output = tmp_path / "0" / "run"
    process, done = start(output, *options), dict[str, int]()
    while sum(kills.values()) < 20:
        if len(done) == JOBS:
            finish(output)
            output, done = tmp_path / str(sum(kills.values())) / "run", {}
        if process.poll() is not None:
            process = start(output, *options)
        time.sleep(chance.uniform(0, whole / 3))
        victims = workers(output)
        if victims and chance.random() < 0.6:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills["worker"] += 1
        elif process.poll() is None:
            process.kill()
            process.wait()
            kills["launcher"] += 1
        assert done.items() <= results(output).items(), "a finished job was done again"
        done = results(output)
    process.kill()
    process.wait()
    finish(output)
    assert min(kills.values()) >= 3, kills
    wait_until(lambda: not workers(tmp_path), "a worker outlived its launcher", 60)


def test_two_launchers_share_one_folder(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    output = tmp_path / "a" / "run"
    pair = [start(output), start(output)]
    told = [process.communicate(timeout=900)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert told[0] == told[1]
    assert len(results(output)) == JOBS
    for log in output.glob("jobs/*/log.txt"):
        assert log.read_text().count(", process ") == 1, "a job was started twice"


def test_a_full_disk_is_a_sentence_and_room_mends_it(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    disk, mount = tmp_path / "disk", shutil.which("mount")
    (disk / "run").mkdir(parents=True)
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk / "run"]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", disk / "run"]))
    assert start(disk / "run").wait(900) == 1
    told = (disk / "stderr.txt").read_text()
    assert "No space left on device" in told
    assert "Traceback" not in told.replace("    Traceback", "")  # but for those of the jobs' logs
    subprocess.run(["mount", "-o", "remount,size=50m", disk / "run"], check=True)
    assert start(disk / "run").wait(900) == 0
    assert len(results(disk / "run")) == JOBS


def test_a_ray_cluster_that_loses_a_node_finishes(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster, output = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}), tmp_path / "a" / "run"
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        process = start(output, "--launcher", "ray", "--launcher-options", f"address={cluster.address}")
        is_under_way = lambda: process.poll() is not None or (len(workers(output)) > 1 and bool(results(output)))  # noqa: E731
        wait_until(is_under_way, "no two jobs run side by side")
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(900) == 0, (tmp_path / "a" / "stderr.txt").read_text()
        assert len(results(output)) == JOBS
    finally:
        cluster.shutdown()
