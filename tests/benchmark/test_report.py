"""Tables, receipt and plots from results that are made up here."""

from __future__ import annotations

import csv
import json
import logging
import re
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from benchmark.ablations import VARIANTS
from benchmark.datasets import DATASETS
from benchmark.published import _content, context, published
from benchmark.report import latex, markdown, write_report
from benchmark.tables import HEADLINE, NAMES, Table, group_results, tables_of

AD = DATASETS["mvtec_ad"].categories
AD_3D = DATASETS["mvtec_3d_ad"].categories
PRESETS = {"mvtec_ad": "mvtec-ad", "mvtec_3d_ad": "mvtec-3d-ad", "visa": "visa", "mvtec_loco_ad": "mvtec-loco-ad"}


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
    preset = preset or PRESETS.get(dataset, "compact")
    config = {**ASTDetectorConfig.preset(preset).to_dict(), **VARIANTS[variant]}
    recipe = TrainingRecipe.preset(preset, calibration_fraction=0.0, **({"epochs": epochs} if epochs else {}))
    job = {
        "dataset": dataset, "category": category, "seed": seed, "config": config, "recipe": recipe.to_dict(),
        "data_root": "data", "preset": preset, "variant": variant, "data": data, "backbone_weights": "pretrained",
        "backbone_digest": "",
    }  # fmt: skip
    name = f"{dataset}-{category}-{config['modality']}-seed{seed}-{variant}-{data}-{recipe.epochs}".replace(" ", "_")
    return {
        "id": name,
        "job": job,
        "figures": {HEADLINE: auroc, **{k.replace("__", "."): v for k, v in figures.items()}},
        "seconds": {"features": 1.0, "training": 60.0, "total": 61.25},
        "receipt": {"commit": "abc123", "torch": "2.11.0", "device": "cpu", "finished": "2026-01-02T03:04:05+00:00"},
    }


def write_scores(output: Path, result: dict[str, Any], *, separation: float = 1.0) -> Path:
    """The job's scores.csv, with good and defective parts that overlap unless `separation` is large."""
    folder = output / "jobs" / result["id"]
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,defect,label,score,mean,max,teacher_mean"]
    lines += [f"good/{i}.png,good,0,{0.3 + i / 20},0,0,0" for i in range(8)]
    lines += [f"hole/{i}.png,hole,1,{0.3 + separation / 4 + i / 15},0,0,0" for i in range(10)]
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")
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


def test_deviation_of_the_average_is_over_averages_of_seeds(tmp_path: Path) -> None:
    # Each category varies between seeds; their averages do not.
    results = [made_up(c, seed, 0.9 + 0.1 * ((i + seed) % 2)) for i, c in enumerate(AD[:2]) for seed in (0, 1)]
    row = next(r for r in tables(results)[0].rows if r[0].startswith("average"))
    assert row[2] == "95.00 ± 0.00"


def test_a_part_of_a_set_is_compared_with_the_same_part_only(tmp_path: Path) -> None:
    rows = rows_of(write_report(tmp_path, [made_up(c, auroc=0.99) for c in ("bottle", "cable", "toothbrush")]))
    assert not any(name.startswith("average (") for name in rows)
    row = rows["average of 3 of 15, paper: the same 3"]
    assert row[:4] == ["1", "99.00", "98.4", "+0.63"]  # (100 + 98.5 + 96.6) / 3
    assert "99.2" not in " ".join(row)


def test_a_part_of_a_set_without_published_parts_has_no_paper_column(tmp_path: Path) -> None:
    results = [made_up(c, dataset="visa") for c in ("candle", "pcb1")]
    rows = rows_of(write_report(tmp_path, results))
    assert rows["category"] == ["seeds", "image AUROC"]
    assert rows["average of 2 of 12"] == ["1", "98.00"]
    whole = rows_of(write_report(tmp_path, [made_up(c, dataset="visa") for c in DATASETS["visa"].categories]))
    assert whole["category"][2] == "AST as run by the authors of EfficientAD (WACV 2024)"
    assert whole["average (12 of 12)"][2:4] == ["94.9", "+3.10"]


def test_seeds_that_lack_categories_are_not_averaged(tmp_path: Path) -> None:
    results = [made_up("bottle", 0, 0.8), made_up("bottle", 1, 0.1), made_up("cable", 0, 0.9)]
    assert rows_of(write_report(tmp_path, results))["average of 2 of 15, paper: the same 2"][:2] == ["1", "85.00"]


