"""What becomes of jobs: started once, tried again where it helps, failed with a reason, kept when stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import launch
from benchmark.jobs import EXIT_BUSY, EXIT_RETRY, job_folder, read_result, write_result
from benchmark.launch import RunState, describe_failures, run_jobs
from tests.benchmark.fake_jobs import FakeLauncher, make_job


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "BUSY_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(launch, name, 0.0)


def load(output: Path, count: int) -> RunState:
    return RunState.load(output, [make_job(seed=seed) for seed in range(count)])


def run(output: Path, launcher: FakeLauncher, count: int, **options: Any) -> RunState:
    state = load(output, count)
    run_jobs(state, launcher, **options)
    return state


def failures(state: RunState) -> dict[int, str]:
    return {entry.job.seed: entry.reason for entry in state.having("failed")}


def test_every_job_that_is_not_done_is_started_once_and_slots_are_kept(tmp_path: Path) -> None:
    write_result(tmp_path, make_job(seed=1), {"figures": {}})
    launcher, lines = FakeLauncher(slots=3), list[str]()
    state = load(tmp_path, 7)
    state.report = lines.append
    run_jobs(state, launcher)
    assert launcher.started == [0, 2, 3, 4, 5, 6]
    assert launcher.most_at_once == 3
    assert len(state.having("done")) == 7
    assert launcher.closed
    assert lines[:2] == ["1 of 7 jobs were done before", f"[1/7] {make_job(seed=0).id} running"]
    assert lines[-1] == f"[7/7] {make_job(seed=6).id} done"


@pytest.mark.parametrize("status", [EXIT_RETRY, -9])
def test_what_can_heal_is_tried_again_and_not_for_ever(tmp_path: Path, status: int) -> None:
    launcher = FakeLauncher({0: [status], 1: [status] * 9})
    state, lines = load(tmp_path, 2), list[str]()
    state.report = lines.append
    run_jobs(state, launcher)
    assert sum(" waiting: " in line for line in lines) == 3
    assert (launcher.started.count(0), launcher.started.count(1)) == (2, 3)
    assert [entry.job.seed for entry in state.having("done")] == [0]
    assert "in the last of 3 attempts" in failures(state)[1]


def test_a_job_that_lacked_memory_waits_longer_each_time_while_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "RETRY_SECONDS", 0.2)
    launcher = FakeLauncher({0: [EXIT_RETRY] * 2}, slots=1)
    started = time.monotonic()
    assert len(run(tmp_path, launcher, 3).having("done")) == 3
    assert launcher.started == [0, 1, 2, 0, 0]
    assert time.monotonic() - started > 0.6


def test_what_would_fail_again_is_not_tried_again_and_described_by_its_log(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / make_job(seed=3).id).write_text("a file where a folder should be")
    launcher = FakeLauncher({0: [1], 2: ["lost"]})
    state = run(tmp_path, launcher, 4)
    assert launcher.started == [0, 1, 2]
    reasons = failures(state)
    assert "could not be started" in reasons.pop(3)
    assert reasons == {0: "exit status 1", 2: "exit status 0"}
    (job_folder(tmp_path, make_job()) / "log.txt").write_bytes(b"early\n" * 20 + b"the disk \xff is full\n")
    text = describe_failures(state)[0]
    assert "exit status 1" in text
    assert text.endswith("\n    the disk \ufffd is full")
    assert text.count("early") < 8


def test_a_job_that_another_run_has_is_waited_for_and_not_started_again(tmp_path: Path) -> None:
    launcher = FakeLauncher({0: [EXIT_BUSY] * 5})
    assert len(run(tmp_path / "a", launcher, 2, retries=0).having("done")) == 2
    assert launcher.started.count(0) == 6
    launcher, state = FakeLauncher({0: [EXIT_BUSY]}, slots=1), load(tmp_path / "b", 2)

    def finish_elsewhere() -> None:
        if 1 in launcher.started:
            write_result(tmp_path / "b", make_job(seed=0), {"figures": {}})

    run_jobs(state, launcher, show=finish_elsewhere)
    assert launcher.started == [0, 1]
    assert len(state.having("done")) == 2


def test_stopping_stops_the_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    launcher, state = FakeLauncher(slots=1), load(tmp_path, 3)

    def interrupt() -> None:
        if state.having("done"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(state, launcher, show=interrupt)
    assert not launcher.active
    assert launcher.closed
    again = FakeLauncher()
    run(tmp_path, again, 3)
    assert again.started == [1, 2]


@settings(max_examples=25)
@given(
    statuses=st.dictionaries(
        st.integers(0, 5), st.lists(st.sampled_from([0, 1, EXIT_BUSY, EXIT_RETRY, -9]), max_size=6)
    ),
    slots=st.integers(1, 4),
    retries=st.integers(0, 3),
)
def test_every_job_ends_done_or_failed_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, statuses: dict[int, list[Any]], slots: int, retries: int
) -> None:
    output = tmp_path_factory.mktemp("run")
    launcher = FakeLauncher(statuses, slots)
    state = run(output, launcher, 6, retries=retries)
    assert len(state.having("done")) + len(state.having("failed")) == 6
    assert all(read_result(output, entry.job) is not None for entry in state.having("done"))
    assert launcher.most_at_once <= slots
