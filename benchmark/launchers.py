"""The three places where workers run: this machine, a Ray cluster, a Slurm cluster.

On a cluster the project, its environment, the data and the output folder must have the same paths on every node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ast_hf.errors import ASTError
from benchmark.launch import Handle, Launcher
from benchmark.worker import EXIT_RETRY

LAUNCHERS = ("local", "ray", "slurm")
_PROJECT = Path(__file__).resolve().parents[1]
_STOP_SECONDS = 5.0  # between asking a process to end and ending it


class LaunchError(ASTError, RuntimeError):
    """A launcher cannot be used."""


def make_launcher(
    name: str, output: Path, *, device: str | None, jobs_per_device: int, options: Mapping[str, Any]
) -> Launcher:
    """One of `LAUNCHERS`.

    Args:
        name: Which.
        output: The run's folder.
        device: "cpu", "cuda" or "cuda:1"; all GPUs, or else the CPU, by default.
        jobs_per_device: Jobs that share one GPU (or the CPU) at a time.
        options: For ray: `address` (default "auto"), `gpus` and `cpus` a job. For slurm: submitit's parameters, such as
            `slurm_partition` or `timeout_min`, with `cluster="local"` to try it without Slurm.

    Raises:
        LaunchError: The launcher's package is not installed, or its cluster is not there.
    """
    if name == "local":
        if options:
            raise LaunchError("The local launcher takes no --launcher-options: use --device and --jobs-per-device.")
        return LocalLauncher(local_devices(device) * jobs_per_device)
    if name == "ray":
        return RayLauncher(device, jobs_per_device, **options)
    return SlurmLauncher(output / "slurm", **options)


def local_devices(device: str | None) -> list[str]:
    """The devices of this machine that are meant: all GPUs, or else the CPU, by default."""
    import torch

    if device not in (None, "cuda"):
        return [str(device)]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise LaunchError("There is no CUDA device: leave --device out, or give --device cpu.")
    return [f"cuda:{i}" for i in range(count)] or ["cpu"]


class ProcessHandle:
    """A worker on this machine; `device` is free again when it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], device: str, free: list[str]) -> None:
        self._process, self._device, self._free = process, device, free

    def poll(self) -> int | None:
        status = self._process.poll()
        if status is not None and self._device:
            self._free.append(self._device)
            self._device = ""
        return status

    def stop(self) -> None:
        end_process(self._process)


class LocalLauncher:
    """Processes on this machine, each with a device of its own from `devices`; repeat one for several jobs on it."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.slots = len(devices)
        self._free = list(devices)
        self._threads = max((os.cpu_count() or 1) // len(devices), 1)

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        device = self._free.pop(0)
        try:
            process = start_worker([*arguments, "--device", device], log, threads=self._threads)
        except BaseException:
            self._free.insert(0, device)
            raise
        return ProcessHandle(process, device, self._free)

    def close(self) -> None:
        """Nothing is held."""


def start_worker(arguments: Sequence[str], log: Path, *, threads: int | None = None) -> subprocess.Popen[bytes]:
    """Starts Python as a process that ends with the one that started it, however that one ends.

    Its standard input is a pipe that nobody writes to: the worker takes the pipe's end for the end of its parent.
    """
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments, "--with-parent"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C on the terminal is for the launcher alone, which then stops its workers
        )


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, gently first."""
    for send in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(send)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def work(arguments: Sequence[str], log: str) -> int:
    """What a cluster runs for one job: the same worker process; gives its exit status."""
    process = start_worker(arguments, Path(log))
    try:
        return process.wait()
    finally:
        end_process(process)


class RayLauncher:
    """Tasks on a Ray cluster; Ray gives each job its GPUs, and a job whose node was lost is tried again."""

    def __init__(
        self,
        device: str | None,
        jobs_per_device: int,
        *,
        address: str = "auto",
        gpus: float | None = None,
        cpus: float | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise LaunchError("The ray launcher needs Ray: pip install 'ray>=2.40'.") from error
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(_PROJECT)}})
            except ConnectionError as error:
                raise LaunchError(
                    f"There is no Ray cluster at {address}: start one with `ray start --head`."
                ) from error
        self._ray = ray
        if gpus is None:
            has_gpus = device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
            gpus = 1 / jobs_per_device if has_gpus else 0
        self._arguments = ["--device", "cuda"] if gpus else ["--device", "cpu"]
        # One try each: how often a job is tried again is decided in one place, `launch.run_jobs`.
        self._task = ray.remote(num_gpus=gpus, num_cpus=cpus or 1, max_retries=0)(work)
        self.slots = 1000  # Ray keeps its own queue

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        return RayHandle(self._ray, self._task.remote([*arguments, *self._arguments], str(log)))

    def close(self) -> None:
        self._ray.shutdown()


class RayHandle:
    """A task on a Ray cluster."""

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

    def poll(self) -> int | None:
        ready, _ = self._ray.wait([self._task], timeout=0)
        if not ready:
            return None
        try:
            return self._ray.get(self._task)
        except self._ray.exceptions.RayError:  # the node or its memory is gone, not the job's fault
            return EXIT_RETRY

    def stop(self) -> None:
        self._ray.cancel(self._task, force=True)


class SlurmLauncher:
    """Slurm jobs, submitted by submitit, one a job; `cluster="local"` runs them as processes here, to try it out."""

    def __init__(self, folder: Path, *, cluster: str = "slurm", slots: int = 32, **parameters: Any) -> None:
        try:
            import submitit
        except ImportError as error:
            raise LaunchError("The slurm launcher needs submitit: pip install submitit.") from error
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**{"name": "ast_hf", "timeout_min": 720, "gpus_per_node": 1, **parameters})
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise LaunchError(f"Slurm cannot be used ({error}): start this on a node that has sbatch.") from error
        self._lost = submitit.core.utils.UncompletedJobError
        self.slots = slots

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        return SlurmHandle(self._executor.submit(work, list(arguments), str(log)), self._lost)

    def close(self) -> None:
        """Slurm keeps nothing for us."""


class SlurmHandle:
    """A Slurm job."""

    def __init__(self, job: Any, lost: type[Exception]) -> None:
        self._job, self._lost = job, lost

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        try:
            return int(self._job.result())
        except self._lost:  # preempted, timed out, or its node failed
            return EXIT_RETRY

    def stop(self) -> None:
        self._job.cancel(check=False)
