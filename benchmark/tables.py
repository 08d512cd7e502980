"""Rows and cells: results grouped by their settings, beside published figures and their sources (published.json)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ast_hf.config import PRESETS, ASTDetectorConfig, TrainingRecipe
from benchmark.datasets import DATASETS
from benchmark.jobs import AST, VARIANTS

HEADLINE = "image_auroc"
# Figures in the order of the tables. Of the first seven the first five there are stand beside the paper.
NAMES = {
    "image_auroc_logical": "logical", "image_auroc_structural": "structural", "au_spro_0.05": "AU-sPRO 0.05",
    "pixel_auroc_paper": "pixel AUROC, paper protocol", "pixel_auroc": "pixel AUROC, raw",
    "au_pro_0.3": "AU-PRO 0.3, raw", "au_pro_0.05": "AU-PRO 0.05, raw", "au_spro_0.05_logical": "AU-sPRO 0.05, logical",
    "au_spro_0.05_structural": "AU-sPRO 0.05, structural", "image_auroc_mean": "AUROC of mean score",
    "image_auroc_max": "AUROC of max score", "teacher_image_auroc_mean": "teacher NLL, mean",
    "teacher_image_auroc_max": "teacher NLL, max", "image_ap": "image AP", "image_f1_max": "image F1-max",
    "false_positive_rate": "FPR at threshold", "target_false_positive_rate": "FPR aimed at",
    "recall": "recall at threshold",
}  # fmt: skip
_MODALITIES = {"rgb": "RGB", "depth": "3D", "rgb+depth": "RGB + 3D"}
# What says which part of a run a job is, or where its files lie; all else has to agree within one table.
_NOT_SETTINGS = (
    "id", "category", "seed", "preset", "variant", "config", "recipe", "backbone_weights", "data_root", "good",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """One published figure in percent; without a category it is the mean over all."""

    dataset: str
    modality: str
    figure: str
    value: float
    std: float | None  # over runs
    source: str
    verified: bool  # read in `source`, or in the notes that it names; or else kept in memory
    by: str  # whose run it is
    category: str | None = None
    variant: str = AST
    method: str = AST

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (f" ± {self.std}" if self.std else "") + "†" * (not self.verified)


def published(
    dataset: str, modality: str, figure: str, category: str | None = None, *, variant: str = AST
) -> Published | None:
    """AST's published figure, by default its mean over all categories; None where none is known."""
    return read_published()[0].get((dataset, modality, figure, category, variant, AST))


def context(dataset: str, modality: str) -> tuple[list[Published], list[str]]:
    """Means over all categories that other methods reach, and what to know: where AST is behind, or in doubt."""
    here, (figures, notes) = (dataset, modality), read_published()
    others = [p for p in figures.values() if (p.dataset, p.modality) == here and p.method != AST]
    return others, [note["text"] for note in notes if (note["dataset"], note["modality"]) == here]


@cache
def read_published() -> tuple[dict[tuple[str | None, ...], Published], list[dict[str, str]]]:
    """All of published.json: the figures by what they are of, and the notes, which name their dataset and modality."""
    content = json.loads(Path(__file__).with_name("published.json").read_text())
    figures: dict[tuple[str | None, ...], Published] = {}
    for group in content["groups"]:
        shared = {k: v for k, v in group.items() if k not in ("key", "values")}
        for name, printed in group["values"].items():
            shared["value"], shared["std"] = printed if isinstance(printed, list) else (printed, None)
            p = Published(**shared, **({} if name == "average" else {group["key"]: name}))
            figures[p.dataset, p.modality, p.figure, p.category, p.variant, p.method] = p
    return figures, content["notes"]