def test_what_is_missing_shows(tmp_path: Path) -> None:
    results = [made_up("cable"), made_up("tile", auroc=float("nan"))]
    expected = [{"id": r["id"], **r["job"]} for r in (*results, made_up("bottle"))]
    text = write_report(tmp_path, results, expected)
    assert rows_of(text)["bottle"] == ["0", "-", "100.0", "-"]
    assert rows_of(text)["tile"] == ["0", "-", "100.0", "-"]
    assert "Unfinished: 1 of 3 jobs." in text
    assert "Unfinished" not in write_report(tmp_path, results)
    assert rows_of(write_report(tmp_path, [], expected))["cable"] == ["0", "-", "98.5", "-"]
    assert write_report(tmp_path, []).startswith("In percent")


def test_figures_from_memory_are_marked(tmp_path: Path) -> None:
    results = [made_up(c, dataset="mvtec_3d_ad") for c in AD_3D]
    text = write_report(tmp_path, results)
    rows = rows_of(text)
    assert rows["foam"][2] == "88.5†"
    assert rows["dowel"][2] == "93.2"
    assert rows["average (10 of 10)"][2:4] == ["93.7 ± 0.2", "+4.30"]
    assert "† Rudolph et al., WACV 2023, table 3: from memory, not checked against the paper" in text
    assert "expected at 94.8 to 95.7" in text
    part = rows_of(write_report(tmp_path, [made_up(c, dataset="mvtec_3d_ad") for c in ("foam", "cookie")]))
    assert part["average of 2 of 10, paper: the same 2"][2] == "92.8†"
    assert "†" not in write_report(tmp_path, [made_up("dowel", dataset="mvtec_3d_ad")])


def test_drawn_data_are_never_beside_the_paper(tmp_path: Path) -> None:
    text = write_report(tmp_path, [made_up(c, data="synthetic", pixel_auroc_paper=0.9) for c in AD])
    assert "### MVTec AD, RGB, synthetic data" in text
    assert "paper" not in rows_of(text)["category"]
    assert "[" not in " ".join(rows_of(text)["average (15 of 15)"])
    assert "Drawn pictures" in text
    assert "WACV" not in text


def test_settings_and_data_are_told_apart(tmp_path: Path) -> None:
    results = [made_up(), made_up(seed=1), made_up(epochs=2), made_up(data="synthetic"), made_up(preset="compact")]
    text = write_report(tmp_path, results)
    assert re.findall(r"^### (.*)", text, re.M) == [*["MVTec AD, RGB"] * 3, "MVTec AD, RGB, synthetic data"]
    assert text.count("Settings: preset mvtec-ad.\n") == 2
    assert "Settings: preset mvtec-ad, except for epochs 2 (240).\n" in text
    assert "image_size 384 (768)" in text


def test_results_without_data_and_variant_are_understood(tmp_path: Path) -> None:
    new, old = made_up(), made_up("cable")
    for name in ("data", "variant", "backbone_digest"):
        del old["job"][name]
    del old["seconds"], old["receipt"]
    text = write_report(tmp_path, [new, old])
    assert "| cable | 1 | 98.00 | 98.5 | -0.50 |" in text


def test_anomaly_kinds_of_loco_come_first(tmp_path: Path) -> None:
    names = DATASETS["mvtec_loco_ad"].categories
    kinds = {"image_auroc_logical": 0.8, "image_auroc_structural": 0.9, "au_spro_0__05": 0.5, "au_pro_0__3": 0.6}
    more = {"pixel_auroc": 0.7, "pixel_auroc_paper": 0.7, "au_spro_0__05_logical": 0.4, "recall": 0.3}
    results = [made_up(c, dataset="mvtec_loco_ad", **kinds, **more) for c in names]
    first, second = tables(results)
    assert first.header[5:] == [
        "logical", "structural", "AU-sPRO 0.05", "pixel AUROC, paper protocol", "pixel AUROC, raw"
    ]  # fmt: skip
    assert first.rows[-1][5:7] == ["80.00 [79.7]", "90.00 [87.1]"]
    assert second.header[2:] == ["AU-PRO 0.3, raw", "AU-sPRO 0.05, logical", "recall at threshold"]
    assert len(first.header) <= 10


