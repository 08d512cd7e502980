"""predict --watch: scores parts as they arrive, each once, over restarts as well."""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from ast_hf.cli.options import LOG, make_predictor
from ast_hf.config import ASTDetectorConfig
from ast_hf.data.folders import EXTENSIONS, SCAN_EXTENSIONS, find_images
from ast_hf.data.reading import quiet
from ast_hf.data.samples import file_sample
from ast_hf.errors import ASTError, ImageReadError, OutputError, RuntimeUnavailableError
from ast_hf.inference import Prediction, Predictor
from ast_hf.inference.drift import DriftMonitor
from ast_hf.results import PictureWriter, RowWriter, error_row, prediction_row, read_rows

_LISTING_SECONDS = 5.0  # the system tells nothing of what other machines write to a network drive
_PATIENCE = 10  # settling times until a file that cannot be read is given up
_Stamp: TypeAlias = tuple[tuple[int, int], ...]  # time of change in ns, and bytes, of each file of a part


def run(options: argparse.Namespace) -> int:
    """Scores what comes into the folder `options.watch`, until Ctrl-C."""
    if options.output is None or options.format == "coco":
        raise ASTError("--watch needs --output, where the rows so far are kept, and --format jsonl or csv.")
    if not 0 <= options.settle < math.inf:
        raise ASTError(f"--settle is {options.settle}: give seconds, 0 or more.")
    try:
        import watchfiles
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise RuntimeUnavailableError(f"--watch needs the package {error.name}: pip install .[watch]") from error
    folder = options.watch.resolve(strict=True)  # a part has one name, wherever the program is called from
    pause = max(50, round(500 * options.settle))  # ms
    changes = watchfiles.watch(folder, watch_filter=None, debounce=pause, rust_timeout=pause, yield_on_timeout=True)
    try:
        with FileLock(options.output / ".lock", timeout=0):
            _score(options, folder, map(bool, changes))
    except Timeout as error:
        raise OutputError(f"Another --watch writes to {options.output}: stop it, or give another --output.") from error
    return 0


def _score(options: argparse.Namespace, folder: Path, changes: Iterable[bool]) -> None:
    predictor = make_predictor(options)
    monitor = DriftMonitor(predictor.calibration) if predictor.calibration else None
    done = _resume(options.output / f"results.{options.format}", predictor, monitor)
    arrivals = _Arrivals(predictor.config, folder, done, options.settle)
    rows = RowWriter(options.format, sys.stdout, options.output, resume=True)
    pictures = PictureWriter(options.output, [str(folder / "any")], raw_maps=options.raw_maps)
    LOG.info("Watching %s; %d parts have been scored before. Ctrl-C ends it.", folder, len(done))
    for has_changed in changes:
        for path, result in _results(predictor, arrivals.complete(has_changed), options):
            if not arrivals.finish(path, failed=isinstance(result, ImageReadError)):
                continue
            if isinstance(result, ImageReadError):
                rows.add(error_row(result, str(path)))
                continue
            rows.add({**prediction_row(result, min_area=options.min_region_area), **pictures.write(result)})
            if monitor and (alarm := monitor.update(result.score, result.name)):
                LOG.warning("%s", alarm)


def _resume(results: Path, predictor: Predictor, monitor: DriftMonitor | None) -> list[str]:
    """Names of the parts that have rows; the monitor gets their scores, unless another detector gave them."""
    done, threshold = [], predictor.calibration and predictor.calibration.threshold()
    for row in read_rows(results):
        done.append(row["image"])
        if monitor and str(row.get("threshold")) == str(threshold):
            monitor.update(float(row["score"]), row["image"])
    if monitor and monitor.alarm:
        LOG.warning("%s", monitor.alarm)
    return done


def _results(
    predictor: Predictor, paths: Iterable[Path], options: argparse.Namespace
) -> Iterator[tuple[Path, Prediction | ImageReadError]]:
    samples = {}
    for path in paths:
        try:
            samples[path] = file_sample(predictor.config, path)
        except ImageReadError as error:  # its scan has not come
            yield path, error
    parts = list(samples.values())
    results = predictor.stream(parts, batch_size=options.batch_size, overlay_size=options.overlay_size)
    yield from zip(samples, results, strict=True)


class _Arrivals:
    """The parts in a folder, each handed out when its files have not changed for `settle` seconds.

    Those called as in `done` are not. The folder is listed each time: what systems tell of changes leaves out files
    that a new folder holds already.
    """

    def __init__(self, config: ASTDetectorConfig, folder: Path, done: Iterable[str], settle: float) -> None:
        self._config, self._settle = config, settle
        self._folder = folder / ("rgb" if config.uses_rgb else "xyz") if config.uses_depth else folder
        self._extensions = EXTENSIONS if config.uses_rgb else SCAN_EXTENSIONS
        self._done = {_storable(name) for name in done}
        self._waiting: dict[Path, tuple[_Stamp, float]] = {}  # with the time since when it is as it is
        self._tried: set[Path] = set()  # those of them that were handed out, and are as they were
        self._is_stale, self._listed, self._took = True, 0.0, 0.0

    def complete(self, has_changed: bool) -> list[Path]:
        """Parts to be read now, in the order of writing; with no change told, the folder is listed now and then."""
        start = time.monotonic()
        self._is_stale |= has_changed or start >= self._listed + _LISTING_SECONDS
        if self._is_stale and start >= self._listed + 5 * self._took:  # where there are very many files
            self._list()
            self._is_stale, self._listed = False, time.monotonic()
            self._took = self._listed - start
        now, found = time.monotonic(), []
        for path, (known, since) in list(self._waiting.items()):
            stamp = self._stamp(path)
            if not stamp:
                del self._waiting[path]
            elif stamp != known:
                self._waiting[path] = stamp, now
                self._tried.discard(path)
            elif now >= since + self._settle * (_PATIENCE if path in self._tried else 1):
                found.append((stamp, path))
        return [path for _, path in sorted(found)]

    def finish(self, path: Path, *, failed: bool) -> bool:
        """Whether what came of reading a part stands, a failure at the second time; if not, it is handed out again."""
        stamp = self._stamp(path)
        is_same = stamp == self._waiting[path][0] or not (stamp or failed)  # a part may be taken away once it is read
        if not is_same or (failed and path not in self._tried):
            self._tried.add(path)
            return False
        del self._waiting[path]
        self._done.add(_storable(str(path)))
        return True

    def _list(self) -> None:
        try:
            with quiet(find_images.__module__):  # which tells each time what it leaves out
                found = find_images(self._folder, self._extensions, may_be_empty=True)
        except ImageReadError as error:  # such as a folder that was removed meanwhile
            LOG.warning("%s", error)
            return
        for path in found:
            if path not in self._waiting and _storable(str(path)) not in self._done:
                self._waiting[path] = (), 0.0

    def _stamp(self, path: Path) -> _Stamp:
        """What changes with the part's files; empty where they are gone."""
        try:
            sample = file_sample(self._config, path)
            files = [Path(str(file)) for file in (sample.image, sample.points) if file is not None]
        except ImageReadError:  # its scan has not come
            files = [path]
        try:
            return tuple((status.st_mtime_ns, status.st_size) for status in map(Path.stat, files))
        except OSError:
            return ()


def _storable(name: str) -> str:
    """A part's name as a results file has it, where names that are no text are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
