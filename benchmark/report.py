"""What a run leaves to be read: tables (Markdown, LaTeX, CSV), a receipt, plots, and report.md that holds them all."""

import json
import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from ast_hf.data.folders import mark_output
from ast_hf.files import write_atomic
from ast_hf.results import csv_line
from benchmark.plots import SHEET_NAME, read_scores, roc_curves, score_histograms, write_png
from benchmark.tables import HEADLINE, Group, Table, group_results, tables_of

_LEGEND = """In percent: mean ± sample standard deviation over seeds; in average rows, over the averages of each seed.
In brackets: published means. Paper protocol: maps and masks at 192 x 192 pixels; raw: at the pictures' own resolution.
The presets mvtec-ad and mvtec-3d-ad follow the paper. "Read in": in notes on GitHub or the web, not at first hand."""
_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "†": r"$^\dagger$", "<": "$<$", ">": "$>$", "|": "$|$"}
_TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def write_report(output: Path, results: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]] = ()) -> str:
    """Writes tables.md (and gives its text), tables.tex, results.csv, receipt.json, plots/ and report.md to `output`.

    `results` is what `jobs.read_result` gives of finished jobs; `expected` the fields of all, with their "id".
    """
    groups = group_results(results, expected)
    tables = [table for group in groups for table in tables_of(group)]
    text = "\n\n".join([_LEGEND, *map(markdown, tables)]) + "\n"
    facts = receipt(results)
    write_atomic(output / "tables.md", text.encode())
    write_atomic(output / "tables.tex", "\n".join(["% Needs \\usepackage{booktabs}.", *map(latex, tables)]).encode())
    write_atomic(output / "results.csv", _csv(groups).encode())
    write_atomic(output / "receipt.json", (json.dumps(facts, indent=2) + "\n").encode())
    pictures = [line for i, group in enumerate(groups) for line in _pictures(output, group, groups[:i])]
    report = ["# AST benchmark", text.strip(), _receipt_text(facts), "## Plots and heat maps", *pictures]
    write_atomic(output / "report.md", ("\n\n".join(report) + "\n").encode())
    return text


def markdown(table: Table) -> str:
    """A table under its title, and its notes."""
    rows = [[c.replace("|", "\\|") for c in row] for row in (table.header, *table.rows)]
    rows[-1] = [f"**{c}**" for c in rows[-1]] if table.has_average else rows[-1]
    rows.insert(1, ["---", *["---:"] * (len(table.header) - 1)])
    return "\n\n".join([f"### {table.title}", "\n".join(f"| {' | '.join(row)} |" for row in rows), *table.notes])


def latex(table: Table) -> str:
    """The same with booktabs' rules; headings are broken so that the table fits a page."""

    def tex(text: str) -> str:
        return re.sub(r"^([+-]\d[\d.]*)", r"$\1$", "".join(_TEX.get(c, c) for c in text))

    head = [rf"\shortstack{{{tex(textwrap.fill(name, 14))}}}".replace("\n", r"\\") for name in table.header]
    rows = [" & ".join(row) + r" \\" for row in (head, *(map(tex, row) for row in table.rows))]
    rows.insert(1, r"\midrule")
    rows[-1] = r"\midrule " * table.has_average + rows[-1]
    start = [r"\begin{table}\centering\footnotesize\setlength{\tabcolsep}{3pt}", rf"\caption{{{tex(table.title)}}}"]
    start += [rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\toprule"]
    notes = [rf"\par\smallskip\raggedright {tex(note)}" for note in table.notes]
    return "\n".join([*start, *rows, r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}", ""])


def _csv(groups: Sequence[Group]) -> str:
    results = [r for group in groups for r in group.results if r["figures"]]
    facts = ("id", "dataset", "category", "seed", "variant", "data", "preset", "modality", "epochs")
    columns = list(dict.fromkeys([*facts, HEADLINE, *(name for r in results for name in r["figures"])]))
    rows = [{**r["job"]["config"], **r["job"]["recipe"], **r["job"], **r} | r["figures"] for r in results]
    return "".join(csv_line(row, columns) for row in (dict(zip(columns, columns, strict=True)), *rows))


def receipt(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the figures depend on: every fact of the jobs' receipts with its different values, and the wall times."""
    facts: dict[str, set[str]] = {}
    for r in results:
        job = {"seed": r["job"]["seed"], "preset": r["job"].get("preset"), "epochs": r["job"]["recipe"]["epochs"]}
        for name, value in {**job, **r.get("receipt", {})}.items():
            facts.setdefault(name, set()).add(str(value))
    seconds = {r["id"]: r.get("seconds", {}) for r in sorted(results, key=lambda r: r["id"])}
    seconds["all jobs"] = {"total": sum(s.get("total", 0) for s in seconds.values())}
    return {"facts": {k: sorted(v, key=lambda v: (len(v), v)) for k, v in facts.items()}, "seconds": seconds}


def _receipt_text(receipt: Mapping[str, Any]) -> str:
    few = {k: v if len(v) < 7 else [f"{v[0]} to {v[-1]} ({len(v)} values)"] for k, v in receipt["facts"].items()}
    times = {k: timedelta(seconds=round(v.get("total", 0))) for k, v in receipt["seconds"].items()}
    lines = [f"- {k}: {', '.join(v)}" for k, v in few.items()] + [f"- wall time of {k}: {v}" for k, v in times.items()]
    return "\n".join(["## Receipt", "", *lines])


def _pictures(output: Path, group: Group, earlier: Sequence[Group]) -> list[str]:
    """Draws a group's plots, of each category's lowest seed, and gives the lines that show them."""
    own, number = group.settings, 1 + sum(g.title == group.title for g in earlier)
    name = f"{own['dataset']}_{own['modality']}" + "_synthetic" * (own["data"] != "files") + f"_{number}" * (number > 1)
    parts, lines = {}, []
    for category in group.categories(having=HEADLINE):
        result = next(r for r in group.results if r["job"]["category"] == category and HEADLINE in r["figures"])
        try:
            parts[category] = read_scores(output / "jobs" / result["id"])
        except ValueError as error:
            logging.getLogger("benchmark").warning("%s", error)
        sheet = f"jobs/{result['id']}/{SHEET_NAME}"
        lines += [f"![Heat maps of {category}]({sheet})"] if (output / sheet).is_file() else []
    if parts:
        mark_output(output / "plots")
        for kind, draw in (("scores", score_histograms), ("roc", roc_curves)):
            path = f"plots/{kind}_{name}.png"
            write_png(output / path, draw(parts, group.title), dpi=150)
            lines.insert(0, f"![{kind}, {group.title}]({path})")
    return [f"### {group.title}", *lines] if lines else []
