"""Tables, receipt and plots from results that are made up here."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import re
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from PIL import Image

from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.data.folders import find_images
from ast_hf.errors import ImageReadError
from benchmark.datasets import DATASETS
from benchmark.jobs import VARIANTS, Job
from benchmark.report import latex, markdown, write_report
from benchmark.tables import HEADLINE, NAMES, Table, context, group_results, published, read_published, tables_of

AD, AD_3D = DATASETS["mvtec_ad"].categories, DATASETS["mvtec_3d_ad"].categories


def made_up(
    category: str = "bottle",
    seed: int = 0,
    auroc: float = 0.98,
    *,
    dataset: str = "mvtec_ad",
    preset: str | None = None,
    epochs: int | None = None,
    variant: str = "AST",
    data: str = "files",
    **figures: float,
) -> dict[str, Any]:
    """A finished job's result."""
    preset = preset or DATASETS[dataset].preset
    config = {**ASTDetectorConfig.preset(preset).to_dict(), **VARIANTS[variant]}
    recipe = TrainingRecipe.preset(preset, calibration_fraction=0.0, **({"epochs": epochs} if epochs else {}))
    job = Job(dataset, category, seed, config, recipe.to_dict(), "data", preset, variant, data)
    return {
        "id": job.id,
        "job": dataclasses.asdict(job),
        "figures": {HEADLINE: auroc, **{k.replace("__", "."): v for k, v in figures.items()}},
        "seconds": {"features": 1.0, "training": 60.0, "total": 61.25},
        "receipt": {"commit": "abc123", "torch": "2.11.0", "device": "cpu", "finished": "2026-01-02T03:04:05+00:00"},
    }


def write_scores(output: Path, result: dict[str, Any]) -> Path:
    """The job's scores.csv; good and defective parts do not overlap."""
    folder = output / "jobs" / result["id"]
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,defect,label,score", *(f"{i}.png,good,0,{0.3 + i / 20}" for i in range(8))]
    (folder / "scores.csv").write_text("\n".join([*lines, *(f"{i}.png,hole,1,{3 + i / 15}" for i in range(10)), ""]))
    return folder


def tables(results: list[dict[str, Any]]) -> list[Table]:
    """All tables, in their order."""
    return [table for group in group_results(results) for table in tables_of(group)]


