"""Are the modules there? `python -m standalone.reports.evidence [--only NAME] [--seeds N]`, unpicked seeds 0 … n − 1.

Writes `reports/evidence.json`: {recipe: {seeds, exact, median_test_mse, median_connections, rows[]}}. `exact` counts
the seeds for which the claim of the case holds; each claim is one function of `standalone.reports.claims`. Beside the
recipes stand two cases where there is nothing to find: a network trained without any cost, and data whose truth
is tangled. `published` holds the same claims against pruning by one absolute threshold, with no refit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from standalone.reports.claims import CASES, details
from standalone.reports.reproduce import in_order, merge
from standalone.reports.runs import Question, Row


def asked(name: str, seeds: int) -> list[Question]:
    """A case over the seeds 0 … n − 1, none of them picked."""
    case = CASES[name]
    return [Question(name, seed, case.spec(), baseline=case.has_truth) for seed in range(seeds)]


def summary(name: str, rows: list[Row]) -> dict[str, Any]:
    """In how many seeds the claim holds, how well they predict on held-out data, how many connections they keep."""
    lines = [line(name, row) for row in sorted(rows, key=lambda row: row["seed"])]
    entry: dict[str, Any] = {
        "claim": (CASES[name].claim.__doc__ or "").splitlines()[0],
        "seeds": len(lines),
        "exact": sum(entry["exact"] for entry in lines),
        "median_test_mse": _median(lines, "test_mse"),
        "worst_test_mse": max(entry["test_mse"] for entry in lines),
        "median_trained_test_mse": _median(lines, "trained_test_mse"),
        "median_connections": _median(lines, "connections"),
        "median_seconds_cpu": statistics.median(entry["seconds_cpu"]["evidence"] for entry in lines),
        "counts": {
            key: sum(bool(entry[key]) for entry in lines) for key, value in lines[0].items() if isinstance(value, bool)
        },
        "rows": lines,
    }
    if CASES[name].has_truth:
        entry["published"] = published(name, rows)
    return entry


def published(name: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same claim, thresholding alone: one entry for each cut."""
    found = []
    for number, first in enumerate(rows[0]["thresholds"]):
        here = [row["thresholds"][number] for row in rows]
        found.append(
            {
                "cut": first["cut"],
                "exact": sum(CASES[name].claim(document) for document in here),
                "median_test_mse": statistics.median(d["metrics"]["test_prediction_loss"] for d in here),
                "median_connections": statistics.median(d["metrics"]["connections"] for d in here),
            }
        )
    return found


def line(name: str, row: Row) -> dict[str, Any]:
    """One seed as the report shows it."""
    evidence = row["evidence"]
    return {
        "seed": row["seed"],
        "exact": CASES[name].claim(evidence),
        "test_mse": evidence["metrics"]["test_prediction_loss"],
        "trained_test_mse": row["trained"]["test_prediction_loss"],
        "connections": len(evidence["graph"]["edges"]),
        "verdict": evidence["metrics"]["verdict"],
        **details(evidence),
        "seconds_cpu": row["seconds_cpu"],
    }


def _median(lines: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(entry[key] for entry in lines)


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title="Are the modules there? Unpicked seeds")
    for heading in ("case", "claim", "exact", "median test MSE", "worst", "connections", "CPU s"):
        drawn.add_column(heading, justify="left" if heading in ("case", "claim") else "right")
    for name, entry in report.items():
        figures = [entry["median_test_mse"], entry["worst_test_mse"]]
        drawn.add_row(
            name,
            entry["claim"],
            f"{entry['exact']} of {entry['seeds']}",
            *[f"{figure:.3g}" for figure in figures],
            f"{entry['median_connections']:g}",
            f"{entry['median_seconds_cpu']:.2f}",
        )
        for way in entry.get("published", ()):
            counted, mse = f"{way['exact']} of {entry['seeds']}", f"{way['median_test_mse']:.3g}"
            label = f"  as published: |w| ≥ {way['cut']:g} is kept, no refit"
            drawn.add_row("", label, counted, mse, "", f"{way['median_connections']:g}", "", style="dim")
    return drawn


def told(report: dict[str, Any]) -> list[str]:
    """One line for each case: in how many seeds what else holds."""
    return [
        f"{name}: "
        + ", ".join(f"{key.replace('_', ' ')} in {n}" for key, n in entry["counts"].items() if key != "exact")
        + f" of {entry['seeds']}."
        for name, entry in report.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m standalone.reports.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(CASES), action="append", help="one case; may be repeated")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 … n−1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    given = parser.parse_args(arguments)
    names = given.only or list(CASES)
    rows = in_order([q for name in names for q in asked(name, given.seeds)], given.folder, given.processes)
    report = {name: summary(name, rows[name]) for name in names}
    merge(given.folder / "evidence.json", report)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(report))
    for sentence in told(report):
        console.print(sentence)
    console.print(f"Wrote {given.folder}/evidence.json.")


if __name__ == "__main__":
    main()
