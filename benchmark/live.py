"""What a run shows on a terminal while it goes on: a live table under the lines that say what became of each job."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from benchmark.jobs import read_progress
from benchmark.launch import RunState


@contextlib.contextmanager
def live_view(run: RunState, slots: int, *, quiet: bool) -> Iterator[Callable[[], object]]:
    """Gives what `run_jobs` takes as `show`; on a terminal the run then reports above the table, unless `quiet`."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda: None
        return
    started, run.report = time.monotonic(), console.out
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        yield lambda: live.update(table_of(run, time.monotonic() - started, slots))


def table_of(run: RunState, elapsed: float, slots: int) -> Group:
    """Counts and time left, then a row a running job: its stage, how far it is in it, and its loss."""
    counts = {name: len(run.having(name)) for name in ("done", "running", "waiting", "failed")}
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "failed")
    table = Table("job", "stage", "", "loss", "time", box=None, header_style="dim")
    for state in run.having("running"):
        progress = read_progress(run.output, state.job)
        stage, done, total, loss = (progress.get(name) for name in ("stage", "done", "total", "loss"))
        far, loss = f"{done}/{total}" if total else "", "" if loss is None else f"{loss:.4g}"
        table.add_row(state.job.id, stage or "starting", far, loss, _clock(time.monotonic() - state.since))
    return Group(f"{words}   {_clock(elapsed)} so far{_left(run, slots)}", table)


def _left(run: RunState, slots: int) -> str:
    """The time left, once a job has shown how long one takes."""
    took = [state.seconds for state in run.jobs if state.seconds is not None]
    running, unfinished = run.having("running"), len(run.having("running")) + len(run.having("waiting"))
    if not took or not unfinished:
        return ""
    spent = sum(min(time.monotonic() - state.since, fmean(took)) for state in running)
    return f", about {_clock((fmean(took) * unfinished - spent) / min(slots, unfinished))} left"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
