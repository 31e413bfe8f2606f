"""Are the modules there? `python -m measurements evidence [--only NAME] [--seeds N]`, seeds 0 … n − 1, none selected.

Writes `reports/evidence.json`: {recipe: {seeds, exact, median_test_mse, median_connections, rows[]}}. `exact` counts
the seeds for which the claim of the case holds; each claim is one function of this file. Beside the
recipes stand two cases where there is nothing to find: a network trained without any cost, and data whose truth
is tangled. `published` holds the same claims against pruning by one absolute threshold, with no refit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec
from measurements.reproduce import in_order, merge
from measurements.rows import Experiment, Row

Document = Mapping[str, Any]
Claim = Callable[[Document], bool]
ASYMMETRY = 0.05  # of the gradient; below it we say that only the difference is read
BLOCK = 1e-3  # of an output's variance: what a module may do to outputs that are not its own
MEETS = 0.999  # R² on test rows
SIGNIFICANT = 0.05
TANGLED = ["(x1 + x2)*(x3 + x4)", "(x1 + x2 + x3 + x4)**3 / 8"]  # each needs all four inputs, together


def modules_of(document: Document) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(inputs, outputs) of each module, in an order of its own."""
    return sorted((tuple(sorted(m["inputs"])), tuple(sorted(m["outputs"]))) for m in document["modules"])


def dependencies(document: Document) -> dict[str, list[str]]:
    """For each output, the inputs from which a path of connections leads to it."""
    graph = document["graph"]
    sources: dict[str, set[str]] = {}
    for edge in graph["edges"]:
        sources.setdefault(edge["target"], set()).add(edge["source"])
    layers = graph["graph"]["layers"]
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    inputs = {node["id"] for node in graph["nodes"] if node["layer"] == layers[0]["name"]}
    read: dict[str, list[str]] = {}
    for output in (node for node in graph["nodes"] if node["layer"] == layers[-1]["name"]):
        reached, frontier = set(), [output["id"]]
        while frontier:
            here = frontier.pop()
            if here not in reached:
                reached.add(here)
                frontier.extend(sources.get(here, ()))
        read[output["name"]] = sorted(names[place] for place in reached & inputs)
    return read


def two_modules(document: Document) -> bool:
    """Exactly {x1, x3} → y1 and {x2, x4} → y2."""
    return modules_of(document) == [(("x1", "x3"), ("y1",)), (("x2", "x4"), ("y2",))]


def lower_triangular(document: Document) -> bool:
    """y1 reads x1; y2 reads x1 and x2; y3 reads all three; nothing else."""
    return dependencies(document) == {"y1": ["x1"], "y2": ["x1", "x2"], "y3": ["x1", "x2", "x3"]}


def only_differences(document: Document) -> bool:
    """The inputs are read only through x1 − x2 and x3 − x4."""
    (output,) = document["readout"]["outputs"]
    parts = {tuple(part["inputs"]): part for part in output["symmetry"]["through"]}
    return set(parts) == {("x1", "x2"), ("x3", "x4")} and all(
        part["coefficients"] == [1.0, -1.0] and part["asymmetry"] <= ASYMMETRY for part in parts.values()
    )


def all_learnt(document: Document) -> bool:
    """Every output is learnt."""
    return all(output["learnt"] for output in document["metrics"]["outputs"])


def no_module(document: Document) -> bool:
    """No module is called supported, and no group inside one."""
    metrics = document["metrics"]
    return metrics["supported_modules"] + metrics["interior_modules"] == 0


def formulas(*texts: str, inputs: int) -> dict[str, Any]:
    """Data of formulas, as many rows as a spec has that does not say."""
    return {"kind": "formula", "formulas": list(texts), "inputs": inputs}


@dataclass(frozen=True)
class Case:
    """A recipe (None: the defaults of a spec), what is changed in it, and what is claimed.

    changes    part of the spec -> field -> value.
    has_truth  False: there is nothing to find, so thresholds have nothing to be compared by.
    """

    recipe: str | None
    claim: Claim
    changes: Mapping[str, Mapping[str, Any]]
    has_truth: bool = True

    def spec(self) -> Spec:
        """The recipe's spec with the changes."""
        if self.recipe is None:
            return Spec.model_validate(self.changes)
        said = load_recipe(self.recipe).spec.model_dump(mode="json")
        for part, fields in self.changes.items():
            said[part] |= fields
        return Spec.model_validate(said)


