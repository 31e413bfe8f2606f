"""Reproduce the paper over seeds 0, 1, …: `python -m measurements reproduce [--only NAME] [--seeds N]`.

Writes `reports/reproduce.json`, one entry for each recipe: {seeds, metric, values[], median, worst, seconds_cpu},
with the pruned network's numbers beside the trained one's; and `reports/reproduce.html`, a page of pictures, one for
each seed, none of them picked.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bimt_engine.recipes import load_recipe, recipe_names
from measurements.rows import Experiment, Row, experiments, gather, run_experiment

# Tens of thousands of connections, or pruned while they learnt: their claim is about the trained network.
TOO_LARGE_TO_PRUNE = {"mnist", "mnist_pruned", "in_context", "python_text"}
HIGHER_IS_BETTER = {"test_accuracy", "train_accuracy"}


def summary(recipe_name: str, rows: list[Row]) -> dict[str, Any]:
    """Median, worst and every value, ordered by seed, of the metric that the recipe's claim is judged by.

    The values are those of the pruned and refitted network; `trained` holds those of the network as training left
    it. Where nothing is pruned, the trained ones are the values.
    """
    metric = load_recipe(recipe_name).metric
    rows = sorted(rows, key=lambda row: row["seed"])
    worst = min if metric in HIGHER_IS_BETTER else max
    trained = spread([row["trained"][metric] for row in rows], worst)
    pruned = [row["evidence"]["metrics"][metric] for row in rows if "evidence" in row]
    entry: dict[str, Any] = {"seeds": len(rows), "metric": metric, "stepper": rows[0]["stepper"]}
    entry |= spread(pruned, worst) if pruned else trained
    entry["network"] = "pruned and refitted" if pruned else "as trained"
    entry["trained"] = trained
    entry["seconds_cpu"] = statistics.median(sum(row["seconds_cpu"].values()) for row in rows)
    if pruned:
        entry["connections"] = [len(row["evidence"]["graph"]["edges"]) for row in rows]
        entry["modules"] = [len(row["evidence"]["modules"]) for row in rows]
    else:
        entry["connections"] = [row["kept"]["connections"] for row in rows]
        entry["nonzero"] = [row["kept"]["nonzero"] for row in rows]
    return entry


def spread(values: list[float], worst: Any) -> dict[str, Any]:
    """All values, their median, and the worst of them."""
    return {"values": values, "median": statistics.median(values), "worst": worst(values)}


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title="Reproduction over seeds 0, 1, …")
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
    asked = [q for name in names for q in experiments(name, seeds, evidence=name not in TOO_LARGE_TO_PRUNE)]
    return in_order(asked, folder, processes)


def in_order(asked: list[Experiment], folder: Path, processes: int) -> dict[str, list[Row]]:
    """The rows by recipe, with a bar that moves."""
    rows: dict[str, list[Row]] = {experiment.recipe: [] for experiment in asked}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("runs", total=len(asked))
        for _, row in gather(asked, run_experiment, folder / "rows", processes=processes):
            rows[row["recipe"]].append(row)
            progress.update(bar, advance=1, description=f"{row['recipe']} · seed {row['seed']}")
    return rows


def merge(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Write these entries over those of the same name in a report that may already be there."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report |= entries
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return report


STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
.seeds { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #8886; border-radius: .5rem; padding: .5rem }
figure img { width: 100%; background: #fff; border-radius: .3rem }
figcaption { font-size: .85rem; font-variant-numeric: tabular-nums }
"""


def write_page(path: Path, rows: dict[str, list[Row]], entries: dict[str, Any]) -> None:
    """Write one self-contained HTML file, pictures inside."""
    sections = "\n".join(_section(name, rows[name], entries[name]) for name in rows)
    title = "Reproduction over seeds 0, 1, …"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{sections}</html>",
        encoding="utf-8",
    )


def _section(name: str, rows: list[Row], entry: dict[str, Any]) -> str:
    recipe = load_recipe(name)
    figures = "".join(_seed(row, entry["metric"]) for row in sorted(rows, key=lambda row: row["seed"]))
    return (
        f"<h2>{html.escape(recipe.title)}</h2><p>{html.escape(recipe.claim)} <em>{html.escape(recipe.figure)}</em></p>"
        f"<p>{entry['metric'].replace('_', ' ')}: median {entry['median']:.3g}, worst {entry['worst']:.3g} "
        f"over {entry['seeds']} seeds.</p><div class=seeds>{figures}</div>"
    )


def _seed(row: Row, metric: str) -> str:
    caption = f"seed {row['seed']} · trained {row['trained'][metric]:.3g}"
    evidence = row.get("evidence")
    if evidence:
        caption += f" · pruned {evidence['metrics'][metric]:.3g} · {len(evidence['graph']['edges'])} connections"
    else:
        caption += f" · {row['kept']['connections']} connections carry it"
    return f"<figure>{_picture(row)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _picture(row: Row) -> str:
    """The pruned network where there is one, else the training curves."""
    from bimt_engine.analysis.graph import Graph
    from bimt_engine.figures.curves import draw_curves
    from bimt_engine.figures.network import draw_network
    from bimt_engine.figures.style import to_png

    evidence = row.get("evidence")
    figure = draw_network(Graph.from_json(evidence["graph"])) if evidence else draw_curves(row["history"])
    png = base64.b64encode(to_png(figure)).decode()
    return f'<img alt="{row["recipe"]}, seed {row["seed"]}" src="data:image/png;base64,{png}">'


def main(arguments: list[str] | None = None) -> int:
    """Train, summarise, print, and write the report and its page."""
    runnable = [name for name in recipe_names() if not load_recipe(name).needs_dataset]
    parser = argparse.ArgumentParser(prog="python -m measurements reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=runnable, action="append", help="one recipe; may be given several times")
    parser.add_argument("--seeds", type=int, help="seeds 0 … n−1; without it, each recipe's own number")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    rows = run_recipes(args.only or runnable, args.seeds, args.folder, args.processes)
    for name in [name for name, recipe_rows in rows.items() if "skipped" in recipe_rows[0]]:
        print(f"{name} is skipped: {rows.pop(name)[0]['skipped']}")
    entries = {name: summary(name, recipe_rows) for name, recipe_rows in rows.items()}
    merge(args.folder / "reproduce.json", entries)
    write_page(args.folder / "reproduce.html", rows, entries)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(entries))
    console.print(f"Wrote {args.folder}/reproduce.json and {args.folder}/reproduce.html.")
    return 0
