"""`python -m benchmark.download`: brings datasets into place, checked and whole, once their licence is accepted."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ast_hf.errors import ASTError
from benchmark.archives import Archive, DownloadError, Patience, fetch, length, load_archives, unpack, verify
from benchmark.datasets import DATASETS, dataset_folder

_LOG = logging.getLogger("benchmark")


def main(arguments: Sequence[str] | None = None, patience: Patience | None = None) -> int:
    """Runs the command line; gives 0, 1 where a dataset failed, 2 where a licence is not accepted, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.download", description=__doc__.partition(": ")[2])
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="mvtec_ad, visa, ...: see --list")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds the datasets")
    parser.add_argument("--categories", nargs="+", default=[], help="categories to get (default: all)")
    parser.add_argument("--accept-license", action="store_true", help="accept the licences without being asked")
    parser.add_argument("--url", help="another link to the same archive; its checksum still applies")
    parser.add_argument("--keep-archive", action="store_true", help="keep the archive after unpacking")
    parser.add_argument("--list", action="store_true", help="say what there is, and under what licence")
    parser.set_defaults(patience=patience or Patience())
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.list or not options.datasets:
        sys.stdout.write("".join(f"{how_to_get(dataset)}\n" for dataset in options.datasets or DATASETS))
        return 0
    try:
        return max([_try(dataset, options) for dataset in dict.fromkeys(options.datasets)])
    except KeyboardInterrupt:
        _LOG.error("Stopped: the same command continues from here.")
        return 130


def how_to_get(dataset: str, data_root: Path | None = None) -> str:
    """Says in two lines under what licence a dataset is to be had and how large it is, and which command gets it."""
    if dataset not in DATASETS:
        return f"There is no dataset {dataset!r}.\n  Choose from {', '.join(DATASETS)}."
    facts, (archive, _) = DATASETS[dataset], load_archives(dataset)
    licence = f"{dataset}: licence {facts.licence}" + (" (no commercial use)" if "-NC" in facts.licence else "")
    if archive is None:
        return f"{licence}.\n  No archive of it is known: get it from {facts.download_page or 'its owner'}"
    sizes = f"{archive.size / 1e9:.1f} GB to download, {archive.size * archive.expansion / 1e9:.1f} GB unpacked"
    where = "" if data_root in (None, Path("data")) else f" --data-root {data_root}"
    return f"{licence}; {sizes}.\n  python -m benchmark.download {dataset}{where}"


def _try(dataset: str, options: argparse.Namespace) -> int:
    try:
        root, archives = _missing(dataset, options)
        if not archives:
            _LOG.info("%s: nothing is missing in %s.", dataset, root)
            return 0
        if not _accepted(dataset, options.accept_license):
            _LOG.error("%s is not downloaded: accept its licence with --accept-license.", dataset)
            return 2
        root.mkdir(exist_ok=True)
        with FileLock(root / f".{dataset}.lock", timeout=0):
            _, archives = _missing(dataset, options)  # again, as another download may have ended in between
            if options.url and len(archives) > 1:
                raise DownloadError(f"--url is one link, but {len(archives)} archives are missing: give one category.")
            for archive, names in archives.items():
                _get(dataset, archive, names, root, options)
        _LOG.info("%s is complete in %s", dataset, root)
        return 0
    except ASTError as error:
        _LOG.error("%s", error)
    except Timeout:
        _LOG.error("Another download of %s to %s is under way: wait for it.", dataset, options.data_root)
    except OSError as error:
        _LOG.error("%s: %s. Mend it and try again.", error.filename or options.data_root, error.strerror or error)
    return 1


def _accepted(dataset: str, accepted: bool) -> bool:
    facts = DATASETS[dataset]
    _LOG.info("%s\n  Terms: %s\n  To cite: %s", how_to_get(dataset), facts.download_page, facts.citation)
    if not accepted and sys.stdin.isatty():
        sys.stderr.write("Do you accept the licence (yes/no)? ")
        return sys.stdin.readline().strip().lower() == "yes"
    return accepted


def _missing(dataset: str, options: argparse.Namespace) -> tuple[Path, dict[Archive, list[str]]]:
    """The folder where the reader looks for a dataset, and what is not in it, by the archive to take it from."""
    whole, single = load_archives(dataset)
    if whole is None:
        raise DownloadError(how_to_get(dataset))
    official = DATASETS[dataset].categories
    if unknown := sorted(set(options.categories) - set(official)):
        raise DownloadError(f"{dataset} has no {', '.join(unknown)}: choose from {', '.join(official)}.")
    options.data_root.expanduser().mkdir(parents=True, exist_ok=True)
    root = dataset_folder(DATASETS[dataset], options.data_root)
    wanted = dict.fromkeys((whole.extra, *(options.categories or official)))
    names = [name for name in wanted if name and not (root / name).is_dir()]
    if options.categories and single and not (root / whole.name).is_file():
        return root, {single[name]: [name] for name in names}
    return root, {whole: names} if names else {}


def _get(dataset: str, archive: Archive, names: list[str], root: Path, options: argparse.Namespace) -> None:
    path, part = root / archive.name, root / f"{archive.name}.part"
    if kept := path.is_file():
        try:
            verify(path, archive)
        except DownloadError as error:
            _LOG.warning("%s", error)
            kept = False
    share = len(names) / len(DATASETS[dataset].categories) if archive.checksum else 1.0
    ahead, unpacked = 0 if kept else archive.size - length(part), archive.size * archive.expansion * share
    if (free := shutil.disk_usage(root).free) < ahead + unpacked:
        needs = f"needs {ahead / 1e9:.1f} GB to download it and {unpacked / 1e9:.1f} GB to unpack it"
        raise DownloadError(f"{dataset} {needs}, and {root} has {free / 1e9:.1f} GB: choose another --data-root.")
    if not kept:
        hint = f"Links change: give one from {DATASETS[dataset].download_page} with --url, or put the file at {path}."
        fetch(archive, options.url or archive.url, part, hint, options.patience)
        verify(part, archive)
        part.replace(path)
        part.with_name(f"{part.name}.from").unlink(missing_ok=True)
    if not archive.checksum.startswith("sha256"):
        _LOG.warning("%s: only its %s", path, "MD5 is known" if archive.checksum else "size and format are checked")
    unpack(path, root, names, max_bytes=4 * archive.expansion * length(path))
    if not (kept or options.keep_archive):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