CASES: dict[str, Case] = {
    "independence": Case("independence", two_modules, {}),
    "feature_sharing": Case("feature_sharing", lower_triangular, {}),
    "compositionality": Case("compositionality", only_differences, {}),
    "hemispheres": Case("hemispheres", only_differences, {}),
    "weak_output": Case(None, all_learnt, {"dataset": formulas("x1*x2*x3", "x4", inputs=4)}, has_truth=False),
    "weak_and_sum": Case(
        None, all_learnt, {"dataset": formulas("x1*x2*x3", "x1*x2*x3 + x4", inputs=4)}, has_truth=False
    ),
    "three_curves": Case(
        None, all_learnt, {"dataset": formulas("exp(x1 + x2)", "sin(pi*x3)*x4", "x5**2", inputs=5)}, has_truth=False
    ),
    "vanilla": Case("independence", no_module, {"training": {"method": "vanilla"}}, has_truth=False),
    "tangled": Case("independence", no_module, {"dataset": {"formulas": TANGLED}}, has_truth=False),
}


def details(document: Document) -> dict[str, Any]:
    """What else a row has: inputs of each output, effects off the block diagonal, p-values, formulas, parts apart."""
    found: dict[str, Any] = {
        "modules": [{"reads": list(reads), "decides": list(decides)} for reads, decides in modules_of(document)],
        "dependencies": dependencies(document),
    }
    if len(document["modules"]) > 1:
        found |= _effects(document)
    else:
        found |= {"block_diagonal": False, "significant": False}
    outputs = document["readout"]["outputs"]
    found["formulas"] = [output["formula"].get("text") for output in outputs]
    found["formulas_accepted"] = all(output["formula"]["accepted"] for output in outputs)
    found["formulas_true"] = found["formulas_accepted"] and all(
        ((output["formula"].get("test") or {}).get("r2_of_targets") or 0) >= MEETS for output in outputs
    )
    found["layers_apart"] = [output["layers_apart"] for output in outputs]
    found["parts_apart"] = all(layers > 0 for layers in found["layers_apart"])
    found["asymmetry"] = max(
        (part["asymmetry"] for output in outputs for part in output["symmetry"]["through"]), default=0.0
    )
    return found


def _effects(document: Document) -> dict[str, Any]:
    """The largest effect on an output that is not a module's own, the smallest on its own, and the largest p (Holm)."""
    effects = document["effects"]
    own = {m["name"]: {effects["outputs"].index(o) for o in m["outputs"]} for m in document["modules"]}
    cells = [
        (matrix[row][column], column in own[name])
        for matrix in effects["matrices"].values()
        for row, name in enumerate(effects["modules"])
        for column in range(len(effects["outputs"]))
    ]
    corrected = effects["p_holm"]
    p_holm = [corrected[row][column] for row, name in enumerate(effects["modules"]) for column in sorted(own[name])]
    off = max((value for value, is_own in cells if not is_own), default=0.0)
    return {
        "off_diagonal": off,
        "least_own_effect": min(value for value, is_own in cells if is_own),
        "p_holm": max(p_holm),
        "block_diagonal": off < BLOCK,
        "significant": max(p_holm) < SIGNIFICANT,
    }


def asked(name: str, seeds: int) -> list[Experiment]:
    """A case over the seeds 0 … n − 1, none of them picked."""
    case = CASES[name]
    return [Experiment(name, seed, case.spec(), baseline=case.has_truth) for seed in range(seeds)]


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
    drawn = Table(title="Are the modules there? Seeds 0, 1, …")
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


def counts(report: dict[str, Any]) -> list[str]:
    """One line for each case: in how many seeds what else holds."""
    return [
        f"{name}: "
        + ", ".join(f"{key.replace('_', ' ')} in {n}" for key, n in entry["counts"].items() if key != "exact")
        + f" of {entry['seeds']}."
        for name, entry in report.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Train, summarise, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(CASES), action="append", help="one case; may be repeated")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 … n−1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    names = args.only or list(CASES)
    rows = in_order([q for name in names for q in asked(name, args.seeds)], args.folder, args.processes)
    report = {name: summary(name, rows[name]) for name in names}
    merge(args.folder / "evidence.json", report)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(report))
    for sentence in counts(report):
        console.print(sentence)
    console.print(f"Wrote {args.folder}/evidence.json.")
    return 0
