"""What the benchmark knows of each dataset before any of it is there, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset; a user's own data have no categories, no citation and no limit."""

    name: str  # on the command line, and of its folder
    title: str  # in texts
    licence: str  # under what terms the data may be used
    checkpoint_prefix: str  # what stands before the category in the name of a checkpoint
    hub_licence: str = "other"  # the licence as the Hub spells it
    citation: str = ""  # the paper to cite, on one line
    download_page: str = ""  # where the data come from
    preset: str = "compact"  # the configuration preset that is used unless another is named
    modalities: tuple[str, ...] = ("rgb",)  # of `ASTDetectorConfig.modality`; each gets tables of its own
    categories: tuple[str, ...] = ()  # in their official order
    limit: str = ""  # what AST is weak at on it, as published, with the source


FACTS = (
    DatasetFacts(
        name="mvtec_ad",
        title="MVTec AD",
        licence="CC BY-NC-SA 4.0",
        hub_licence="cc-by-nc-sa-4.0",
        citation="Bergmann, Fauser, Sattlegger, Steger: MVTec AD - A Comprehensive Real-World Dataset for Unsupervised "
        "Anomaly Detection, CVPR 2019",
        download_page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        preset="mvtec-ad",
        checkpoint_prefix="ast-mvtec-",
        categories=(
            *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw"),
            *("tile", "toothbrush", "transistor", "wood", "zipper"),
        ),
        limit="AST detects better than it localises: the paper has an image AUROC of 99.2 % on average, but a pixel "
        "AUROC of 95.0 % against 98.4 % of PatchCore (Rudolph et al., tables 2 and 4).",
    ),
    DatasetFacts(
        name="mvtec_3d_ad",
        title="MVTec 3D-AD",
        licence="CC BY-NC-SA 4.0",
        hub_licence="cc-by-nc-sa-4.0",
        citation="Bergmann, Jin, Sattlegger, Steger: The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and "
        "Localization, VISAPP 2022",
        download_page="https://www.mvtec.com/company/research/datasets/mvtec-3d-ad",
        preset="mvtec-3d-ad",
        checkpoint_prefix="ast-mvtec3d-",
        modalities=("rgb+depth", "rgb", "depth"),
        categories=("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire"),
        limit="Newer methods are ahead: on RGB and depth the paper has an image AUROC of 93.7 % on average against "
        "97.8 % of 3DSR, and a pixel AUROC of 97.6 % against 99.2 % of PatchCore + FPFH (Rudolph et al., tables 3 and "
        "4).",
    ),
    DatasetFacts(
        name="mvtec_loco_ad",
        title="MVTec LOCO AD",
        licence="CC BY-NC-SA 4.0",
        hub_licence="cc-by-nc-sa-4.0",
        citation="Bergmann, Batzner, Fauser, Sattlegger, Steger: Beyond Dents and Scratches: Logical Constraints in "
        "Unsupervised Anomaly Detection and Localization, IJCV 2022",
        download_page="https://www.mvtec.com/company/research/datasets/mvtec-loco",
        preset="mvtec-loco-ad",
        checkpoint_prefix="ast-loco-",
        categories=("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"),
        limit="Logical anomalies (a part too many, or in the wrong place) are AST's weak side: an image AUROC of "
        "79.7 % against 86.8 % of EfficientAD-M (AST as run by the authors of EfficientAD, WACV 2024, table 2).",
    ),
    DatasetFacts(
        name="visa",
        title="VisA",
        licence="CC BY 4.0",
        hub_licence="cc-by-4.0",
        citation="Zou, Jeong, Pemula, Zhang, Dabeer: SPot-the-Difference Self-Supervised Pre-training for Anomaly "
        "Detection and Segmentation, ECCV 2022",
        download_page="https://github.com/amazon-science/spot-diff",
        preset="visa",
        checkpoint_prefix="ast-visa-",
        categories=(
            *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
            *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
        ),
        limit="AST is behind: an image AUROC of 94.9 % on average against 98.1 % of EfficientAD-M (AST as run by the "
        "authors of EfficientAD, WACV 2024, table 2).",
    ),
    DatasetFacts(
        name="magnetic_tile",
        title="magnetic tile",
        licence="none stated; for research, with citation",
        citation="Huang, Qiu, Yuan: Surface defect saliency of magnetic tile, The Visual Computer 2020",
        download_page="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        checkpoint_prefix="ast-",
        categories=("magnetic_tile",),
    ),
    DatasetFacts(name="folder", title="folder", licence="the user's own", checkpoint_prefix="ast-folder-"),
    DatasetFacts(
        name="hub",
        title="hub",
        licence="as the dataset's page says",
        download_page="https://huggingface.co/datasets",
        checkpoint_prefix="ast-hub-",
    ),
)
