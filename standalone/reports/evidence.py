"""Are the modules there? `python -m standalone.reports.evidence [--only NAME] [--seeds N]`, unpicked seeds 0 … n − 1.

Writes `reports/evidence.json`: {recipe: {seeds, exact, median_test_mse, median_connections, rows[]}}. `exact` counts
the seeds whose pruned network has the structure that its formula has; each recipe's claim is one function below.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from standalone.reports.reproduce import merge, run_recipes
from standalone.reports.runs import Row

Claim = Callable[[Row], bool]
ASYMMETRY = 0.05  # of the gradient; below it we say that only the difference is read


def modules_of(row: Row) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(inputs, outputs) of each module, in an order of its own."""
    found = row["evidence"]["modules"]
    return sorted((tuple(sorted(m["inputs"])), tuple(sorted(m["outputs"]))) for m in found)


def dependencies(row: Row) -> dict[str, list[str]]:
    """For each output, the inputs from which a path of connections leads to it."""
    graph = row["evidence"]["graph"]
    sources: dict[str, set[str]] = {}
    for edge in graph["edges"]:
        sources.setdefault(edge["target"], set()).add(edge["source"])
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    inputs = {node["id"] for node in graph["nodes"] if node["layer"] == graph["graph"]["layers"][0]["name"]}
    outputs = [node for node in graph["nodes"] if node["layer"] == graph["graph"]["layers"][-1]["name"]]
    read: dict[str, list[str]] = {}
    for output in outputs:
        reached, frontier = set(), [output["id"]]
        while frontier:
            here = frontier.pop()
            if here not in reached:
                reached.add(here)
                frontier.extend(sources.get(here, ()))
        read[output["name"]] = sorted(names[place] for place in reached & inputs)
    return read


def two_modules(row: Row) -> bool:
    """Exactly {x1, x3} → y1 and {x2, x4} → y2."""
    return modules_of(row) == [(("x1", "x3"), ("y1",)), (("x2", "x4"), ("y2",))]


def lower_triangular(row: Row) -> bool:
    """y1 reads x1; y2 reads x1 and x2; y3 reads all three; nothing else."""
    return dependencies(row) == {"y1": ["x1"], "y2": ["x1", "x2"], "y3": ["x1", "x2", "x3"]}


def only_differences(row: Row) -> bool:
    """The function does not change when x1 and x2 move together, nor when x3 and x4 do."""
    return max(pair["asymmetry"] for pair in row["evidence"]["invariances"]) <= ASYMMETRY


CLAIMS: dict[str, Claim] = {
    "independence": two_modules,
    "feature_sharing": lower_triangular,
    "compositionality": only_differences,
}


def summary(name: str, rows: list[Row]) -> dict[str, Any]:
    """How many seeds have the structure, how well they predict on held-out data, how many connections they keep."""
    lines = [line(name, row) for row in sorted(rows, key=lambda row: row["seed"])]
    return {
        "claim": (CLAIMS[name].__doc__ or "").splitlines()[0],
        "seeds": len(lines),
        "exact": sum(entry["exact"] for entry in lines),
        "median_test_mse": statistics.median(entry["test_mse"] for entry in lines),
        "median_connections": statistics.median(entry["connections"] for entry in lines),
        "median_seconds_cpu": statistics.median(entry["seconds_cpu"]["evidence"] for entry in lines),
        "rows": lines,
    }


def line(name: str, row: Row) -> dict[str, Any]:
    """One seed as the report shows it."""
    evidence = row["evidence"]
    return {
        "seed": row["seed"],
        "exact": CLAIMS[name](row),
        "test_mse": evidence["metrics"]["test_prediction_loss"],
        "trained_test_mse": row["trained"]["test_prediction_loss"],
        "connections": len(evidence["graph"]["edges"]),
        "modules": [{"reads": list(inputs), "decides": list(outputs)} for inputs, outputs in modules_of(row)],
        "dependencies": dependencies(row),
        "seconds_cpu": row["seconds_cpu"],
    }


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title="Are the modules there? Unpicked seeds")
    for heading in ("recipe", "claim", "exact", "median test MSE", "connections", "CPU s"):
        drawn.add_column(heading, justify="left" if heading in ("recipe", "claim") else "right")
    for name, entry in report.items():
        counted = f"{entry['exact']} of {entry['seeds']}"
        figures = f"{entry['median_test_mse']:.3g}", f"{entry['median_connections']:g}"
        drawn.add_row(name, entry["claim"], counted, *figures, f"{entry['median_seconds_cpu']:.2f}")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m standalone.reports.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(CLAIMS), action="append", help="one recipe; may be repeated")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 … n−1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    given = parser.parse_args()
    rows = run_recipes(given.only or list(CLAIMS), given.seeds, given.folder, given.processes)
    report = {name: summary(name, recipe_rows) for name, recipe_rows in rows.items()}
    merge(given.folder / "evidence.json", report)
    console = Console()
    console.print(table(report))
    console.print(f"Wrote {given.folder}/evidence.json.")


if __name__ == "__main__":
    main()
