"""Jobs that nobody trains, and a launcher that starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.jobs import Job, read_spec, write_result
from benchmark.launch import Handle, Launcher


def make_job(**changes: Any) -> Job:
    """A job with as little in it as a job can have."""
    fields: dict[str, Any] = {
        "dataset": "mvtec_ad", "category": "bottle", "seed": 0, "config": {"modality": "rgb"}, "recipe": {"epochs": 2},
        "data_root": "data",
    }  # fmt: skip
    return Job(**{**fields, **changes})


class FakeLauncher(Launcher):
    """Workers that take two looks to end, and write their result where they end with 0.

    Args:
        statuses: The exit statuses of each seed's job, one a try, and 0 after that; "lost" is 0 without a result.
        slots: As `Launcher`.
    """

    def __init__(self, statuses: dict[int, list[Any]] | None = None, slots: int = 2) -> None:
        self.slots, self.statuses = slots, statuses or {}
        self.started: list[int] = []
        self.active: list[int] = []
        self.most_at_once, self.closed = 0, False

    def start(self, arguments: Sequence[str], log: Path) -> Handle:
        job, output = read_spec(Path(arguments[2]))
        self.started.append(job.seed)
        self.active.append(job.seed)
        self.most_at_once = max(self.most_at_once, len(self.active))
        statuses, looks = self.statuses.get(job.seed), iter([False])

        def poll() -> int | None:
            if next(looks, True) is False:
                return None
            self.active.remove(job.seed)
            status = statuses.pop(0) if statuses else 0
            if status == 0:
                write_result(output, job, {"figures": {"image_auroc": 1.0}})
            return 0 if status == "lost" else status

        return Handle(poll, lambda: self.active.remove(job.seed))

    def close(self) -> None:
        self.closed = True
