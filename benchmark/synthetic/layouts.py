"""Drawn parts, and the files that they become in the layouts that `benchmark.datasets` reads."""

import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import tifffile
from PIL import Image

from ast_hf.errors import DatasetError
from benchmark.datasets import DefectConfig
from benchmark.synthetic import drawing, parts

_DARK, _CRUMB, _DUST, _LEAK = (0.1, 0.09, 0.09), (0.6, 0.42, 0.25), (0.75, 0.72, 0.66), (0.75, 0.62, 0.3)
_DIRT = {"contamination": (3, _DARK)}
_PAINTS = (0.55, 0.16, 0.14), (0.16, 0.25, 0.5), (0.2, 0.4, 0.22)
# Dataset, category -> defect -> height and colours for `Scene.damage`; none where the part's own function draws it.
DEFECTS: dict[tuple[str, str], dict[str, tuple]] = {
    ("mvtec_ad", "carpet"): {"color": (0, *_PAINTS), "cut": (-9, _DARK), "hole": (-9, _DARK)},
    ("mvtec_ad", "metal_nut"): {"color": (0, *_PAINTS), "flip": (), "scratch": (-2.5, (0.95, 0.93, 0.9))},
    ("mvtec_3d_ad", "cookie"): {"contamination": (4, *_PAINTS), "crack": (-18, _CRUMB), "hole": (-18, _CRUMB)},
    ("mvtec_3d_ad", "tire"): {"contamination": (4, _DUST), "cut": (-24, _DARK), "hole": (-24, _DARK)},
    ("visa", "capsules"): {"discolor": (0, (0.6, 0.5, 0.3)), "leak": (5, _LEAK), "scratch": (-2, (0.7, 0.75, 0.7))},
    ("mvtec_loco_ad", "juice_bottle"): {"missing_label": (), "swapped_labels": (), "wrong_fruit": (), **_DIRT},
    ("mvtec_loco_ad", "pushpins"): {"additional_pushpin": (), "color": (), "missing_pushpin": (), **_DIRT},
}
_ENOUGH = {"missing_pushpin": 500, "missing_label": 1000}  # pixels to be found; of other defects the whole
_PATHS = {  # dataset: where a category keeps its pictures and masks
    "mvtec_ad": ("{split}/{kind}/{name}.png", "ground_truth/{kind}/{name}_mask.png"),
    "mvtec_3d_ad": ("{split}/{kind}/rgb/{name}.png", "{split}/{kind}/gt/{name}.png"),
    "visa": ("Data/Images/{kind}/{name}.JPG", "Data/Masks/{kind}/{name}.png"),
    "mvtec_loco_ad": ("{split}/{kind}/{name}.png", "ground_truth/{kind}/{name}/{region:03}.png"),
}


@dataclass(frozen=True)
class Counts:
    """Pictures of each category: good ones by split, `validation` where the layout has it, and of each defect."""

    train: int = 48
    validation: int = 8
    good: int = 12
    anomalous: int = 4


@dataclass(frozen=True, eq=False)
class Part:
    rgb: np.ndarray  # uint8 (H, W, 3)
    masks: list[np.ndarray]  # bool (H, W) each, one a defect region; none for a good part
    xyz: np.ndarray | None  # float32 (H, W, 3), metres, 0 where nothing was measured; only of 3D categories


def draw_part(category: str, index: int, defect: str | None = None, seed: int = 0) -> Part:
    """Draws part `index` (0 or more) of a category in `DEFECTS`; with a defect it is the same part, damaged.

    Raises a DatasetError where the category or the defect is not known.
    """
    defects = {name: kinds for (_, name), kinds in DEFECTS.items()}
    if category not in defects or defect not in (None, *defects[category]):
        raise DatasetError(f"There is no {category!r} with {defect!r} to be drawn: choose from {defects}.")
    rng, flaw = (np.random.default_rng([seed, crc32(f"{category}{of}".encode()), index]) for of in ("", f"/{defect}"))
    camera, sensor = rng.spawn(2)
    scene, region = getattr(parts, category)(rng, flaw, defect)
    if defect and defects[category][defect]:
        scene.damage(flaw, defect, region, *defects[category][defect])
    masks = [scene.marks == number for number in range(1, int(scene.marks.max()) + 1)]
    xyz = drawing.scan(scene, sensor) if ("mvtec_3d_ad", category) in DEFECTS else None
    return Part(drawing.photograph(scene, camera), masks, xyz)


