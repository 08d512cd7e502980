"""How far training has come: what is told of it, and progress bars that show it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol


class Progress(Protocol):
    """Told how far training has come."""

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        """`done` of `total` parts of the stage "features" or "parts", or epochs of another, and the epoch's mean loss.

        Those are "teacher" and "student", and of a second pair "local teacher" and "local student".
        """


@contextlib.contextmanager
def progress_bars(given: Progress | None = None) -> Iterator[Progress]:
    """The `Progress` that is given, or else one bar a stage on stderr, where that is a terminal."""
    if given is not None:
        yield given
        return
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    with contextlib.ExitStack() as drawn:

        def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
            if stage not in bars:
                drawn.close()
                unit = "part" if stage in ("features", "parts") else "epoch"
                bars[stage] = drawn.enter_context(tqdm(total=total, desc=f"{stage:8}", unit=unit, disable=None))
            if loss is not None:
                bars[stage].set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bars[stage].update(done - bars[stage].n)

        yield report