@dataclass(frozen=True)
class Table:
    """Text in cells; where `has_average`, the last row is one."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    has_average: bool = False


@dataclass(frozen=True)
class Group:
    """Results that differ in category, seed and variant only, in official order; unfinished ones have no figures."""

    title: str
    settings: Mapping[str, Any]
    official: Sequence[str]  # all categories of the dataset; none for a user's own data
    results: list[Mapping[str, Any]]

    def categories(self, variant: str = AST, having: str | None = None) -> list[str]:
        """The categories that there are jobs of, or those only that a figure is known of."""
        names = dict.fromkeys(r["job"]["category"] for r in self.results if r["job"]["variant"] == variant)
        return [name for name in names if having is None or self.by_seed(having, [name], variant)]

    def by_seed(self, figure: str, categories: Sequence[str], variant: str = AST) -> dict[int, float]:
        """A figure's mean over categories, in percent, for each seed that has it for all of them."""
        found: dict[str, dict[int, float]] = {category: {} for category in categories}
        for job, figures in ((r["job"], r["figures"]) for r in self.results):
            value = figures.get(figure)
            if job["variant"] == variant and job["category"] in found and value is not None and math.isfinite(value):
                found[job["category"]][job["seed"]] = 100 * value
        seeds = sorted(set.intersection(*map(set, found.values()))) if found else []
        return {seed: fmean(values[seed] for values in found.values()) for seed in seeds}

    def published(self, figure: str, over: Sequence[str], variant: str = AST) -> Published | None:
        """AST's published figure over just these categories: one, or all that there are. Drawn data have none."""
        whole = set(over) >= set(self.official)
        if self.settings["data"] != "files" or not over or (len(over) > 1 and not whole):
            return None
        which = self.settings["dataset"], self.settings["modality"], figure, None if whole else over[0]
        return published(*which, variant=variant)


def group_results(results: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]] = ()) -> list[Group]:
    """Sorts results into groups, whatever order they come in; an ablation goes to the AST that it was made from."""
    planned = [{"id": job["id"], "job": job, "figures": {}} for job in expected]
    known = {r["id"]: r for r in [*planned, *results]}
    groups: dict[str, Group] = {}
    for result in sorted(known.values(), key=_place):  # AST before its ablations
        job, official = result["job"], DATASETS[result["job"]["dataset"]].categories
        changed = VARIANTS.get(job["variant"], {})
        own = {k: v for k, v in job.items() if k not in _NOT_SETTINGS or (k == "data_root" and not official)}
        settings = {k: v for k, v in {**own, **job["config"], **job["recipe"]}.items() if k not in changed}
        home = next((g for g in groups.values() if changed and settings.items() <= g.settings.items()), None)
        if home is None:
            title = f"{DATASETS[job['dataset']].title}, {_MODALITIES[settings['modality']]}"
            title += ", synthetic data" * (job["data"] != "files")  # these never go by the dataset's name alone
            home = groups.setdefault(json.dumps(settings, sort_keys=True), Group(title, settings, official, []))
        home.results.append(result)
    return [g for key, g in sorted(groups.items(), key=lambda item: (*_place(item[1].results[0])[1:4], item[0]))]


def _place(result: Mapping[str, Any]) -> tuple[Any, ...]:
    job = result["job"]
    names = (job["variant"], job["dataset"], job["config"]["modality"], job["category"])
    orders = map(list, (VARIANTS, DATASETS, _MODALITIES, DATASETS[job["dataset"]].categories))
    ranks = [order.index(name) if name in order else len(order) for order, name in zip(orders, names, strict=True)]
    return *ranks[:3], job["data"], ranks[3], *names, job["seed"], result["id"]


def tables_of(group: Group) -> list[Table]:
    """AST beside what is published, the figures that nothing is published of, and ablations."""
    rows = _rows(group)
    there = [name for name in NAMES if group.categories(having=name)]
    first = [name for name in list(NAMES)[:7] if name in there][:5]
    rest = [name for name in there if name not in first]
    by = next((paper.by for *_, paper in rows if paper), None)
    used = [paper for *_, paper in rows if paper]
    beside, other = [], []
    for label, over, paper in rows:
        ours = group.by_seed(HEADLINE, over)
        means = {name: group.published(name, over) for name in first}
        used += [mean for mean in means.values() if mean]
        figures = [cell(ours), *(_beside(ours, paper) if by else [])]
        beside.append([label, str(len(ours)), *figures, *(cell(group.by_seed(n, over), means[n]) for n in first)])
        other.append([label, str(len(ours)), *(cell(group.by_seed(n, over)) for n in rest)])
    average = len(rows) > len(group.categories())
    header = ["category", "seeds", "image AUROC", *([by, "difference"] if by else []), *(NAMES[n] for n in first)]
    tables = [Table(group.title, header, beside, _notes(group, used), average)]
    header = ["category", "seeds", *(NAMES[n] for n in rest)]
    tables += [Table(f"{group.title}: other figures", header, other, [], average)] if rest else []
    return [table for table in (*tables, _ablations(group)) if table.rows]


