"""What is shown while a run goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.jobs import folder_of
from benchmark.launch import Board, Running
from benchmark.live import Log, clock, picture, watch
from tests.benchmark.fake_jobs import FakeHandle, make_job


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """One job of each kind: done, running at epoch 3 of 12, waiting, failed."""
    done, runs, waits, fails = (make_job(seed=seed) for seed in range(4))
    folder_of(tmp_path, runs).mkdir(parents=True)
    state = {"stage": "teacher", "done": 3, "total": 12, "loss": -1.25}
    (folder_of(tmp_path, runs) / "progress.json").write_text(json.dumps(state))
    running = {runs.id: Running(runs, FakeHandle(tmp_path, 0))}
    return Board(tmp_path, [waits], running, [done], {fails.id: "exit status 1"}, [60.0])


def test_the_live_view_counts_and_tells_the_time_left(board: Board) -> None:
    console = Console(width=120, record=True)
    console.print(picture(board, elapsed=75, slots=1))
    text = console.export_text()
    assert "1 done, 1 running, 1 waiting, 1 failed   1:15 so far, about 2:00 left" in text
    assert "3/12" in text
    assert "-1.25" in text
    assert make_job(seed=1).id in text


def test_the_log_has_a_line_a_change(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = Log()
    log(board)
    log(board)
    board.running.clear()
    board.done.append(make_job(seed=1))
    log(board)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"[2/4] {make_job(seed=1).id} started",
        f"[2/4] {make_job(seed=3).id} FAILED: exit status 1",
        "1 of 4 jobs were done before",
        f"[3/4] {make_job(seed=1).id} done",
    ]


def test_without_a_terminal_it_is_a_log() -> None:
    with watch(quiet=False, slots=1) as show:
        assert isinstance(show, Log)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3600 * 26 + 60, "26:01:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
