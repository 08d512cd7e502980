from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from ast_hf import ASTDetectorConfig, CheckpointError
from ast_hf.calibration import Calibration
from ast_hf.card import is_untouched, write_card

METRICS = {
    "dataset": "mvtec_loco_ad",
    "category": "pushpins",
    "preset": "mvtec-loco-ad",
    "protocol": "Of the last epoch.",
    "figures": {"image_auroc": 0.83412345678901234, "au_spro_0.05": 0.427, "recall": 1},
    "std": {"image_auroc": 0.0041},
    "seeds": [0, 1, 2],
    "published": {"image_auroc": "83.4 (EfficientAD's authors)"},
    "receipt": {"commit": "0123456789ab", "torch": "2.11.0"},
}


def card(modality: str = "rgb", calibration: Calibration | None = None, metrics: object = None, **options: bool) -> str:
    config = ASTDetectorConfig.preset("mvtec-3d-ad", modality=modality)
    return write_card(config, calibration, metrics, repo_id="org/ast-loco-pushpins", **options)


def test_model_index_is_read_back_equal() -> None:
    read = ModelCard(card(metrics=METRICS))
    assert {r.metric_type: r.metric_value for r in read.data.eval_results} == METRICS["figures"]
    result = read.data.eval_results[0]
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("mvtec_loco_ad", "pushpins", "test")
    assert result.metric_args == {"seeds": [0, 1, 2], "std": 0.0041, "protocol": "Of the last epoch."}
    assert read.data.model_name == "ast-loco-pushpins"
    assert (read.data.license, read.data.library_name) == ("cc-by-nc-sa-4.0", "ast-hf")
    assert read.data.base_model == "timm/tf_efficientnet_b5.aa_in1k"


def test_the_text_says_what_a_user_needs() -> None:
    text = card(calibration=Calibration((0.5, 1.0), (1.0, 2.0), 0.1), metrics=METRICS, picture=True)
    for words in (
        "![A part and its heat map](heat_map.png)", 'from_pretrained("org/ast-loco-pushpins").predict("part.png")',
        "| Image AUROC | 83.41 ± 0.41 | 83.4 (EfficientAD's authors) |", "| AU-sPRO 0.05 | 42.70 |  |",
        "over seeds 0, 1, 2; the weights here are of seed 0", "79.7 % against 86.8 %", "- commit: 0123456789ab",
        "2 good parts kept out of training set the threshold", "false-positive rate 0.1",
    ):  # fmt: skip
        assert words in text, words
    assert 'predict("part.png", points="part.tiff")' in card("rgb+depth")
    assert 'predict(points="part.tiff")' in card("depth")
    assert ModelCard(card("depth")).data.base_model is None


def test_without_metrics_nothing_is_claimed() -> None:
    read = ModelCard(card())
    assert read.data.eval_results is None
    assert read.data.license == "other"
    assert "None were measured." in read.text
    assert "no verdicts" in read.text


@pytest.mark.parametrize(
    ("dataset", "data", "licence"),
    [
        ("visa", "files", "cc-by-4.0"), ("mvtec_ad", "files", "cc-by-nc-sa-4.0"), ("magnetic_tile", "files", "other"),
        ("mvtec_ad", "synthetic", "apache-2.0"),
    ],
)  # fmt: skip
def test_the_datas_licence(dataset: str, data: str, licence: str) -> None:
    text = card(metrics={"dataset": dataset, "data": data, "figures": {"image_auroc": 0.9}})
    assert ModelCard(text).data.license == licence
    assert ("synthetic" in text) == (data == "synthetic")


def test_an_edit_shows() -> None:
    text = card(metrics=METRICS, calibration=Calibration((0.5,), (1.0,)))
    assert is_untouched(text)
    assert is_untouched(str(ModelCard(text)))
    assert is_untouched(text.replace("\n", "\r\n"))
    assert not is_untouched(text.replace("83.41", "99.99"))
    assert not is_untouched(text.replace("license: cc-by-nc-sa-4.0", "license: mit"))
    assert not is_untouched(text + "More.\n")
    assert not is_untouched("# My own card\n")


@pytest.mark.parametrize(
    "change",
    [
        {"figures": {"image_auroc": "high"}},
        {"figures": {"x": float("nan")}},
        {"std": [1]},
        {"dataset": 5},
        {"seeds": 3},
    ],
)
def test_unusable_metrics_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        card(metrics={**METRICS, **change})


def test_the_card_says_how_the_embedded_backbone_was_made() -> None:
    text = write_card(ASTDetectorConfig.preset("compact"), None, repo_id="org/mine")
    assert "ast-tiny, which comes with ast_hf" in text and "python -m ast_hf.distill" in text
    assert ModelCard(text).data.base_model is None
