"""What is shown while a run goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from benchmark.jobs import write_spec
from benchmark.launch import JobState, RunState
from benchmark.live import live_view, table_of
from tests.benchmark.fake_jobs import make_job


def test_the_live_view_counts_and_tells_stage_and_time_left(tmp_path: Path) -> None:
    """One job of each kind: done, running at epoch 3 of 12, waiting, failed."""
    done, runs, waits, fails = (make_job(seed=seed) for seed in range(4))
    state = {"stage": "teacher", "done": 3, "total": 12, "loss": -1.25}
    (write_spec(tmp_path, runs).parent / "progress.json").write_text(json.dumps(state))
    jobs = [JobState(done, "done", seconds=60.0), JobState(runs, "running", since=time.monotonic() - 20)]
    jobs += [JobState(waits, "waiting"), JobState(fails, "failed")]
    console = Console(width=120, record=True)
    console.print(table_of(RunState(tmp_path, jobs), elapsed=75, slots=1))
    text = console.export_text()
    assert "1 done, 1 running, 1 waiting, 1 failed   0:01:15 so far, about 0:01:40 left" in text
    for word in (runs.id, "teacher", "3/12", "-1.25", "0:00:20"):
        assert word in text


def test_without_a_terminal_nothing_is_drawn(tmp_path: Path, capsys) -> None:
    run = RunState(tmp_path, [])
    report = run.report
    with live_view(run, 1, quiet=False) as show:
        show()
    assert run.report == report
    assert capsys.readouterr() == ("", "")
