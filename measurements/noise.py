"""Nothing to find: `python -m measurements noise [--only TASK] [--seeds N]`, seeds 0 … n − 1, none selected.

Tables of 300 rows, nine normal inputs and a target that has nothing to do with them: a normal number, or one of two
labels. Each is trained and examined with the recipe `table`, as a user's own table is. Writes `reports/noise.json`:
{task: {seeds, kept_nothing, learnt_claimed, rows[]}}. Rows are kept seed by seed, so a second call goes on where the
first one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from bimt_engine.recipes import load_recipe
from bimt_engine.spec import UploadedData
from measurements.reproduce import in_order, merge
from measurements.rows import Experiment, Row

Task = Literal["regression", "classification"]
TASKS: tuple[Task, ...] = get_args(Task)
ROWS, INPUTS = 300, 9
SEEDS = 100


def noise_table(task: Task, seed: int) -> bytes:
    """A table as CSV: x1 … x9, and y, which is independent of them."""
    draw = np.random.default_rng([seed, TASKS.index(task)])
    inputs = draw.normal(size=(ROWS, INPUTS))
    target = draw.normal(size=ROWS) if task == "regression" else draw.integers(2, size=ROWS)
    lines = [",".join([*(f"x{number + 1}" for number in range(INPUTS)), "y"])]
    lines += [",".join([*map(repr, row), str(value)]) for row, value in zip(inputs.tolist(), target, strict=True)]
    return "\n".join(lines).encode()


def asked(task: Task, seeds: int) -> list[Experiment]:
    """A task over the seeds 0 … n − 1: each seed draws a table, a split and a network."""
    experiments = []
    for seed in range(seeds):
        content = noise_table(task, seed)
        data = UploadedData(
            dataset_id=f"dataset_{seed:026d}",
            sha256=hashlib.sha256(content).hexdigest(),
            format="csv",
            targets=["y"],
            task=task,
        )
        experiments.append(Experiment(task, seed, load_recipe("table").spec_for(data), content=content))
    return experiments


def line(row: Row) -> dict[str, Any]:
    """One seed as the report shows it."""
    metrics = row["evidence"]["metrics"]
    return {
        "seed": row["seed"],
        "connections": metrics["connections"],
        "learnt": [output["output"] for output in metrics["outputs"] if output["learnt"]],
        "validation": {key: metrics[key] for key in ("validation_r2", "validation_accuracy") if key in metrics},
        "test": {key: metrics[key] for key in ("test_r2", "test_accuracy") if key in metrics},
        "verdict": metrics["verdict"],
        "seconds_cpu": row["seconds_cpu"],
    }


def summary(rows: list[Row]) -> dict[str, Any]:
    """In how many seeds nothing was kept, and in how many something is said to have been learnt."""
    lines = [line(row) for row in sorted(rows, key=lambda row: row["seed"])]
    return {
        "seeds": len(lines),
        "kept_nothing": sum(entry["connections"] == 0 for entry in lines),
        "learnt_claimed": sum(bool(entry["learnt"]) for entry in lines),
        "rows": lines,
    }


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title=f"Nothing to find: {ROWS} rows, {INPUTS} inputs, recipe `table`")
    for heading in ("target", "tables", "nothing kept", "learnt claimed"):
        drawn.add_column(heading, justify="left" if heading == "target" else "right")
    for task, entry in report.items():
        drawn.add_row(task, *(str(entry[key]) for key in ("seeds", "kept_nothing", "learnt_claimed")))
    return drawn


def main(arguments: list[str] | None = None) -> int:
    """Train, summarise, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements noise", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=TASKS, action="append", help="this task; may be given again")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    rows = in_order(
        [one for task in args.only or TASKS for one in asked(task, args.seeds)], args.folder, args.processes
    )
    report = merge(args.folder / "noise.json", {task: summary(found) for task, found in rows.items()})
    Console().print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
