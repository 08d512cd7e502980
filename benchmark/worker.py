"""`python -m benchmark.worker JOBS/ID/job.json`: trains and evaluates one job in a process of its own.

The exit status tells the launcher what to do: 0 the result is there, 1 the job failed and would fail again,
`EXIT_BUSY` another worker has it, `EXIT_RETRY` another try may succeed.
"""

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock

from ast_hf.files import write_atomic
from benchmark.jobs import EXIT_BUSY, EXIT_RETRY, LOCK_NAME, PROGRESS_NAME, Job, job_folder, read_result, read_spec

_LOG = logging.getLogger("benchmark.worker")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.worker", description=__doc__.partition("\n")[0])
    parser.add_argument("spec", type=Path, help="job.json in its folder of a run")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--deterministic", action="store_true", help="only deterministic algorithms")
    parser.add_argument("--timeout", type=float, default=0, metavar="SECONDS", help="end the job after this time")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if options.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if options.timeout:
        # Needs no Python to run, so that it also ends what hangs inside of a library, and shows where.
        faulthandler.dump_traceback_later(options.timeout, exit=True)
    job, output = read_spec(options.spec)
    try:
        with filelock.FileLock(job_folder(output, job) / LOCK_NAME, blocking=False):
            if read_result(output, job) is not None:
                return 0
            return _attempt(job, output, device=options.device, deterministic=options.deterministic)
    except filelock.Timeout:
        return EXIT_BUSY


def _attempt(job: Job, output: Path, *, device: str | None, deterministic: bool) -> int:
    """One try at a job; what stopped it is in the log and, for the reader, in error.txt."""
    import torch  # here, so that a worker with nothing to do is quick

    from benchmark.experiment import run_job

    folder = job_folder(output, job)
    (folder / "error.txt").unlink(missing_ok=True)
    _LOG.info("%s, process %d", job.id, os.getpid())
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        run_job(job, output, device=device, progress=progress_file(folder))
    except Exception as error:  # the process's last line of defence: whatever it was is written down, and is its end
        _LOG.exception("%s", type(error).__name__)
        with contextlib.suppress(OSError):
            write_atomic(folder / "error.txt", traceback.format_exc().encode())
        # With less beside it, or on another GPU, what lacked memory or met a fault of the GPU may go through.
        texts = ("CUDA", "can't allocate memory") if isinstance(error, RuntimeError) else ()
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        return EXIT_RETRY if is_memory or any(text in str(error) for text in texts) else 1
    finally:
        (folder / PROGRESS_NAME).unlink(missing_ok=True)
    return 0


def _end_with_parent() -> None:
    """Ends this process when its standard input does: the launcher held the other end, however it went."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(EXIT_RETRY)


def progress_file(folder: Path) -> Callable[..., None]:
    """A `Progress` that keeps progress.json up to date for those who watch; a full disk does not stop the job."""
    last, written = "", 0.0

    def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
        nonlocal last, written
        if stage != last or done >= total or time.monotonic() - written >= 0.5:
            last, written = stage, time.monotonic()
            state = {"stage": stage, "done": done, "total": total, "loss": loss}
            with contextlib.suppress(OSError):
                write_atomic(folder / PROGRESS_NAME, json.dumps(state).encode())

    return report


if __name__ == "__main__":
    sys.exit(main())
