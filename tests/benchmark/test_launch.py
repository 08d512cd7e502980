"""What becomes of jobs: started once, tried again where it helps, failed with a reason, kept when stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import launch
from benchmark.jobs import folder_of, read_result, write_result
from benchmark.launch import Board, describe_failures, run_jobs
from benchmark.worker import EXIT_BUSY, EXIT_FAILED, EXIT_RETRY
from tests.benchmark.fake_jobs import FakeLauncher, make_job


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(launch, "_BUSY_SECONDS", 0.0)


def run(output: Path, launcher: FakeLauncher, count: int, retries: int = 2) -> Board:
    board = Board.of(output, [make_job(seed=seed) for seed in range(count)])
    run_jobs(board, launcher, retries=retries)
    return board


def test_every_job_is_done_once_and_slots_are_kept(tmp_path: Path) -> None:
    launcher = FakeLauncher({}, slots=3)
    board = run(tmp_path, launcher, 7)
    assert launcher.started == list(range(7))
    assert launcher.most_at_once == 3
    assert len(board.done) == 7
    assert not board.failed
    assert launcher.closed


def test_a_finished_job_is_not_started(tmp_path: Path) -> None:
    write_result(tmp_path, make_job(seed=1), {"figures": {}})
    launcher = FakeLauncher({})
    assert len(run(tmp_path, launcher, 3).done) == 3
    assert launcher.started == [0, 2]


@pytest.mark.parametrize("status", [EXIT_RETRY, -9])
def test_what_can_heal_is_tried_again_and_not_for_ever(tmp_path: Path, status: int) -> None:
    launcher = FakeLauncher({0: [status], 1: [status] * 9})
    board = run(tmp_path, launcher, 2)
    assert (launcher.started.count(0), launcher.started.count(1)) == (2, 3)
    assert [job.seed for job in board.done] == [0]
    assert "in the last of 3 attempts" in board.failed[make_job(seed=1).id]


def test_what_would_fail_again_is_not_tried_again(tmp_path: Path) -> None:
    launcher = FakeLauncher({0: [EXIT_FAILED]})
    board = run(tmp_path, launcher, 3)
    assert launcher.started == [0, 1, 2]
    assert board.failed == {make_job(seed=0).id: "exit status 1"}
    assert [job.seed for job in board.done] == [1, 2]


def test_all_failing_ends(tmp_path: Path) -> None:
    assert len(run(tmp_path, FakeLauncher({seed: [1] for seed in range(4)}), 4).failed) == 4


def test_a_worker_that_ends_well_without_a_result_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmark.fake_jobs.write_result", lambda *args: None)
    assert list(run(tmp_path, FakeLauncher({}), 1).failed.values()) == ["exit status 0"]


def test_a_job_that_another_run_has_is_waited_for(tmp_path: Path) -> None:
    launcher = FakeLauncher({0: [EXIT_BUSY] * 5})
    board = run(tmp_path, launcher, 2, retries=0)
    assert len(board.done) == 2
    assert launcher.started.count(0) == 6


def test_a_job_that_another_run_finishes_is_not_started_again(tmp_path: Path) -> None:
    board = Board.of(tmp_path, [make_job(seed=0), make_job(seed=1)])
    launcher = FakeLauncher({0: [EXIT_BUSY]}, slots=1)
    real_poll = launch._settle

    def finish_elsewhere(*args: object) -> None:
        real_poll(*args)  # type: ignore[arg-type]
        write_result(tmp_path, make_job(seed=0), {"figures": {}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_settle", finish_elsewhere)
        run_jobs(board, launcher)
    assert launcher.started.count(0) == 1
    assert len(board.done) == 2


def test_stopping_stops_the_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    launcher = FakeLauncher({}, slots=1)
    board = Board.of(tmp_path, [make_job(seed=seed) for seed in range(3)])

    def interrupt(board: Board) -> None:
        if board.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(board, launcher, show=interrupt)
    assert launcher.handles[-1].stopped
    assert launcher.closed
    assert read_result(tmp_path, make_job(seed=0)) is not None
    again = FakeLauncher({})
    run(tmp_path, again, 3)
    assert 0 not in again.started


def test_a_job_that_cannot_be_started_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / make_job(seed=0).id).write_text("a file where a folder should be")
    board = run(tmp_path, FakeLauncher({}), 2)
    assert "could not be started" in board.failed[make_job(seed=0).id]
    assert len(board.done) == 1


def test_failures_are_described_with_the_end_of_their_log(tmp_path: Path) -> None:
    board = run(tmp_path, FakeLauncher({0: [1]}), 1)
    (folder_of(tmp_path, make_job()) / "log.txt").write_text("\n".join(["early"] * 20 + ["the disk is full"]))
    (text,) = describe_failures(board, {make_job().id: make_job()})
    assert "exit status 1" in text
    assert text.endswith("\n    the disk is full")
    assert text.count("early") < 8


@settings(max_examples=25)
@given(
    statuses=st.dictionaries(
        st.integers(0, 5), st.lists(st.sampled_from([0, EXIT_FAILED, EXIT_BUSY, EXIT_RETRY, -9]), max_size=6)
    ),
    slots=st.integers(1, 4),
    retries=st.integers(0, 3),
)
def test_every_job_ends_done_or_failed_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, statuses: dict[int, list[int]], slots: int, retries: int
) -> None:
    output = tmp_path_factory.mktemp("run")
    launcher = FakeLauncher({seed: list(values) for seed, values in statuses.items()}, slots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_POLL_SECONDS", 0.0)
        patch.setattr(launch, "_BUSY_SECONDS", 0.0)
        board = run(output, launcher, 6, retries)
    assert not board.waiting
    assert not board.running
    assert {job.id for job in board.done}.isdisjoint(board.failed)
    assert len(board.done) + len(board.failed) == 6
    assert all(read_result(output, job) is not None for job in board.done)
    assert launcher.most_at_once <= slots
