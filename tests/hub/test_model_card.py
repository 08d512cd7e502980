"""Model cards: figures that are read back, what a user needs to know, and edits that show."""

import pytest
from huggingface_hub import ModelCard

from ast_hf import ASTDetectorConfig, CheckpointError
from ast_hf.hub.model_card import is_untouched, write_card
from ast_hf.inference import Calibration

METRICS = {
    "dataset": "mvtec_loco_ad",
    "title": "MVTec LOCO AD",
    "licence": "cc-by-nc-sa-4.0",
    "limit": "Logical anomalies are AST's weak side.",
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
    data = ModelCard(card(metrics=METRICS)).data
    assert {r.metric_type: r.metric_value for r in data.eval_results} == METRICS["figures"]
    result = data.eval_results[0]
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("mvtec_loco_ad", "pushpins", "test")
    assert result.metric_args == {"seeds": [0, 1, 2], "std": 0.0041, "protocol": "Of the last epoch."}
    assert data.model_name == "ast-loco-pushpins"
    assert (data.license, data.library_name) == ("cc-by-nc-sa-4.0", "ast-hf")
    assert data.base_model == "timm/tf_efficientnet_b5.aa_in1k"


def test_the_text_says_what_a_user_needs() -> None:
    text = card(calibration=Calibration((0.5, 1.0), (1.0, 2.0), 0.1), metrics=METRICS, picture=True)
    for words in (
        "![A part and its heat map](heat_map.png)", 'from_pretrained("org/ast-loco-pushpins").predict("part.png")',
        "| Image AUROC | 83.41 ± 0.41 | 83.4 (EfficientAD's authors) |", "| AU-sPRO 0.05 | 42.70 |  |",
        "over seeds 0, 1, 2; the weights here are of seed 0", "pushpins of MVTec LOCO AD", "- commit: 0123456789ab",
        "2 good parts kept out of training", "false-positive rate of 10 %", "less than 77.6 %", "weak side",
    ):  # fmt: skip
        assert words in text, words
    assert 'predict("part.png", points="part.tiff")' in card("rgb+depth")
    text = card("depth")
    assert all(words in text for words in ('predict(points="part.tiff")', "None were measured.", "no verdicts"))
    assert (ModelCard(text).data.eval_results, ModelCard(text).data.base_model) == (None, None)


def test_an_edit_shows() -> None:
    text = card(metrics=METRICS)
    for same in (text, str(ModelCard(text)), text.replace("\n", "\r\n")):
        assert is_untouched(same)
    licence = text.replace("license: cc-by-nc-sa-4.0", "license: mit")
    for edited in (text.replace("83.41", "99.99"), licence, text + "More.\n", "# My own card\n"):
        assert not is_untouched(edited)


@pytest.mark.parametrize(
    "change", [{"figures": {"x": "high"}}, {"figures": {"x": float("nan")}}, {"std": [1]}, {"dataset": 5}, {"seeds": 3}]
)
def test_unusable_metrics_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        card(metrics={**METRICS, **change})
