"""Fair baselines: `python -m measurements methods [--seeds N]`: every method's wiring, as trained and relaid.

Trains independence with each `method` over the unpicked seeds 0 … n − 1 and relays every finished network by optimal
relocation with restarts, so that no method looks worse only because its neurons were not moved. Writes
`reports/methods.json`: {method: {seeds, and for wiring, relaid_wiring, wiring_efficiency, test_mse: median, worst,
values[]}}.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Method, Spec
from measurements.reproduce import in_order, merge, spread
from measurements.rows import Experiment, Row

RECIPE = "independence"
METHODS: tuple[Method, ...] = get_args(Method)
FIGURES = ("wiring", "relaid_wiring", "wiring_efficiency", "test_mse")


def spec_of(method: Method) -> Spec:
    """The recipe's spec trained by this method; all else is the same."""
    spec = load_recipe(RECIPE).spec
    return spec.model_copy(update={"training": spec.training.model_copy(update={"method": method})})


def asked(method: Method, seeds: int) -> list[Experiment]:
    """One method over the seeds 0 … n − 1, none of them picked; nothing is pruned."""
    return [Experiment(f"{RECIPE}_{method}", seed, spec_of(method), evidence=False) for seed in range(seeds)]


def summary(rows: list[Row]) -> dict[str, Any]:
    """Median, worst and all values, ordered by seed, of each figure of the network as trained."""
    rows = sorted(rows, key=lambda row: row["seed"])
    told = [{**row["wiring"], "test_mse": row["trained"]["test_prediction_loss"]} for row in rows]
    return {"seeds": len(rows)} | {figure: spread([line[figure] for line in told], max) for figure in FIGURES}


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title=f"{RECIPE} by method: median (worst)")
    for heading in ("method", "seeds", "wiring", "relaid", "wiring / relaid", "test MSE"):
        drawn.add_column(heading, justify="left" if heading == "method" else "right")
    for method, entry in report.items():
        cells = [f"{entry[figure]['median']:.3g} ({entry[figure]['worst']:.3g})" for figure in FIGURES]
        drawn.add_row(method, str(entry["seeds"]), *cells)
    return drawn


def main(arguments: list[str] | None = None) -> int:
    """Train, summarise, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements methods", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 … n−1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    given = parser.parse_args(arguments)
    rows = in_order([q for method in METHODS for q in asked(method, given.seeds)], given.folder, given.processes)
    report: dict[str, Any] = {method: summary(rows[f"{RECIPE}_{method}"]) for method in METHODS}
    merge(given.folder / "methods.json", report)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(report))
    console.print(f"Wrote {given.folder}/methods.json.")
    return 0