def test_ablations(tmp_path: Path) -> None:
    teacher = {"teacher_image_auroc_max": 0.5, "teacher_image_auroc_mean": 0.1}
    variants = {"AST": 0.95, "symmetric student": 0.9, "no mask": 0.84, "1 residual block": 0.93}
    results = [
        made_up(c, 0, v, dataset="mvtec_3d_ad", variant=k, **teacher) for k, v in variants.items() for c in AD_3D
    ]
    *figures, table = tables(results)
    assert all(len(t.rows) == 11 for t in figures)  # ablations are in none of them
    assert table.title == "MVTec 3D-AD, RGB + 3D: ablations"
    assert {row[0]: row[1:] for row in table.rows} == {
        "teacher only (NLL)": ["10 of 10", "50.00", "90.9", "-40.90"],
        "teacher only (NLL), no mask": ["10 of 10", "50.00", "66.2", "-16.20"],
        "AST": ["10 of 10", "95.00", "93.7 ± 0.2", "+1.30"],
        "symmetric student": ["10 of 10", "90.00", "88.9", "+1.10"],
        "no mask": ["10 of 10", "84.00", "84.0", "+0.00"],
        "1 residual block": ["10 of 10", "93.00", "92.8", "+0.20"],
    }
    part = tables([r for r in results if r["job"]["category"] == "tire"])[-1]
    assert {row[0]: row[1:] for row in part.rows if row[3] != "-"} == {
        "AST": ["1 of 10", "95.00", "79.7 ± 1.0", "+15.30"]
    }


def test_ablations_without_depth_take_the_mean_of_the_teacher(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "mvtec_3d_ad", "preset": "mvtec-3d-ad-rgb", "teacher_image_auroc_mean": 0.7}
    variants = ("AST", "no positional encoding")
    results = [made_up(c, variant=v, teacher_image_auroc_max=0.2, **options) for v in variants for c in AD_3D]
    table = tables(results)[-1]
    assert table.rows[0] == ["teacher only (NLL)", "10 of 10", "70.00", "69.8", "+0.20"]
    assert table.rows[1] == ["teacher only (NLL), no positional encoding", "10 of 10", "70.00", "69.3", "+0.70"]


RUN = [made_up(c, s, 0.9 + s / 30 + i / 700, au_pro_0__3=0.7) for i, c in enumerate(AD[:4]) for s in (0, 1)] + [
    made_up("foam", variant=v, dataset="mvtec_3d_ad")
    for v in ("AST", "no mask", "symmetric student", "1 residual block")
]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(results=st.permutations(RUN))
def test_files_do_not_depend_on_order_or_time(results: list[dict[str, Any]], tmp_path: Path) -> None:
    slower = [{**r, "seconds": {"total": 99.0}, "receipt": {"device": "gpu", "when": "2031-01-01"}} for r in results]
    for name, of in (("a", RUN), ("b", slower)):
        if not (tmp_path / name).exists() or of is not RUN:
            (tmp_path / name).mkdir(exist_ok=True)
            write_report(tmp_path / name, of)
    for file in ("tables.md", "tables.tex", "results.csv"):
        data = (tmp_path / "a" / file).read_bytes()
        assert data == (tmp_path / "b" / file).read_bytes()
        assert not re.search(rb"2031|2026-01|61\.25|0:01:01|cpu|gpu|abc123", data)


def test_latex_is_balanced_and_escaped(tmp_path: Path) -> None:
    write_report(tmp_path, [made_up(c, s, 0.97, dataset="mvtec_3d_ad") for c in AD_3D for s in (0, 1)])
    text = (tmp_path / "tables.tex").read_text()
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    assert text.isascii()
    bare = re.sub(r"\\[\\{}$&%_#]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")} == {4}
    assert r"cable\_gland & 2 & 97.00 $\pm$ 0.00 & 87.3$^\dagger$ & $+9.70$ \\" in text
    assert r"\midrule average (10 of 10) &" in text


def test_special_characters_stay_what_they_are() -> None:
    table = Table("a_b & 50%", ["category"], [["x|y\\z^~{}#$<"]], ["note"])
    assert "| x\\|y\\z^~{}#$< |" in markdown(table)
    text = latex(table)
    assert r"\caption{a\_b \& 50\%}" in text
    assert r"x$|$y\textbackslash{}z\textasciicircum{}\textasciitilde{}\{\}\#\$$<$ \\" in text


