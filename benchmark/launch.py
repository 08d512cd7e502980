"""Runs jobs: starts each where a launcher has room, tries again what can heal, keeps what is finished.

Every launcher runs the same worker, `python -m benchmark.worker JOBS/ID/job.json`, as a process of its own, so that a
fault of the GPU or a lack of memory dies with the job. Which launcher it is makes no difference to anything else.
Several runs may share one output folder: a job is locked while a worker has it, and another run waits for its result.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmark.jobs import LOG_NAME, Job, log_tail, read_result, write_spec
from benchmark.worker import EXIT_BUSY, EXIT_RETRY

_POLL_SECONDS = 0.2
_BUSY_SECONDS = 2.0  # until a job that another run has is looked at again


class Handle(Protocol):
    """A worker that was started."""

    def poll(self) -> int | None:
        """Its exit status, or None while it waits or runs; `EXIT_RETRY` where it was lost with its machine."""

    def stop(self) -> None:
        """Ends it at once; nothing happens where it has ended."""


class Launcher(Protocol):
    """Where workers run.

    Attributes:
        slots: How many may be started at a time.
    """

    slots: int

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        """Starts Python with these arguments; its output is added to `log`."""

    def close(self) -> None:
        """Gives back what the launcher holds."""


@dataclass
class Running:
    """A job that has been started."""

    job: Job
    handle: Handle
    since: float = field(default_factory=time.monotonic)


@dataclass
class Board:
    """Where every job of a run stands.

    Attributes:
        output: The run's folder.
        waiting: Jobs to start, in order.
        running: By id.
        done: Finished in this run or before.
        failed: Why, in a few words, by job id.
        seconds: How long each job took that finished in this run.
    """

    output: Path
    waiting: list[Job]
    running: dict[str, Running] = field(default_factory=dict)
    done: list[Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    not_before: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, output: Path, jobs: Iterable[Job]) -> Board:
        """The jobs as the output folder has them: with a result they are done."""
        board = cls(output, [])
        for job in jobs:
            (board.done if read_result(output, job) is not None else board.waiting).append(job)
        return board


def run_jobs(
    board: Board,
    launcher: Launcher,
    *,
    options: Sequence[str] = (),
    retries: int = 2,
    show: Callable[[Board], None] = lambda board: None,
) -> None:
    """Runs every waiting job of the board; failures are noted there.

    Args:
        board: Changed in place.
        launcher: Closed at the end. Where this function is left early, as by Ctrl-C, its workers are stopped.
        options: Of the worker's command line.
        retries: How often a job is started again that ran out of memory, was killed, or was lost with its machine.
        show: Called with the board several times a second.
    """
    try:
        while board.waiting or board.running:
            _start(board, launcher, options)
            show(board)
            time.sleep(_POLL_SECONDS)
            for running in list(board.running.values()):
                if (status := running.handle.poll()) is not None:
                    _settle(board, running, status, retries)
        show(board)
    finally:
        for running in board.running.values():
            running.handle.stop()
        launcher.close()


def _start(board: Board, launcher: Launcher, options: Sequence[str]) -> None:
    for job in list(board.waiting):
        if len(board.running) >= launcher.slots:
            return
        if board.not_before.get(job.id, 0.0) > time.monotonic():
            continue
        board.waiting.remove(job)
        if read_result(board.output, job) is not None:  # another run has done it meanwhile
            board.done.append(job)
            continue
        try:
            spec = write_spec(board.output, job).resolve()
            handle = launcher.start(["-m", "benchmark.worker", str(spec), *options], spec.with_name(LOG_NAME))
        except OSError as error:
            board.failed[job.id] = f"it could not be started: {error}"
            continue
        board.running[job.id] = Running(job, handle)


def _settle(board: Board, running: Running, status: int, retries: int) -> None:
    """Notes how a worker ended, and puts its job back where another try may help."""
    job = running.job
    del board.running[job.id]
    if status == 0 and read_result(board.output, job) is not None:
        board.done.append(job)
        board.seconds.append(time.monotonic() - running.since)
    elif status == EXIT_BUSY:
        board.not_before[job.id] = time.monotonic() + _BUSY_SECONDS
        board.waiting.append(job)
    elif (status == EXIT_RETRY or status < 0) and board.attempts[job.id] < retries:
        board.attempts[job.id] += 1
        board.waiting.append(job)
    else:
        board.failed[job.id] = _reason(status, board.attempts[job.id] + 1)


def _reason(status: int, attempts: int) -> str:
    tries = f" in the last of {attempts} attempts" if attempts > 1 else ""
    return f"killed by signal {-status}{tries}" if status < 0 else f"exit status {status}{tries}"


def describe_failures(board: Board, jobs: Mapping[str, Job]) -> list[str]:
    """A text for every failed job: why, where its log is, and the log's last lines."""
    texts = []
    for job_id, reason in board.failed.items():
        tail = log_tail(board.output, jobs[job_id])
        indented = "".join(f"\n    {line}" for line in tail.splitlines())
        texts.append(f"{job_id} failed ({reason}); its log is {board.output / 'jobs' / job_id / 'log.txt'}:{indented}")
    return texts
