"""The verb evaluate."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ast_hf.cli import main
from benchmark.synthetic import draw_part


@pytest.fixture
def carpets(tmp_path: Path) -> Path:
    """Drawn parts as the embedded demonstration has learnt them, and with holes."""
    for kind, defect in (("good", None), ("hole", "hole")):
        (folder := tmp_path / "parts" / kind).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(draw_part("carpet", 900 + index, defect).rgb).save(folder / f"{index}.png")
    return tmp_path / "parts"


def test_figures_as_text_and_json_and_a_report(carpets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = carpets.parent / "new" / "report.html"
    command = ["evaluate", "demo-carpet", str(carpets), "--device", "cpu"]
    assert main([*command, "--report", str(report)]) == 0
    text = capsys.readouterr().out
    assert "4 good and 4 anomalous parts\nimage AUROC  100.0 %" in text and "4 of 4     100.0 %" in text
    assert "demo-carpet on" in report.read_text()
    (carpets / "hole" / "bad.png").write_bytes(b"")
    assert main([*command, "--format", "json", "--false-positive-rate", "0.4"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["image_auroc"], figures["recall"]["count"], len(figures["anomalous"])) == (1, 4, 4)
    assert figures["target_false_positive_rate"] == 0.4 and "bad.png" in figures["unreadable"][0]
