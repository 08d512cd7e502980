"""`python -m benchmark.download`: puts datasets into place, checked and whole, once their licence is accepted."""

import argparse
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ast_hf.errors import ASTError
from benchmark.archives import Archive, DownloadError, fetch, load_archives, unpack, verify
from benchmark.datasets import DATASETS, dataset_folder

_LOG = logging.getLogger("benchmark")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; gives 0, 1 where a dataset failed, 2 where a licence is not accepted, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.download", description=__doc__.partition(": ")[2])
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="mvtec_ad, visa, ...: see --list")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds the datasets")
    parser.add_argument("--categories", nargs="+", default=[], help="categories to get (default: all)")
    parser.add_argument("--accept-license", action="store_true", help="accept the licences without being asked")
    parser.add_argument("--url", help="another link to the same archive; its checksum still applies")
    parser.add_argument("--keep-archive", action="store_true", help="keep the archive after unpacking")
    parser.add_argument("--list", action="store_true", help="say what there is, and under what licence")
    options = parser.parse_args(arguments)
    options.data_root = options.data_root.expanduser()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.list or not options.datasets:
        sys.stdout.write("".join(f"{how_to_get(dataset)}\n" for dataset in options.datasets or DATASETS))
        return 0
    try:
        return max([_download(dataset, options) for dataset in dict.fromkeys(options.datasets)])
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


def _download(dataset: str, options: argparse.Namespace) -> int:
    try:
        whole, single = load_archives(dataset)
        if whole is None:
            raise DownloadError(how_to_get(dataset))
        options.data_root.mkdir(parents=True, exist_ok=True)
        with FileLock(options.data_root / f".{dataset}.lock", timeout=0):
            root, archives = _missing(dataset, whole, single, options)
            if archives and not _accepted(dataset, options.accept_license):
                _LOG.error("%s is not downloaded: accept its licence with --accept-license.", dataset)
                return 2
            if options.url and len(archives) > 1:
                raise DownloadError(f"--url is one link, but {len(archives)} archives are missing: give one category.")
            for archive, names in archives.items():
                _get(dataset, archive, names, root, options)
        _LOG.info("%s is complete in %s.", dataset, root)
        return 0
    except Timeout:
        _LOG.error("Another download of %s to %s is under way: wait for it.", dataset, options.data_root)
    except (ASTError, OSError) as error:
        _LOG.error("%s: %s", dataset, error)
    return 1


def _accepted(dataset: str, accepted: bool) -> bool:
    facts = DATASETS[dataset]
    _LOG.info("%s\n  Terms: %s\n  To cite: %s", how_to_get(dataset), facts.download_page, facts.citation)
    if not accepted and sys.stdin.isatty():
        sys.stderr.write("Do you accept the licence (yes/no)? ")
        return sys.stdin.readline().strip().lower() == "yes"
    return accepted


def _missing(
    dataset: str, whole: Archive, single: Mapping[str, Archive], options: argparse.Namespace
) -> tuple[Path, dict[Archive, list[str]]]:
    """The folder where the reader looks for a dataset, and what is not in it, by the archive to take it from."""
    official = DATASETS[dataset].categories
    if unknown := sorted(set(options.categories) - set(official)):
        raise DownloadError(f"{dataset} has no {', '.join(unknown)}: choose from {', '.join(official)}.")
    root = dataset_folder(dataset, options.data_root)
    wanted = dict.fromkeys((whole.extra, *(options.categories or official)))
    names = [name for name in wanted if name and not (root / name).is_dir()]
    if options.categories and single and not (root / whole.name).is_file():
        return root, {single[name]: [name] for name in names}
    return root, {whole: names} if names else {}


def _get(dataset: str, archive: Archive, names: list[str], root: Path, options: argparse.Namespace) -> None:
    root.mkdir(exist_ok=True)
    path = root / archive.name
    kept = path.is_file()
    needed = archive.size * (archive.expansion + (0 if kept else 1))
    if shutil.disk_usage(root).free < needed:
        where = f"{needed / 1e9:.1f} GB in {root} to be downloaded and unpacked"
        raise DownloadError(f"{dataset} needs {where}: free some, or choose another --data-root.")
    if kept:
        verify(path, archive)
    else:
        hint = f"Links change: give one from {DATASETS[dataset].download_page} with --url, or put the file at {path}."
        fetch(archive, options.url or archive.url, path, hint)
    if not archive.checksum.startswith("sha256"):
        _LOG.warning("%s: only its %s", path, "MD5 is known" if archive.checksum else "size and format are checked")
    unpack(path, root, names, max_bytes=4 * archive.expansion * path.stat().st_size)
    if not (kept or options.keep_archive):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
