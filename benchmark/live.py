"""What a run shows while it goes on: a live table on a terminal, or a line a job in a log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.jobs import read_progress
from benchmark.launch import Board

_LOG = logging.getLogger("benchmark")
_REFRESH_SECONDS = 0.5
_MAX_ROWS = 16  # more running jobs than this are counted and not listed


@contextlib.contextmanager
def watch(*, quiet: bool, slots: int) -> Iterator[Callable[[Board], None]]:
    """What `run_jobs` calls with its board.

    Args:
        quiet: Lines for a log, even on a terminal.
        slots: Jobs that run at a time, for the time left.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    if quiet or not console.is_terminal:
        yield Log()
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        shown = 0.0

        def show(board: Board) -> None:
            nonlocal shown
            if time.monotonic() - shown > _REFRESH_SECONDS:
                live.update(picture(board, time.monotonic() - started, slots), refresh=True)
                shown = time.monotonic()

        yield show


class Log:
    """Writes a line for every job that starts or ends."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._first = True

    def __call__(self, board: Board) -> None:
        total = len(board.waiting) + len(board.running) + len(board.done) + len(board.failed)
        states = [("started", job_id, "") for job_id in board.running]
        states += [("done", job.id, "") for job in board.done]
        states += [("FAILED", job_id, f": {reason}") for job_id, reason in board.failed.items()]
        for state, job_id, why in states:
            if (state, job_id) not in self._seen:
                self._seen.add((state, job_id))
                if not (self._first and state == "done"):
                    _LOG.info("[%d/%d] %s %s%s", len(board.done) + len(board.failed), total, job_id, state, why)
        if self._first and board.done:
            _LOG.info("%d of %d jobs were done before", len(board.done), total)
        self._first = False


def picture(board: Board, elapsed: float, slots: int) -> Group:
    """The live table: counts and time left, then a row a running job."""
    counts = {
        "done": len(board.done),
        "running": len(board.running),
        "waiting": len(board.waiting),
        "failed": len(board.failed),
    }
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "failed")
    head = Text(f"{words}   {clock(elapsed)} so far{_left(board, slots)}", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("job", "stage", "", "loss", "time"):
        table.add_column(column, no_wrap=True)
    running = list(board.running.values())
    for job in running[:_MAX_ROWS]:
        progress = read_progress(board.output, job.job)
        done, total, loss = (progress.get(name) for name in ("done", "total", "loss"))
        table.add_row(
            job.job.id,
            progress.get("stage", "starting"),
            f"{done}/{total}" if total else "",
            "" if loss is None else f"{loss:.4g}",
            clock(time.monotonic() - job.since),
        )
    more = Text(f"and {len(running) - _MAX_ROWS} more") if len(running) > _MAX_ROWS else Text("")
    return Group(head, table, more)


def clock(seconds: float) -> str:
    """A duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _left(board: Board, slots: int) -> str:
    """The time left, once a job has shown how long one takes."""
    if not board.seconds:
        return ""
    each = fmean(board.seconds)
    spent = sum(min(time.monotonic() - running.since, each) for running in board.running.values())
    todo = each * (len(board.waiting) + len(board.running)) - spent
    return f", about {clock(round(todo / max(min(slots, len(board.waiting) + len(board.running)), 1)))} left"
