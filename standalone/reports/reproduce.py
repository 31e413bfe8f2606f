"""Reproduce the paper over unpicked seeds: `python -m standalone.reports.reproduce [--only NAME] [--seeds N]`.

Writes `reports/reproduce.json`, one entry for each recipe: {seeds, metric, values[], median, worst, seconds_cpu},
with the pruned network's numbers beside the trained one's; and `reports/reproduce.html`, a page of pictures, one for
each seed, none of them picked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bimt_engine.recipes.shelf import load_recipe, recipe_names
from standalone.reports.page import write_page
from standalone.reports.runs import Question, Row, answers, questions

# Tens of thousands of connections, or pruned while they learnt: their claim is about the trained network.
TOO_LARGE_TO_PRUNE = {"mnist", "mnist_pruned", "in_context"}
HIGHER_IS_BETTER = {"test_accuracy", "train_accuracy"}


def summary(recipe_name: str, rows: list[Row]) -> dict[str, Any]:
    """Median, worst and every value, ordered by seed, of the metric that the recipe's claim is judged by.

    The values are those of the network that a run gives back, pruned and refitted; `trained` holds those of the
    network as training left it. Where nothing is pruned, the trained ones are the values.
    """
    metric = load_recipe(recipe_name).metric
    rows = sorted(rows, key=lambda row: row["seed"])
    worst = min if metric in HIGHER_IS_BETTER else max
    trained = spread([row["trained"][metric] for row in rows], worst)
    given_back = [row["evidence"]["metrics"][metric] for row in rows if "evidence" in row]
    entry: dict[str, Any] = {"seeds": len(rows), "metric": metric, "stepper": rows[0]["stepper"]}
    entry |= spread(given_back, worst) if given_back else trained
    entry["network"] = "pruned and refitted" if given_back else "as trained"
    entry["trained"] = trained
    entry["seconds_cpu"] = statistics.median(sum(row["seconds_cpu"].values()) for row in rows)
    if given_back:
        entry["connections"] = [len(row["evidence"]["graph"]["edges"]) for row in rows]
        entry["modules"] = [len(row["evidence"]["modules"]) for row in rows]
    else:
        entry["connections"] = [row["kept"]["connections"] for row in rows]
        entry["nonzero"] = [row["kept"]["nonzero"] for row in rows]
    return entry


def spread(values: list[float], worst: Any) -> dict[str, Any]:
    return {"values": values, "median": statistics.median(values), "worst": worst(values)}


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title="Reproduction over unpicked seeds")
    columns = ("recipe", "seeds", "metric", "network", "median", "worst", "trained: median", "worst", "kept", "CPU s")
    for heading in columns:
        drawn.add_column(heading, justify="left" if heading in ("recipe", "metric", "network") else "right")
    for name, entry in report.items():
        trained, kept = entry["trained"], entry.get("connections")
        figures = [entry["median"], entry["worst"], trained["median"], trained["worst"]]
        drawn.add_row(
            name,
            str(entry["seeds"]),
            entry["metric"],
            entry["network"],
            *[f"{figure:.3g}" for figure in figures],
            f"{statistics.median(kept):g}" if kept else "–",
            f"{entry['seconds_cpu']:.1f}",
        )
    return drawn


def run_recipes(names: list[str], seeds: int | None, folder: Path, processes: int) -> dict[str, list[Row]]:
    """Every recipe's rows."""
    asked = [q for name in names for q in questions(name, seeds, evidence=name not in TOO_LARGE_TO_PRUNE)]
    return in_order(asked, folder, processes)


def in_order(asked: list[Question], folder: Path, processes: int) -> dict[str, list[Row]]:
    """The rows by recipe, with a bar that moves."""
    rows: dict[str, list[Row]] = {question.recipe: [] for question in asked}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("runs", total=len(asked))
        for row in answers(asked, folder / "rows", processes=processes):
            rows[row["recipe"]].append(row)
            progress.update(bar, advance=1, description=f"{row['recipe']} · seed {row['seed']}")
    return rows


def merge(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Write these entries over those of the same name in a report that may already be there."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report |= entries
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return report


def main(arguments: list[str] | None = None) -> None:
    runnable = [name for name in recipe_names() if not load_recipe(name).needs_dataset]
    parser = argparse.ArgumentParser(prog="python -m standalone.reports.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=runnable, action="append", help="one recipe; may be given several times")
    parser.add_argument("--seeds", type=int, help="seeds 0 … n−1; without it, each recipe's own number")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    given = parser.parse_args(arguments)
    rows = run_recipes(given.only or runnable, given.seeds, given.folder, given.processes)
    entries = {name: summary(name, recipe_rows) for name, recipe_rows in rows.items()}
    merge(given.folder / "reproduce.json", entries)
    write_page(given.folder / "reproduce.html", rows, entries)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(entries))
    console.print(f"Wrote {given.folder}/reproduce.json and {given.folder}/reproduce.html.")


if __name__ == "__main__":
    main()
