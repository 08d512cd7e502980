"""Runs jobs: starts each where a launcher has room, tries again what can heal, keeps what is finished.

Every launcher runs the same worker, `python -m benchmark.worker JOBS/ID/job.json`, as a process of its own, so that a
fault of the GPU or a lack of memory dies with the job. Which launcher it is makes no difference to anything else.
Several runs may share one output folder: a job is locked while a worker has it, and another run waits for its result.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ast_hf.errors import ASTError
from benchmark.jobs import EXIT_BUSY, EXIT_RETRY, LOG_NAME, Job, job_folder, read_result, write_spec

Status: TypeAlias = Literal["waiting", "running", "done", "failed"]
POLL_SECONDS = 0.2  # between two looks at the workers
BUSY_SECONDS = 2.0  # until a job that another run has is looked at again
# Until a job that lacked memory is started again, twice that the next time, and so on: what took it needs time to end.
RETRY_SECONDS = 15.0


class LaunchError(ASTError, RuntimeError):
    """A launcher cannot be used, or cannot start a job."""


class Handle(NamedTuple):
    poll: Callable[[], int | None]  # its exit status, or None before it has ended; EXIT_RETRY: lost with its machine
    stop: Callable[[], object]  # ends it at once; nothing happens where it has ended


_NO_WORKER = Handle(lambda: None, lambda: None)


class Launcher(ABC):
    """Where workers run; `slots` is how many may be started at a time."""

    slots: int

    @abstractmethod
    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        """Starts Python with these arguments, its output added to `log`; raises `LaunchError` or `OSError`."""

    def close(self) -> None:  # noqa: B027
        """Gives back what the launcher holds; most hold nothing."""


@dataclass
class JobState:
    job: Job
    status: Status
    handle: Handle = _NO_WORKER
    since: float = 0.0  # when (`time.monotonic`) it was started; of a waiting job, when it may be
    retries: int = 0  # how often it was put back after its worker was killed, lost, or out of memory
    seconds: float | None = None  # how long it took, where it was done in this run
    reason: str = ""  # why it failed, in a few words


@dataclass
class RunState:
    """Where the jobs of a run stand; `report` is told in a line what becomes of each."""

    output: Path
    jobs: list[JobState]
    report: Callable[[str], object] = logging.getLogger(__name__).info

    @classmethod
    def load(cls, output: Path, jobs: Iterable[Job]) -> "RunState":
        """The jobs as the output folder has them: with a result they are done."""
        return cls(output, [JobState(job, "done" if read_result(output, job) else "waiting") for job in jobs])

    def having(self, status: Status) -> list[JobState]:
        return [state for state in self.jobs if state.status == status]

    def move(self, state: JobState, status: Status, reason: str = "") -> None:
        """Gives a job another status and reports it."""
        state.status, state.reason = status, reason
        finished = len(self.having("done")) + len(self.having("failed"))
        self.report(f"[{finished}/{len(self.jobs)}] {state.job.id} {status}{': ' * bool(reason)}{reason}")


def run_jobs(
    run: RunState,
    launcher: Launcher,
    *,
    options: Sequence[str] = (),
    retries: int = 2,
    show: Callable[[], object] = lambda: None,
) -> None:
    """Runs every waiting job; failures are noted in the state, which is changed in place.

    Args:
        launcher: Closed at the end. Where this function is left early, as by Ctrl-C, its workers are stopped.
        options: Of the worker's command line.
        retries: How often a job is started again whose worker was killed, lost, or out of memory.
        show: Called whenever the workers have been looked at.
    """
    if done := run.having("done"):
        run.report(f"{len(done)} of {len(run.jobs)} jobs were done before")
    try:
        while run.having("waiting") or run.having("running"):
            _start_waiting(run, launcher, options)
            show()
            time.sleep(POLL_SECONDS)
            for state in run.having("running"):
                if (status := state.handle.poll()) is not None:
                    _settle(run, state, status, retries)
        show()
    finally:
        for state in run.having("running"):
            state.handle.stop()
        launcher.close()


def _start_waiting(run: RunState, launcher: Launcher, options: Sequence[str]) -> None:
    for state in sorted(run.having("waiting"), key=lambda state: state.since):
        if len(run.having("running")) >= launcher.slots or state.since > time.monotonic():
            return
        if read_result(run.output, state.job):  # another run has done it meanwhile
            run.move(state, "done")
            continue
        try:
            spec = write_spec(run.output, state.job).resolve()
            state.handle = launcher.start(["-m", "benchmark.worker", str(spec), *options], spec.with_name(LOG_NAME))
        except (OSError, LaunchError) as error:
            run.move(state, "failed", f"it could not be started: {error}")
            continue
        state.since = time.monotonic()
        run.move(state, "running")


def _settle(run: RunState, state: JobState, status: int, retries: int) -> None:
    """Notes how a worker ended, and puts its job back where another try may help."""
    now, reason = time.monotonic(), f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    if status == 0 and read_result(run.output, state.job):
        state.seconds = now - state.since
        run.move(state, "done")
    elif status == EXIT_BUSY:
        state.status, state.since = "waiting", now + BUSY_SECONDS
    elif (status == EXIT_RETRY or status < 0) and state.retries < retries:
        state.since = now + RETRY_SECONDS * 2**state.retries * (status == EXIT_RETRY)
        state.retries += 1
        run.move(state, "waiting", reason)
    else:
        run.move(state, "failed", reason + f" in the last of {state.retries + 1} attempts" * (state.retries > 0))


def describe_failures(run: RunState) -> list[str]:
    """A text for every failed job: why, where its log is, and the log's last lines."""
    texts = []
    for state in run.having("failed"):
        log = job_folder(run.output, state.job) / LOG_NAME
        lines = log.read_text(errors="replace").splitlines()[-6:] if log.is_file() else []
        texts.append("\n    ".join([f"{state.job.id} failed ({state.reason}); its log is {log}:", *lines]))
    return texts
