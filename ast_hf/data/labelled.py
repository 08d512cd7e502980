"""Folders of labelled parts: good ones, and a folder for each kind of defect, with masks where there are any."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from ast_hf.config import ASTDetectorConfig
from ast_hf.data.folders import GOOD_NAMES, find_images, is_hidden
from ast_hf.data.sample import GOOD, LabelledSample
from ast_hf.data.samples import collect_samples
from ast_hf.errors import DatasetError

_MASKS = ("ground_truth", "masks")
_NO_KINDS = {"train", "validation", *_MASKS}


def labelled_samples(config: ASTDetectorConfig, folder: Path) -> list[LabelledSample]:
    """Finds good/ (or another of `GOOD_NAMES`) and a folder a kind of defect; no picture is opened.

    Masks of KIND/NAME.jpg are NAME_mask.png, NAME.png or all in a folder NAME/, in ground_truth/KIND/ or masks/KIND/ in
    the folder or beside it, or in KIND/gt/; or NAME_mask.png beside the picture. Good parts have none.

    The configuration's modality says what a part is (`collect_samples`). The folders may lie in the test/ of `folder`.
    Raises a `DatasetError` where good parts or defects are missing, or the masks of some pictures of a kind, and an
    `ImageReadError` where a folder cannot be listed or has no pictures.
    """
    root = folder / "test" if (folder / "test").is_dir() else folder
    found = sorted(root.iterdir()) if root.is_dir() else []
    kinds = [p for p in found if p.is_dir() and not is_hidden(p.name) and p.name.casefold() not in _NO_KINDS]
    samples = [sample for kind in kinds for sample in _of_kind(config, root, kind)]
    if len({sample.label for sample in samples}) < 2:
        raise DatasetError(
            f"{folder} must hold a folder of good parts, called {', '.join(sorted(GOOD_NAMES))}, and others "
            f"of defective ones, but its folders are: {', '.join(path.name for path in kinds) or 'none'}."
        )
    return samples


def _of_kind(config: ASTDetectorConfig, root: Path, kind: Path) -> list[LabelledSample]:
    rgb = kind / "rgb"
    found = collect_samples(config, rgb if rgb.is_dir() and not config.uses_depth else kind)
    # Any: in folders all are paths, but for the pictures that a detector of depth alone does without.
    parts: dict[Path, tuple[str, Any]] = {path: (_name(path, kind), s) for s in found if (path := Path(s.name))}
    names, masks = {name for name, _ in parts.values()}, _masks(root, kind)
    for path, (name, _) in list(parts.items()):
        if name.endswith("_mask") and name.removesuffix("_mask") in names:
            masks[name.removesuffix("_mask")].append(path)
            del parts[path]
    if masks and (alone := [path for path, (name, _) in parts.items() if name not in masks]):
        raise DatasetError(f"{alone[0]} has no mask, and others have one: add its mask, or remove the picture.")
    label = int(kind.name.casefold() not in GOOD_NAMES)
    defect = kind.name if label else GOOD
    return [
        LabelledSample(s.image, s.points, label=label, defect=defect, masks=tuple(masks.get(name, ())))
        for name, s in parts.values()
    ]


def _masks(root: Path, kind: Path) -> defaultdict[str, list[Path]]:
    """The masks of a kind of defect by the names of their pictures."""
    masks = defaultdict[str, list[Path]](list)
    folders = [where / name / kind.name for where in (root, root.parent) for name in _MASKS]
    for folder in filter(Path.is_dir, [kind / "gt", *folders]):
        for path in find_images(folder):
            name = _name(path, folder)
            for picture in (name.removesuffix("_mask"), str(Path(name).parent)):  # MVTec LOCO AD has NAME/000.png
                masks[picture].append(path)
    return masks


def _name(path: Path, folder: Path) -> str:
    """Where a file lies in its folder, without its ending."""
    base = next(base for base in (folder / "rgb", folder / "xyz", folder) if path.is_relative_to(base))
    return str(path.relative_to(base).with_suffix(""))
