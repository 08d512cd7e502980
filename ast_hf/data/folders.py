"""Pictures in folders: which are found, which belong together, and which folders hold more than good parts."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath

from ast_hf.errors import ImageReadError

_LOG = logging.getLogger(__name__)
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
SCAN_EXTENSIONS = frozenset({".tif", ".tiff"})
# What folders are called, in any case: those of good parts, and those that are never learnt as good parts.
GOOD_NAMES = frozenset({"good", "normal", "ok"})
NOT_GOOD_NAMES = frozenset(
    {"test", "ground_truth", "masks", "bad", "abnormal", "anomaly", "anomalies", "defect", "defects", "ng", "nok", "ko"}
)
_OUTPUT_MARKER = ".ast_hf_output"


def find_images(
    folder: str | os.PathLike[str], extensions: Collection[str] = EXTENSIONS, *, may_be_empty: bool = False
) -> list[Path]:
    """Lists the pictures under a folder by their extension, in any case, sorted.

    Folders in it are entered, linked ones as well, each once. Left out are hidden files and folders, and folders that
    this program has written pictures to (`mark_output`). Empty and damaged files are listed: reading them fails with
    a reason, where leaving them out would hide the loss.

    Raises an `ImageReadError` where the folder is missing, cannot be listed, or, unless `may_be_empty`, has no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        problem = "this is a file; give the folder that it lies in." if root.exists() else "there is no such folder."
        raise ImageReadError(root, problem)

    def refuse(error: OSError) -> None:
        raise ImageReadError(error.filename, f"the folder cannot be listed ({error.strerror}).") from error

    found: list[Path] = []
    # With the folders around it: a link to one of these would bring the same pictures again, and all of its others.
    seen = {root.resolve(), *root.resolve().parents}
    for parent, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        if _is_output(Path(parent)):
            _LOG.info("%s is left out: this program wrote it.", parent)
            folders.clear()
            continue
        for path in sorted((Path(parent, name) for name in folders), key=lambda path: (path.is_symlink(), path)):
            if is_hidden(path.name) or path.resolve() in seen:
                folders.remove(path.name)
            else:
                seen.add(path.resolve())
        found += [Path(parent, name) for name in files if not is_hidden(name)]
    found = [path for path in found if path.suffix.lower() in extensions]
    if not found and not may_be_empty:
        raise ImageReadError(root, f"there are no pictures ({', '.join(sorted(extensions))}) in this folder.")
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that systems make, and no part of a dataset."""
    return name.startswith((".", "__MACOSX"))


def mark_output(folder: Path) -> None:
    """Makes a folder, if need be, whose pictures are not taken for parts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _OUTPUT_MARKER).touch()


def _is_output(folder: Path) -> bool:
    # Versions before the marker wrote overlays beside their rows.
    old = folder.name == "overlays" and any(folder.with_name(f"results.{kind}").exists() for kind in ("jsonl", "csv"))
    return old or (folder / _OUTPUT_MARKER).exists()


def pair_files(
    folder: Path,
    other: Path,
    what: str,
    *,
    suffix: str = "",
    extensions: Collection[str] = EXTENSIONS,
    other_extensions: Collection[str] = EXTENSIONS,
) -> list[tuple[Path, Path]]:
    """Pairs each file under a folder with the one of the same path, endings apart, under another folder.

    Counterparts, which errors call `what`, such as "mask", may have a `suffix`, such as "_mask", behind the name; those
    left over are passed by. Raises an `ImageReadError` where a file has none, or two differ by their ending only.
    """
    files, others = _by_path(folder, extensions), _by_path(other, other_extensions)
    pairs = []
    for path, file in files.items():
        counterpart = others.get(path + suffix) or others.get(path)
        if counterpart is None:
            expected = f"{other / path}{suffix}{next(iter(others.values())).suffix}"
            raise ImageReadError(file, f"its {what} is missing: add {expected}, or remove this file.")
        pairs.append((file, counterpart))
    return pairs


def pair_scans(folder: Path) -> list[tuple[Path, Path]]:
    """`pair_files` of pictures under `folder`/rgb and scans under `folder`/xyz; none may be single."""
    rgb, xyz = folder / "rgb", folder / "xyz"
    pair_files(xyz, rgb, "picture", extensions=SCAN_EXTENSIONS)
    return pair_files(rgb, xyz, "scan", other_extensions=SCAN_EXTENSIONS)


def _by_path(folder: Path, extensions: Collection[str]) -> dict[str, Path]:
    by_path: dict[str, Path] = {}
    for file in find_images(folder, extensions):
        if (twin := by_path.setdefault(str(file.relative_to(folder).with_suffix("")), file)) is not file:
            raise ImageReadError(file, f"{twin} differs by its ending only; remove the one that is not meant.")
    return by_path


def check_good_parts(root: str | os.PathLike[str], files: Iterable[PurePath]) -> None:
    """Refuses a dataset's root to train on, where defects and masks would be learnt as good parts.

    Raises an `ImageReadError` that says which folder is meant where one of the pictures `files`, by their paths below
    `root`, is named as in `NOT_GOOD_NAMES` or train/good.
    """
    folders = sorted({parent for file in files for parent in file.parents})
    wrong = [folder for folder in folders if folder.name.casefold() in NOT_GOOD_NAMES]
    good = [folder for folder in folders if folder.name.casefold() in GOOD_NAMES]
    good = [folder for folder in good if NOT_GOOD_NAMES.isdisjoint(folder.as_posix().casefold().split("/"))]
    if wrong or any(folder.parent.name.casefold() == "train" for folder in good):
        shown, meant = f"as {(wrong or good)[0]}/ in it shows", f", such as {Path(root) / good[0]}" if good else ""
        reason = f"this is a dataset's root, {shown}, and only good parts are to be learnt; give their folder{meant}."
        raise ImageReadError(root, reason)


def describe_folders(files: Iterable[PurePath]) -> str:
    """How many of some files come from which folders, such as "20 from parts/a, 12 from parts/b"."""
    counts = Counter(str(file.parent) for file in files)
    texts = [f"{count} from {folder}" for folder, count in list(counts.items())[:8]]
    if (more := len(counts) - 8) > 0:
        texts.append(f"the others from {more} more folders")
    return ", ".join(texts)
