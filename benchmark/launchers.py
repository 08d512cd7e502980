"""The three places where workers run: this machine, a Ray cluster, a Slurm cluster.

On a cluster the project, its environment, the data and the output folder must have the same paths on every node.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.jobs import EXIT_RETRY
from benchmark.launch import Handle, Launcher, LaunchError

LAUNCHERS = ("local", "ray", "slurm")
_PROJECT = Path(__file__).resolve().parents[1]


def make_launcher(
    name: str, output: Path, *, device: str | None, jobs_per_device: int, options: Mapping[str, Any]
) -> Launcher:
    """One of `LAUNCHERS` for the run in the folder `output`, with so many jobs at a time on a GPU (or the CPU).

    Options for ray are `address` (default "auto"), `gpus` and `cpus` a job; for slurm `slots`, how many jobs are
    submitted at a time, and submitit's parameters, such as `slurm_partition` or `timeout_min`. Raises a `LaunchError`
    where an option is unknown or wrong, or the launcher's package or cluster is not there.
    """
    if name == "slurm":
        return SlurmLauncher(output / "slurm", options)
    if name == "ray":
        return RayLauncher(device, jobs_per_device, options)
    if options:
        raise LaunchError("The local launcher takes no --launcher-options: use --device and --jobs-per-device.")
    return LocalLauncher(local_devices(device) * jobs_per_device)


def local_devices(device: str | None) -> list[str]:
    """The devices of this machine that are meant: all GPUs, or else the CPU, by default."""
    if device not in (None, "cuda"):
        return [str(device)]
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise LaunchError("There is no CUDA device: leave --device out, or give --device cpu.")
    return [f"cuda:{i}" for i in range(count)] or ["cpu"]


class LocalLauncher(Launcher):
    """Processes on this machine, each with a device of its own from `devices`; repeat one for several jobs on it."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.slots = len(devices)
        self._devices, self._started = devices, list[tuple[subprocess.Popen[bytes], str]]()
        self._threads = max((os.cpu_count() or 1) // len(devices), 1)

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        self._started = [(process, device) for process, device in self._started if process.poll() is None]
        device = next((Counter(self._devices) - Counter(device for _, device in self._started)).elements())
        process = start_worker([*arguments, "--device", device], log, OMP_NUM_THREADS=str(self._threads))
        self._started.append((process, device))
        return Handle(process.poll, lambda: end_process(process))


def start_worker(arguments: Sequence[str], log: Path, **defaults: str) -> subprocess.Popen[bytes]:
    """Starts Python as a process that ends with the one that started it, however that one ends.

    Its standard input is a pipe that nobody writes to: the worker takes the pipe's end for the end of its parent.
    `defaults` are variables that the environment may have otherwise.
    """
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments, "--with-parent"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**defaults, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C on the terminal is for the launcher alone, which then stops its workers
        )


def end_process(process: subprocess.Popen[bytes], grace_seconds: float = 5.0) -> None:
    """Ends a process, gently first, and by force when it takes its time."""
    for send in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(send)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)


def work(arguments: Sequence[str], log: str) -> int:
    """What a cluster runs for one job: the same worker process; gives its exit status."""
    process = start_worker(arguments, Path(log))
    try:
        return process.wait()
    finally:
        end_process(process)


class RayLauncher(Launcher):
    """Tasks on a Ray cluster; Ray gives each job its GPUs, and a job whose node was lost is tried again."""

    slots = 1000  # Ray keeps its own queue

    def __init__(self, device: str | None, jobs_per_device: int, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            if name not in ("address", "gpus", "cpus") or (name != "address" and not isinstance(value, (int, float))):
                raise LaunchError(f"Ray takes address=HOST:PORT, and gpus= and cpus= a job, not {name}={value}.")
        self._ray = ray = _import_package("ray", "ray>=2.40")
        address, environment = str(options.get("address", "auto")), {"PYTHONPATH": str(_PROJECT)}
        try:
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": environment})
            has_gpus = device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
            gpus = options.get("gpus", 1 / jobs_per_device if has_gpus else 0)
            # One try each: how often a job is tried again is decided in one place, `launch.run_jobs`.
            self._task = ray.remote(num_gpus=gpus, num_cpus=options.get("cpus", 1), max_retries=0)(work)
        except (ConnectionError, ValueError) as error:
            mend = "start one with `ray start --head`, or give its address"
            raise LaunchError(f"There is no Ray cluster at {address} that can be used ({error}): {mend}.") from error
        self._arguments = ["--device", "cuda" if gpus else "cpu"]

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        ray, task = self._ray, self._task.remote([*arguments, *self._arguments], str(log))
        return Handle(
            lambda: _status(ray.wait([task], timeout=0)[0], lambda: ray.get(task), ray.exceptions.RayError),
            lambda: ray.cancel(task, force=True),
        )

    def close(self) -> None:
        self._ray.shutdown()


class SlurmLauncher(Launcher):
    """Slurm jobs, submitted by submitit, one a job; `cluster="local"` runs them as processes here, to try it out."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        submitit = _import_package("submitit", "submitit")
        parameters = {"name": "ast_hf", "timeout_min": 720, "gpus_per_node": 1, **options}
        self._errors = submitit.core.utils
        try:
            self.slots = int(parameters.pop("slots", 32))
            if self.slots < 1:
                raise ValueError(f"slots={self.slots} lets no job start")
            self._executor = submitit.AutoExecutor(folder=folder, cluster=parameters.pop("cluster", "slurm"))
            self._executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            mend = "start this on a node that has sbatch, with --launcher-options that submitit takes"
            raise LaunchError(f"Slurm cannot be used ({error}): {mend}.") from error

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        try:
            job = self._executor.submit(work, list(arguments), str(log))
        except (self._errors.FailedJobError, self._errors.FailedSubmissionError) as error:
            raise LaunchError(f"sbatch refuses it ({error})") from error
        lost = self._errors.UncompletedJobError  # preempted, timed out, or its node failed
        return Handle(lambda: _status(job.done(), job.result, lost), lambda: job.cancel(check=False))


def _status(done: object, result: Callable[[], int], lost: type[Exception]) -> int | None:
    """The exit status of a cluster's task, which raises `lost` where its machine is gone, not by the job's fault."""
    try:
        return int(result()) if done else None
    except lost:
        return EXIT_RETRY


def _import_package(name: str, requirement: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LaunchError(f"This launcher needs {name}: pip install '{requirement}'.") from error
