"""Runs that are killed, that share a folder, or that have no room: whole processes, slow."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmark import tiny_run

pytestmark = pytest.mark.slow
CATEGORIES = ("bottle", "cable")
SEEDS = ("0", "1", "2")
JOBS = len(CATEGORIES) * len(SEEDS)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A run of six jobs, two at a time."""
    command = tiny_run.command(tmp_path)
    tiny_run.write_category(tmp_path / "data" / "mvtec_ad" / "cable")
    return [sys.executable, "-m", "benchmark.run", *command, "--seeds", *SEEDS, "--jobs-per-device", "2"]


def environment(folder: Path) -> dict[str, str]:
    """One with a feature cache of its own."""
    return {**os.environ, "AST_HF_HOME": str(folder / "home")}


def with_output(command: list[str], output: Path) -> list[str]:
    return [*command, "--output", str(output)]


def finish(command: list[str], output: Path) -> subprocess.CompletedProcess[str]:
    command = with_output(command, output)
    return subprocess.run(command, env=environment(output.parent), capture_output=True, text=True, timeout=900)


def workers(output: Path) -> list[int]:
    """Processes whose command line names a job of this run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"benchmark.worker" in line and str(output).encode() in line:
                found.append(int(entry.name))
    return found


def results(output: Path) -> dict[str, tuple[int, int]]:
    """The finished jobs, each with what changes when its result is written again."""
    found = {}
    for path in output.glob("jobs/*/result.json"):
        state = path.stat()
        found[path.parent.name] = (state.st_ino, state.st_mtime_ns)
    return found


def test_killed_twenty_times_it_gives_the_same_tables_and_does_nothing_twice(
    command: list[str], tmp_path: Path
) -> None:
    """Workers and launchers are killed at random moments; whenever a run is whole, the next begins in a new folder."""
    command += ["--deterministic", "--retries", "20"]
    started = time.monotonic()
    assert finish(command, tmp_path / "a" / "run").returncode == 0
    whole = time.monotonic() - started
    chance = random.Random(0)
    kills = {"launcher": 0, "worker": 0}
    output, process, done = tmp_path / "0" / "run", None, dict[str, tuple[int, int]]()
    while sum(kills.values()) < 20:
        if len(done) == JOBS:
            check_whole(command, output, tmp_path / "a" / "run")
            output, process, done = tmp_path / str(sum(kills.values())) / "run", None, {}
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                with_output(command, output), env=environment(output.parent), stderr=subprocess.DEVNULL
            )
        time.sleep(chance.uniform(0, whole / 3))
        victims = workers(output)
        if victims and chance.random() < 0.6:
            os.kill(chance.choice(victims), signal.SIGKILL)
            kills["worker"] += 1
        elif process.poll() is None:
            process.kill()
            process.wait()
            kills["launcher"] += 1
        assert done.items() <= results(output).items(), "a finished job was done again"
        done = results(output)
    if process is not None:
        process.kill()
        process.wait()
    check_whole(command, output, tmp_path / "a" / "run")
    assert min(kills.values()) >= 3, kills
    deadline = time.monotonic() + 60
    while workers(tmp_path):
        assert time.monotonic() < deadline, "a worker outlived its launcher"
        time.sleep(0.2)


def check_whole(command: list[str], output: Path, undisturbed: Path) -> None:
    """Finishes a run and compares it with one that nothing disturbed."""
    done = results(output)
    last = finish(command, output)
    assert last.returncode == 0, last.stderr
    assert done.items() <= results(output).items(), "a finished job was done again"
    assert len(results(output)) == JOBS
    for name in ("tables.md", "tables.tex", "results.csv"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_two_launchers_share_one_folder(command: list[str], tmp_path: Path) -> None:
    output = tmp_path / "a" / "run"
    pair = [
        subprocess.Popen(
            with_output(command, output), env=environment(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=900) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    assert told[0][0] == told[1][0]
    assert len(results(output)) == JOBS
    for log in output.glob("jobs/*/log.txt"):
        assert log.read_text().count(", process ") == 1, "a job was started twice"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder])


def test_a_full_disk_is_a_sentence_and_room_mends_it(command: list[str], small_disk: Path) -> None:
    output = small_disk / "run"
    full = finish(command, output)
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr.replace("    Traceback", "")  # but for those of the jobs' logs
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert finish(command, output).returncode == 0
    assert len(results(output)) == JOBS


def test_a_ray_cluster_that_loses_a_node_finishes(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        output = tmp_path / "a" / "run"
        options = ["--launcher", "ray", "--launcher-options", f"address={cluster.address}"]
        process = subprocess.Popen(
            with_output([*command, *options], output),
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 300
        while len(workers(output)) < 2 or not results(output):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no two jobs run side by side"
            time.sleep(0.2)
        cluster.remove_node(second, allow_graceful=False)
        _, told = process.communicate(timeout=900)
        assert process.returncode == 0, told
        assert len(results(output)) == JOBS
    finally:
        cluster.shutdown()