def _rows(group: Group) -> list[tuple[str, list[str], Published | None]]:
    """The rows of a group's tables: the label, what it is over, and the published headline figure over the same."""
    rows = [(c, [c], group.published(HEADLINE, [c])) for c in group.categories()]
    done = group.categories(having=HEADLINE)
    n, mean = len(done), group.published(HEADLINE, done)
    papers = [paper for category, _, paper in rows if paper and category in done]
    label = f"average of {n}" + f" of {len(group.official)}" * bool(group.official)
    if n == len(group.official):
        label = f"average ({n} of {n})"
    elif n > 1 and len(papers) == n:
        value, verified = fmean(p.value for p in papers), all(p.verified for p in papers)
        mean = replace(papers[0], value=value, std=None, verified=verified, source="")
        label += f", {mean.by}: the same {n}"
    return [*rows, (label, done, mean)] if n > 1 else rows


def _ablations(group: Group) -> Table:
    """AST with one thing changed (paper, tables 5 to 7), averaged over the categories that are there."""
    variants = list(dict.fromkeys(r["job"]["variant"] for r in group.results))
    teacher = "teacher_image_auroc_mean" if group.settings["modality"] == "rgb" else "teacher_image_auroc_max"
    # The teacher sees position and mask as well, so that without them it is another one.
    teachers = {AST: "", "no positional encoding": ", no positional encoding", "no mask": ", no mask"}
    plan = [("teacher only (NLL)" + teachers[v], v, teacher) for v in variants if v in teachers]
    plan += [(v, v, HEADLINE) for v in variants]
    rows, sources = [], dict[str, None]()
    for label, variant, figure in plan if variants != [AST] else []:
        done = group.categories(variant, having=figure)
        ours = group.by_seed(figure, done, variant)
        paper = group.published(HEADLINE, done, label)
        sources |= {paper.source: None} if paper else {}
        count = f"{len(done)} of {len(group.official or group.categories(variant))}"
        rows.append([label, count, cell(ours), *_beside(ours, paper)])
    header = ["variant", "categories", "image AUROC", "paper", "difference"]
    return Table(f"{group.title}: ablations", header, rows, [f"Sources: {'; '.join(sources)}."] if sources else [])


def cell(values: Mapping[int, float], paper: Published | None = None) -> str:
    """The mean over seeds, its sample standard deviation where there are several, and a published mean in brackets."""
    if not values:
        return "-"
    text = f"{fmean(values.values()):.2f}" + (f" ± {stdev(values.values()):.2f}" if len(values) > 1 else "")
    return f"{text} [{paper}]" if paper else text


def _beside(ours: Mapping[int, float], paper: Published | None) -> list[str]:
    return [str(paper or "-"), f"{fmean(ours.values()) - paper.value:+.2f}" if ours and paper else "-"]


def _notes(group: Group, used: Sequence[Published]) -> list[str]:
    """What has to be known to read a table: settings, sources, where AST stands, what is missing."""
    lines = [_settings_note(group)]
    if group.settings["data"] != "files":
        lines.append("Drawn pictures: the figures show that all of it runs and learns; nothing published compares.")
    else:
        which = group.settings["dataset"], group.settings["modality"]
        own, (others, notes) = published(*which, HEADLINE), context(*which)
        sources = dict.fromkeys("† " * (not p.verified) + p.source for p in used if p.source)
        lines += [f"Sources: {'; '.join(sources)}."] if used else []
        averages: dict[str, list[str]] = {}
        for p in [own, *others] if own else others:
            figure = "" if p.figure == HEADLINE else NAMES[p.figure].partition(",")[0] + " "
            averages.setdefault(p.source, []).append(f"{p.method} {figure}{p}")
        texts = [f"{', '.join(values)} ({source})" for source, values in averages.items()]
        lines += [f"Published averages (image AUROC where nothing else is said): {'; '.join(texts)}."] if texts else []
        lines += notes
    unfinished = sum(not r["figures"] for r in group.results)
    return [*lines, f"Unfinished: {unfinished} of {len(group.results)} jobs."] if unfinished else lines


def _settings_note(group: Group) -> str:
    """The preset that belongs to the dataset, and what is not as in it."""
    base = DATASETS[group.settings["dataset"]].preset
    name = modal if (modal := f"{base}-{group.settings['modality']}") in PRESETS else base
    recipe = TrainingRecipe.preset(name, calibration_fraction=0.0)  # as the paper, the benchmark trains on all
    reference = {**ASTDetectorConfig.preset(name).to_dict(), **recipe.to_dict(), "backbone_digest": "pretrained"}
    own = {**group.settings, "backbone_digest": group.settings["backbone_digest"][:12] or "pretrained"}
    changed = [f"{k} {own[k]} ({v})" for k, v in reference.items() if k in own and own[k] != v]
    return f"Settings: preset {name}" + (f", except for {', '.join(changed)}." if changed else ".")
