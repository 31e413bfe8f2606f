"""Does locality help? `python -m measurements methods [--only CASE] [--seeds N]`: five methods at the same loss.

BIMT differs from plain training in three respects: weights have a cost (l1), the cost grows with length (l1_local), and
neurons exchange slots (l1_swap; bimt does both). A higher cost gives fewer connections and a larger loss, so each λ is
matched first: on design seeds, none of which is reported, every method tries the schedule of the recipe at several
factors, and takes the one whose median validation loss is nearest to that of bimt with factor 1. Then all train with
the seeds 0 … n − 1, and every network is pruned, relaid by optimal relocation (so that no method looks worse only
because its neurons were not moved), and searched for modules.

Writes `reports/methods.json`: {case: {factors, methods: {method: {figure: {median, low, high, values}}}, tests: {pair:
{figure: {difference, low, high, p}}}}}. Intervals are 95 % bootstrap ones, of the median and of the mean difference;
p is that of Wilcoxon's signed-rank test over seeds, for two pairs that differ in locality alone, and is not corrected
for the number of figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from measurements.reproduce import merge
from measurements.truth import Trial, rows_of
from measurements.truth_cases import CASES, METHODS

Row = Mapping[str, Any]
ASKED = ("independence", "digit_pair", "modular_addition", "s4")
DESIGN_SEEDS = range(100, 103)
FACTORS = (0.5, 1.0, 2.0)
PAIRS = {"locality and relocation": ("bimt", "l1_swap"), "locality alone": ("l1_local", "l1")}
FIGURES = ("validation_loss", "relaid_wiring", "connections", "exact", "ari", "trees_homogeneity")
RESAMPLES = 2000


def figures(row: Row) -> dict[str, float]:
    """The figures of one network; those that its case does not know are left out."""
    found = {
        "validation_loss": row["metrics"]["validation_prediction_loss"],
        "relaid_wiring": row["wiring"]["relaid_wiring"],
        "connections": row["metrics"]["connections"],
        "ari": row["scores"]["ours"]["ari"],
        "trees_homogeneity": row["trees"]["homogeneity"],
    }
    if "exact" in row:
        found["exact"] = float(row["exact"])
    return {name: float(value) for name, value in found.items() if value is not None}


def matched(case: str, folder: Path, processes: int) -> dict[str, float]:
    """By which factor each method's λ is multiplied, so that its validation loss is nearest to that of bimt at 1.

    Vanilla has no cost, so nothing can be matched: its factor is 1.
    """
    others = [method for method in METHODS if method not in ("bimt", "vanilla")]
    tried = [("bimt", 1.0), *((method, factor) for method in others for factor in FACTORS)]
    trials = [Trial(case, method, seed, factor) for method, factor in tried for seed in DESIGN_SEEDS]
    losses: dict[tuple[str, float], list[float]] = {}
    for row in rows_of(trials, folder, processes=processes, minutes=None):
        losses.setdefault((row["method"], row["cost_factor"]), []).append(figures(row)["validation_loss"])
    logarithm = {key: float(np.log(statistics.median(of))) for key, of in losses.items()}
    wanted = logarithm["bimt", 1.0]
    chosen = {method: min(FACTORS, key=lambda f: abs(logarithm[method, f] - wanted)) for method in others}
    return chosen | {"bimt": 1.0, "vanilla": 1.0}


def compared(rows: Sequence[Row]) -> dict[str, Any]:
    """The spread of every figure for each method, and the paired tests."""
    by_method: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["seed"]] = figures(row)
    methods = {
        method: {
            figure: spread([of[seed][figure] for seed in sorted(of)])
            for figure in FIGURES
            if all(figure in line for line in of.values())
        }
        for method, of in by_method.items()
    }
    tests = {
        name: {
            figure: paired([(by_method[one][seed][figure], by_method[other][seed][figure]) for seed in seeds])
            for figure in methods[one]
            if figure in methods[other]
        }
        for name, (one, other) in PAIRS.items()
        if (seeds := sorted(by_method.get(one, {}).keys() & by_method.get(other, {}).keys()))
    }
    return {"methods": methods, "tests": tests}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median with its 95 % bootstrap interval; the mean, for figures that are counts; all values."""
    draws = _resampled(np.array(values))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return {
        "median": statistics.median(values), "low": float(low), "high": float(high), "mean": statistics.fmean(values),
        "values": list(values),
    }  # fmt: skip


def paired(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The first minus the second over seeds: mean with its 95 % bootstrap interval, Wilcoxon's p (1 if all equal)."""
    from scipy.stats import wilcoxon

    difference = np.array([one - other for one, other in pairs])
    low, high = np.quantile(_resampled(difference).mean(axis=1), (0.025, 0.975))
    p = float(wilcoxon(difference).pvalue) if np.any(difference != 0) else 1.0
    return {"difference": float(difference.mean()), "low": float(low), "high": float(high), "p": p, "of": len(pairs)}


def _resampled(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))


def table(case: str, report: Mapping[str, Any]) -> Table:
    """The report of one case as people read it."""
    drawn = Table(title=f"{CASES[case].title}: median [95 %], counts as means")
    for heading in ("method", "λ ×", *FIGURES):
        drawn.add_column(heading.replace("_", " "), justify="left" if heading == "method" else "right")
    for method in METHODS:
        entry = report["methods"].get(method)
        if entry is None:
            continue
        cells = [_cell(figure, entry[figure]) if figure in entry else "–" for figure in FIGURES]
        drawn.add_row(method, f"{report['factors'][method]:g}", *cells)
    for name, of in report["tests"].items():
        tests = [f"{of[f]['difference']:+.2g}, p {of[f]['p']:.2g}" if f in of else "–" for f in FIGURES]
        drawn.add_row(name, "", *tests)
    return drawn


def _cell(figure: str, entry: Mapping[str, float]) -> str:
    if figure in ("exact", "ari", "trees_homogeneity"):
        return f"{entry['mean']:.2f}"
    return f"{entry['median']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"


def main(arguments: list[str] | None = None) -> int:
    """Match, train, compare, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements methods", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=ASKED, action="append", help="one case; may be repeated")
    parser.add_argument("--method", choices=METHODS, action="append", help="one training method; may be repeated")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 … n−1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console, kept = Console(width=None if sys.stdout.isatty() else 150), args.folder / "rows"
    for case in args.only or ASKED:
        factors = matched(case, kept, args.processes)
        trials = [
            Trial(case, method, seed, factors[method])
            for seed in range(args.seeds)
            for method in args.method or METHODS
        ]
        report = {"factors": factors, **compared(rows_of(trials, kept, processes=args.processes, minutes=None))}
        merge(args.folder / "methods.json", {case: report})
        console.print(table(case, report))
    console.print(f"Wrote {args.folder}/methods.json.")
    return 0