def test_csv_has_every_figure_in_full(tmp_path: Path) -> None:
    results = [made_up(auroc=1 / 3, recall=2 / 7), made_up("cable", 3, unheard_of=0.125)]
    write_report(tmp_path, results, [{"id": "not-done", **made_up("tile")["job"]}])
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["category"] for row in rows] == ["bottle", "cable"]
    assert (float(rows[0][HEADLINE]), float(rows[0]["recall"])) == (1 / 3, 2 / 7)
    assert (rows[0]["unheard_of"], rows[1]["unheard_of"], rows[1]["recall"]) == ("", "0.125", "")
    assert (rows[1]["seed"], rows[1]["epochs"], rows[1]["modality"], rows[1]["variant"]) == ("3", "240", "rgb", "AST")


def test_receipt_and_report(tmp_path: Path) -> None:
    results = [made_up(seed=seed) for seed in range(11)]
    for r in results:
        r["receipt"] |= {"finished": f"2026-01-{r['job']['seed'] + 10}T00:00:00+00:00"}
    folder = write_scores(tmp_path, results[0])
    Image.new("RGB", (4, 4)).save(folder / "heat_maps.png")
    write_report(tmp_path, list(reversed(results)))
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["facts"]["commit"] == ["abc123"]
    assert receipt["facts"]["seed"] == [str(seed) for seed in range(11)]
    assert receipt["seconds"][results[3]["id"]]["training"] == 60
    report = (tmp_path / "report.md").read_text()
    assert "- finished: 2026-01-10T00:00:00+00:00 to 2026-01-20T00:00:00+00:00 (11 values)\n" in report
    assert "- torch: 2.11.0\n" in report
    assert f"- wall time of {results[0]['id']}: 0:01:01\n" in report
    assert "- wall time of all jobs: 0:11:14\n" in report
    assert (tmp_path / "tables.md").read_text().strip() in report
    links = re.findall(r"\]\((.*?)\)", report)
    assert links == [
        "plots/roc_mvtec_ad_rgb.png", "plots/scores_mvtec_ad_rgb.png", f"jobs/{results[0]['id']}/heat_maps.png"
    ]  # fmt: skip
    assert all((tmp_path / link).is_file() for link in links)


def test_plots_of_each_group_have_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error now
    results = [made_up("bottle"), made_up("cable"), made_up(epochs=2), made_up(data="synthetic")]
    results.append(made_up("nut", dataset="folder"))
    for r in results:
        write_scores(tmp_path, r, separation=9)
    calibration = tmp_path / "jobs" / results[0]["id"] / "model" / "calibration.json"
    calibration.parent.mkdir()
    calibration.write_text('{"threshold": 0.6}')
    write_report(tmp_path, results)
    names = ["mvtec_ad_rgb", "mvtec_ad_rgb_2", "mvtec_ad_rgb_synthetic", "folder_rgb"]
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {
        f"{k}_{n}.png" for k in ("roc", "scores") for n in names
    }
    for path in (tmp_path / "plots").iterdir():
        assert min(Image.open(path).size) > 300


@pytest.mark.parametrize(
    "damage",
    ["", "image,label\n", "label,score\n0,1\n1,\n", "label,score\n0,nan\n1,2\n", "label,score\n0,1\n0,2\n", None],
)
def test_damaged_scores_leave_one_curve_out(
    damage: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = made_up(), made_up("cable")
    write_scores(tmp_path, good)
    folder = write_scores(tmp_path, bad)
    if damage is None:
        (folder / "scores.csv").unlink()
    else:
        (folder / "scores.csv").write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert "| cable | 1 | 98.00 |" in write_report(tmp_path, [good, bad])
    assert [f"{folder} is left out of the plots" in r.getMessage() for r in caplog.records] == [True]
    assert (tmp_path / "plots" / "roc_mvtec_ad_rgb.png").is_file()


def test_nothing_to_draw_leaves_no_folder(tmp_path: Path) -> None:
    write_report(tmp_path, [made_up()])
    assert not (tmp_path / "plots").exists()


def test_published_figures_are_sound() -> None:
    figures, notes = _content()
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
        assert fmean(p.value for p in single if p) == pytest.approx(mean.value, abs=0.07)
        assert all(single)
    others, _ = context("visa", "rgb")
    assert {p.method for p in others} >= {"EfficientAD-M", "PatchCore"}
    assert context("folder", "rgb") == ([], [])
    assert published("visa", "rgb", HEADLINE, "candle") is None