def write_synthetic(root: Path, *, seed: int = 0, counts: Counts = Counts()) -> Path:
    """Writes the datasets into the folder `root`, whole or not at all, unless they are there with these settings;
    raises a DatasetError where it holds something else.
    """
    counts = counts or Counts()
    # The version is that of the drawings: a tree of another one is written anew.
    settings = json.dumps({"version": 1, "seed": seed, "counts": asdict(counts)})
    marker = root / "synthetic.json"
    if marker.is_file() and marker.read_text() == settings:
        return root
    if root.exists() and not marker.is_file() and (root.is_file() or any(root.iterdir())):
        raise DatasetError(f"{root} holds something that is no synthetic data: give a new or an empty folder.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        tree = Path(temporary) / "tree"
        for dataset, category in DEFECTS:
            write_category(tree / dataset, dataset, category, counts, seed)
        (tree / marker.name).write_text(settings)
        shutil.rmtree(root, ignore_errors=True)
        os.replace(tree, root)
    return root


def write_category(root: Path, dataset: str, category: str, counts: Counts, seed: int) -> None:
    """Writes the files of one category below `root`, the dataset's folder."""
    kinds, (image, mask), visa = ["", *DEFECTS[dataset, category]], _PATHS[dataset], dataset == "visa"
    validation = counts.validation if dataset in ("mvtec_3d_ad", "mvtec_loco_ad") else 0
    jobs = [("train", "", counts.train), ("validation", "", validation), ("test", "", counts.good)]
    jobs += [("test", defect, counts.anomalous) for defect in kinds[1:]]
    numbers: Counter[str] = Counter()
    rows = [("object", "split", "label", "image", "mask")]
    for split, defect, index in ((split, defect, index) for split, defect, count in jobs for index in range(count)):
        part = draw_part(category, crc32(f"{split}/{defect}/{index}".encode()), defect or None, seed)
        loco = "structural_anomalies" if defect in ("color", "contamination") else "logical_anomalies"
        bad = {"visa": "Anomaly", "mvtec_loco_ad": loco}.get(dataset, defect)
        at = {"split": split, "kind": bad if defect else "Normal" if visa else "good", "name": ""}
        folder = image.format(**at)
        at["name"] = f"{numbers[folder]:03}"
        numbers[folder] += 1
        files = {image.format(**at): part.rgb}
        if part.xyz is not None:
            files["{split}/{kind}/xyz/{name}.tiff".format(**at)] = part.xyz
        value = {"visa": kinds.index(defect), "mvtec_loco_ad": 256 - kinds.index(defect)}.get(dataset, 255)
        regions = part.masks if dataset == "mvtec_loco_ad" else [np.any([part.rgb[..., 0] < 0, *part.masks], axis=0)]
        if defect or dataset == "mvtec_3d_ad":
            files |= {mask.format(region=i, **at): region * np.uint8(value) for i, region in enumerate(regions)}
        for path, content in files.items():
            (root / category / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("tiff"):
                tifffile.imwrite(root / category / path, content, photometric="rgb")
            else:  # written quickly, as grain does not compress
                Image.fromarray(content).save(root / category / path, quality=95, compress_level=1)
        if visa:
            picture, truth = [*(f"{category}/{path}" for path in files), ""][:2]
            rows.append((category, split, "anomaly" if defect else "normal", picture, truth))
    if visa:
        (root / "split_csv").mkdir()
        (root / "split_csv" / "1cls.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    if dataset == "mvtec_loco_ad":
        defects = [(kind, 256 - i, _ENOUGH.get(kind, 1), kind not in _ENOUGH) for i, kind in enumerate(kinds) if kind]
        config = json.dumps([asdict(DefectConfig(*defect)) for defect in defects], indent=2)
        (root / category / "defects_config.json").write_text(config)
