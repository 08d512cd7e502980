"""Jobs that nobody trains, and launchers that start nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.jobs import Job, read_spec, write_result


def make_job(**changes: Any) -> Job:
    """A job with as little in it as a job can have."""
    fields: dict[str, Any] = {
        "dataset": "mvtec_ad",
        "category": "bottle",
        "seed": 0,
        "config": {"modality": "rgb"},
        "recipe": {"epochs": 2},
        "data_root": "data",
    }
    return Job(**{**fields, **changes})


class FakeHandle:
    """A worker that takes two looks to end; where it ends well it has written its result."""

    def __init__(self, spec: Path, status: int) -> None:
        self.spec, self.status, self.looks, self.stopped = spec, status, 0, False

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 2:
            return None
        if self.status == 0:
            job, output = read_spec(self.spec)
            write_result(output, job, {"figures": {}, "seconds": {"total": 1.0}})
        return self.status

    def stop(self) -> None:
        self.stopped = True


class FakeLauncher:
    """Gives each seed's job the exit statuses that `statuses` lists for it, one a try, and 0 after that."""

    def __init__(self, statuses: dict[int, list[int]], slots: int = 2) -> None:
        self.slots = slots
        self.statuses = statuses
        self.started: list[int] = []
        self.handles: list[FakeHandle] = []
        self.most_at_once = 0
        self.closed = False

    def start(self, arguments: Sequence[str], log: Path) -> FakeHandle:
        spec = Path(arguments[2])
        seed = read_spec(spec)[0].seed
        self.started.append(seed)
        waiting = self.statuses.get(seed, [])
        self.handles.append(FakeHandle(spec, waiting.pop(0) if waiting else 0))
        self.most_at_once = max(self.most_at_once, sum(handle.looks < 2 for handle in self.handles))
        return self.handles[-1]

    def close(self) -> None:
        self.closed = True