def rows_of(text: str) -> dict[str, list[str]]:
    """Rows of Markdown tables by their first cell, the first of each."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| "):
            first, *rest = [c.strip().strip("*") for c in line.strip("|").split("|")]
            rows.setdefault(first, rest)
    return rows


def test_a_whole_set_stands_beside_the_paper(tmp_path: Path) -> None:
    aurocs = {seed: [0.97 + 0.001 * i + 0.01 * seed for i in range(15)] for seed in (0, 1)}
    results = [made_up(c, seed, aurocs[seed][i], pixel_auroc_paper=0.94) for i, c in enumerate(AD) for seed in (0, 1)]
    rows = rows_of(write_report(tmp_path, results))
    assert rows["category"][:4] == ["seeds", "image AUROC", "paper", "difference"]
    assert rows["capsule"][:3] == ["2", "97.70 ± 0.71", "99.7"]
    per_seed = [100 * fmean(values) for values in aurocs.values()]
    ours = f"{fmean(per_seed):.2f} ± {stdev(per_seed):.2f}"
    difference = f"{fmean(per_seed) - 99.2:+.2f}"
    assert rows["average (15 of 15)"] == ["2", ours, "99.2 ± 0.04", difference, "94.00 ± 0.00 [95.0 ± 0.03]"]
    # Each category varies between seeds, and their averages do not: the deviation is over these.
    opposed = [made_up(c, seed, 0.9 + 0.1 * ((i + seed) % 2)) for i, c in enumerate(AD[:2]) for seed in (0, 1)]
    assert tables(opposed)[0].rows[-1][2] == "95.00 ± 0.00"


def test_a_part_of_a_set_is_compared_with_the_same_part_only(tmp_path: Path) -> None:
    rows = rows_of(write_report(tmp_path, [made_up(c, auroc=0.99) for c in ("bottle", "cable", "toothbrush")]))
    assert not any(name.startswith("average (") for name in rows)
    row = rows["average of 3 of 15, paper: the same 3"]
    assert row[:4] == ["1", "99.00", "98.4", "+0.63"]  # (100 + 98.5 + 96.6) / 3
    assert "99.2" not in " ".join(row)
    rows = rows_of(write_report(tmp_path, [made_up(c, dataset="visa") for c in ("candle", "pcb1")]))
    assert rows["category"] == ["seeds", "image AUROC"], "nothing is published of these"
    assert rows["average of 2 of 12"] == ["1", "98.00"]
    whole = rows_of(write_report(tmp_path, [made_up(c, dataset="visa") for c in DATASETS["visa"].categories]))
    assert whole["category"][2] == "AST as run by the authors of EfficientAD (WACV 2024)"
    assert whole["average (12 of 12)"][2:4] == ["94.9", "+3.10"]
    uneven = [made_up("bottle", 0, 0.8), made_up("bottle", 1, 0.1), made_up("cable", 0, 0.9)]
    assert rows_of(write_report(tmp_path, uneven))["average of 2 of 15, paper: the same 2"][:2] == ["1", "85.00"]


def test_what_is_missing_shows(tmp_path: Path) -> None:
    results = [made_up("cable"), made_up("tile", auroc=float("nan"))]
    expected = [{"id": r["id"], **r["job"]} for r in (*results, made_up("bottle"))]
    text = write_report(tmp_path, results, expected)
    assert rows_of(text)["bottle"] == rows_of(text)["tile"] == ["0", "-", "100.0", "-"]
    assert "Unfinished: 1 of 3 jobs." in text
    assert "Unfinished" not in write_report(tmp_path, results)
    assert rows_of(write_report(tmp_path, [], expected))["cable"] == ["0", "-", "98.5", "-"]
    assert write_report(tmp_path, []).startswith("In percent")


def test_figures_from_memory_are_marked(tmp_path: Path) -> None:
    text = write_report(tmp_path, [made_up(c, dataset="mvtec_3d_ad") for c in AD_3D])
    rows = rows_of(text)
    assert (rows["foam"][2], rows["dowel"][2]) == ("88.5†", "93.2")
    assert rows["average (10 of 10)"][2:4] == ["93.7 ± 0.2", "+4.30"]
    assert "† Rudolph et al., WACV 2023, table 3: from memory, not checked against the paper" in text
    part = rows_of(write_report(tmp_path, [made_up(c, dataset="mvtec_3d_ad") for c in ("foam", "cookie")]))
    assert part["average of 2 of 10, paper: the same 2"][2] == "92.8†"
    assert "†" not in write_report(tmp_path, [made_up("dowel", dataset="mvtec_3d_ad")])


def test_settings_and_data_are_told_apart_and_drawn_data_never_beside_the_paper(tmp_path: Path) -> None:
    results = [made_up(), made_up(seed=1), made_up(epochs=2), made_up(preset="compact")]
    text = write_report(tmp_path, [*results, made_up(data="synthetic")])
    assert re.findall(r"^### (.*)", text, re.M) == [*["MVTec AD, RGB"] * 3, "MVTec AD, RGB, synthetic data"]
    assert text.count("Settings: preset mvtec-ad.\n") == 2
    assert "Settings: preset mvtec-ad, except for epochs 2 (240).\n" in text
    assert "image_size 384 (768)" in text
    drawn = write_report(tmp_path, [made_up(c, data="synthetic", pixel_auroc_paper=0.9) for c in AD])
    assert "paper" not in rows_of(drawn)["category"]
    assert "[" not in " ".join(rows_of(drawn)["average (15 of 15)"])
    assert "Drawn pictures" in drawn
    assert "WACV" not in drawn


def test_anomaly_kinds_of_loco_come_first() -> None:
    kinds = {"image_auroc_logical": 0.8, "image_auroc_structural": 0.9, "au_spro_0__05": 0.5, "au_pro_0__3": 0.6}
    more = {"pixel_auroc": 0.7, "pixel_auroc_paper": 0.7, "au_spro_0__05_logical": 0.4, "recall": 0.3}
    names = DATASETS["mvtec_loco_ad"].categories
    first, second = tables([made_up(c, dataset="mvtec_loco_ad", **kinds, **more) for c in names])
    paper, raw = "pixel AUROC, paper protocol", "pixel AUROC, raw"
    assert first.header[5:] == ["logical", "structural", "AU-sPRO 0.05", paper, raw]
    assert first.rows[-1][5:7] == ["80.00 [79.7]", "90.00 [87.1]"]
    assert second.header[2:] == ["AU-PRO 0.3, raw", "AU-sPRO 0.05, logical", "recall at threshold"]


def test_ablations() -> None:
    teacher = {"teacher_image_auroc_max": 0.5, "teacher_image_auroc_mean": 0.7}
    variants = {"AST": 0.95, "symmetric student": 0.9, "no mask": 0.84, "1 residual block": 0.93}
    results = [
        made_up(c, 0, v, dataset="mvtec_3d_ad", variant=k, **teacher) for k, v in variants.items() for c in AD_3D
    ]
    *figures, table = tables(results)
    assert all(len(t.rows) == 11 for t in figures)  # ablations are in none of them
    assert {row[0]: row[1:] for row in table.rows} == {
        "teacher only (NLL)": ["10 of 10", "50.00", "90.9", "-40.90"],
        "teacher only (NLL), no mask": ["10 of 10", "50.00", "66.2", "-16.20"],
        "AST": ["10 of 10", "95.00", "93.7 ± 0.2", "+1.30"],
        "symmetric student": ["10 of 10", "90.00", "88.9", "+1.10"],
        "no mask": ["10 of 10", "84.00", "84.0", "+0.00"],
        "1 residual block": ["10 of 10", "93.00", "92.8", "+0.20"],
    }
    rgb: dict[str, Any] = {"dataset": "mvtec_3d_ad", "preset": "mvtec-3d-ad-rgb", **teacher}
    table = tables([made_up(c, variant=v, **rgb) for v in ("AST", "no positional encoding") for c in AD_3D])[-1]
    assert table.rows[0] == ["teacher only (NLL)", "10 of 10", "70.00", "69.8", "+0.20"]
    assert table.rows[1] == ["teacher only (NLL), no positional encoding", "10 of 10", "70.00", "69.3", "+0.70"]


def test_files_do_not_depend_on_order_or_time(tmp_path: Path) -> None:
    run = [made_up(c, s, 0.9 + s / 30 + i / 700, au_pro_0__3=0.7) for i, c in enumerate(AD[:4]) for s in (0, 1)]
    run += [made_up("foam", variant=v, dataset="mvtec_3d_ad") for v in ("AST", "no mask", "symmetric student")]
    slower = [{**r, "seconds": {"total": 99.0}, "receipt": {"device": "gpu", "when": "2031-01-01"}} for r in run]
    for name, of in (("a", run), ("b", slower[::-1]), ("c", slower[5:] + slower[:5])):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, of)
    for file in ("tables.md", "tables.tex", "results.csv"):
        first, *others = [(tmp_path / name / file).read_bytes() for name in "abc"]
        assert others == [first, first]
        assert not re.search(rb"2031|2026-01|61\.25|0:01:01|cpu|gpu|abc123", first)


def test_latex_is_balanced_and_escaped(tmp_path: Path) -> None:
    write_report(tmp_path, [made_up(c, s, 0.97, dataset="mvtec_3d_ad") for c in AD_3D for s in (0, 1)])
    text = (tmp_path / "tables.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\end{table}")
    assert text.isascii()
    bare = re.sub(r"\\[\\{}$&%_#]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")} == {4}
    assert r"cable\_gland & 2 & 97.00 $\pm$ 0.00 & 87.3$^\dagger$ & $+9.70$ \\" in text
    assert r"\midrule average (10 of 10) &" in text
    table = Table("a_b & 50%", ["category"], [["x|y\\z^~{}#$<"]], ["note"])
    assert "| x\\|y\\z^~{}#$< |" in markdown(table)
    assert r"\caption{a\_b \& 50\%}" in latex(table)
    assert r"x$|$y\textbackslash{}z\textasciicircum{}\textasciitilde{}\{\}\#\$$<$ \\" in latex(table)


def test_csv_has_every_figure_in_full(tmp_path: Path) -> None:
    results = [made_up(auroc=1 / 3, recall=2 / 7), made_up("cable", 3, unheard_of=0.125)]
    write_report(tmp_path, results, [{"id": "not-done", **made_up("tile")["job"]}])
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["category"] for row in rows] == ["bottle", "cable"]
    assert (float(rows[0][HEADLINE]), float(rows[0]["recall"])) == (1 / 3, 2 / 7)
    assert (rows[0]["unheard_of"], rows[1]["unheard_of"], rows[1]["recall"]) == ("", "0.125", "")
    assert (rows[1]["seed"], rows[1]["epochs"], rows[1]["modality"], rows[1]["variant"]) == ("3", "240", "rgb", "AST")


def test_receipt_plots_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error now
    results = [made_up(seed=seed) for seed in range(11)]
    for r in results:
        r["receipt"] |= {"finished": f"2026-01-{r['job']['seed'] + 10}T00:00:00+00:00"}
    folder = write_scores(tmp_path, results[0])
    (folder / "model").mkdir()
    (folder / "model" / "calibration.json").write_text('{"threshold": 0.6}')
    Image.new("RGB", (4, 4)).save(folder / "heat_maps.png")
    write_report(tmp_path, list(reversed(results)))
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["facts"]["seed"] == [str(seed) for seed in range(11)]
    assert receipt["seconds"][results[3]["id"]]["training"] == 60
    report = (tmp_path / "report.md").read_text()
    times = "finished: 2026-01-10T00:00:00+00:00 to 2026-01-20T00:00:00+00:00 (11 values)"
    for line in (times, "torch: 2.11.0", f"wall time of {results[0]['id']}: 0:01:01", "wall time of all jobs: 0:11:14"):
        assert f"- {line}\n" in report
    assert (tmp_path / "tables.md").read_text().strip() in report
    links = re.findall(r"\]\((.*?)\)", report)
    sheet = f"jobs/{results[0]['id']}/heat_maps.png"
    assert links == ["plots/roc_mvtec_ad_rgb.png", "plots/scores_mvtec_ad_rgb.png", sheet]
    assert min(min(Image.open(tmp_path / link).size) for link in links[:2]) > 300


def test_plots_of_each_group_have_their_own_names(tmp_path: Path) -> None:
    results = [made_up(epochs=2), made_up("cable"), made_up(data="synthetic"), made_up("nut", dataset="folder")]
    write_report(tmp_path, results)
    assert not (tmp_path / "plots").exists()
    for r in results:
        write_scores(tmp_path, r)
    write_report(tmp_path, results)
    names = ["mvtec_ad_rgb", "mvtec_ad_rgb_2", "mvtec_ad_rgb_synthetic", "folder_rgb"]
    expected = {f"{kind}_{name}.png" for kind in ("roc", "scores") for name in names}
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} == expected
    with pytest.raises(ImageReadError, match="no pictures"):
        find_images(tmp_path)  # plots are no parts


@pytest.mark.parametrize("rows", ["", "0,1\n1,\n", "0,nan\n1,2\n", "0,1\n0,2\n"])
def test_damaged_scores_leave_one_curve_out(rows: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = made_up(), made_up("cable")
    write_scores(tmp_path, good)
    folder = write_scores(tmp_path, bad)
    (folder / "scores.csv").write_text(f"label,score\n{rows}")
    with caplog.at_level(logging.WARNING):
        assert "| cable | 1 | 98.00 |" in write_report(tmp_path, [good, bad])
    assert [f"{folder} is left out of the plots" in r.getMessage() for r in caplog.records] == [True]
    assert (tmp_path / "plots" / "roc_mvtec_ad_rgb.png").is_file()


def test_published_figures_are_sound() -> None:
    figures, notes = read_published()
    teachers = {"teacher only (NLL)" + rest for rest in ("", ", no positional encoding", ", no mask")}
    for p in figures.values():
        assert 50 < p.value <= 100
        assert p.source and p.by and isinstance(p.verified, bool)
        assert p.verified != ("from memory" in p.source)
        assert p.figure == HEADLINE or p.figure in NAMES
        assert p.category is None or p.category in DATASETS[p.dataset].categories
        assert p.variant in {*VARIANTS, *teachers}
    assert all(note["dataset"] in DATASETS for note in notes)
    for dataset, modality in (("mvtec_ad", "rgb"), ("mvtec_3d_ad", "rgb"), ("mvtec_3d_ad", "depth")):
        single = [published(dataset, modality, HEADLINE, c) for c in DATASETS[dataset].categories]
        mean = published(dataset, modality, HEADLINE)
        assert mean is not None
        assert all(single)
        assert fmean(p.value for p in single if p) == pytest.approx(mean.value, abs=0.07)
    others, _ = context("visa", "rgb")
    assert {p.method for p in others} >= {"EfficientAD-M", "PatchCore"}
    assert context("folder", "rgb") == ([], [])
    assert published("visa", "rgb", HEADLINE, "candle") is None
