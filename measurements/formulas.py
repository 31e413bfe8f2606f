"""Are formulas found? `python -m measurements formulas [--only NAME] [--draws N] [--networks N]`.

Writes `reports/formulas.json`, with two parts:

`suite`      thirty functions, whose exact values the searchers are given at 300 random places: {library, both}, the
             library alone and with the genetic search after it: {found, of, rows[]}. Found means: on fresh places, and
             on places in ranges that are half as wide again, R² is at least 1 - 1e-6, and the formula is at most twice
             as large as the true one. A polynomial that comes near is not found.
`networks`   x4·sin(πx3) learnt with the default spec, pruned and read out, seeds 0 … n − 1: in how many the formula is
             that one, and by which verdicts it was accepted.

Every formula and every network is saved when it is done: what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.readout.function_search import Budget, Sampled, find, symbols_for
from bimt_engine.analysis.readout.verdicts import Judge, complexity, evaluated, r_squared
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.fingerprint import code_hash
from bimt_engine.spec import Spec
from measurements.reproduce import in_order, merge
from measurements.rows import Experiment

EXAMPLES = 300  # places that the searchers are given, and as many that decide
FRESH = 1000  # places that judge
WIDER = 0.25  # of a range, on either side
FOUND = 1 - 1e-6  # R² on the fresh places
MUCH_LARGER = 2.0  # times the complexity of the true formula
TOLERANCE = 5e-4  # of the variance, as in the recipes
PRODUCT = "x4*sin(pi*x3)"
SEARCHERS = {"library": 0, "both": 8}  # how many genetic searches each may make


@dataclass(frozen=True)
class Truth:
    """A function to be found, and the range of each of its inputs x1 … xn.

    source   where it is from: the paper's section 3.1; an equation of the Feynman Symbolic Regression Database (Udrescu
             and Tegmark, 2020) by its number, with the ranges of that database; or a product or quotient of curves.
    """

    name: str
    text: str
    ranges: tuple[tuple[float, float], ...]
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs."""
        return tuple(f"x{i + 1}" for i in range(len(self.ranges)))

    @property
    def expression(self) -> sympy.Expr:
        """The function as an expression. The text is one of this file."""
        return sympy.sympify(self.text, locals={str(symbol): symbol for symbol in symbols_for(self.names)})

    def places(self, count: int, *, seed: list[int], wider: float = 0.0) -> Float[np.ndarray, "N inputs"]:
        """Uniform inputs."""
        low, high = np.array(self.ranges, float).T
        more = wider * (high - low)
        return np.random.default_rng(seed).uniform(low - more, high + more, (count, len(low)))


def _truths(source: str, *entries: tuple[str, str, tuple[tuple[float, float], ...]]) -> list[Truth]:
    return [Truth(name, text, ranges, source) for name, text, ranges in entries]


_UNIT, _TWO, _ONE_TO_FIVE, _ONE_TO_THREE = (-1.0, 1.0), (-2.0, 2.0), (1.0, 5.0), (1.0, 3.0)

SUITE: dict[str, Truth] = {
    truth.name: truth
    for truth in (
        *_truths(
            "section 3.1",
            ("cube of a sum", "(x1 + x2)**3", (_UNIT,) * 2),
            ("square and sine", "x1**2 + sin(pi*x2)", (_UNIT,) * 2),
            ("one square", "x1**2", (_UNIT,)),
            ("two squares", "x1**2 + x2**2", (_UNIT,) * 2),
            ("three squares", "x1**2 + x2**2 + x3**2", (_UNIT,) * 3),
            ("norm of differences", "sqrt((x1 - x2)**2 + (x3 - x4)**2)", (_UNIT,) * 4),
        ),
        *_truths(
            "Feynman",
            ("I.6.20a", "exp(-x1**2/2)/sqrt(2*pi)", (_ONE_TO_THREE,)),
            ("I.6.20", "exp(-(x1/x2)**2/2)/(sqrt(2*pi)*x2)", (_ONE_TO_THREE,) * 2),
            ("I.10.7", "x1/sqrt(1 - x2**2/x3**2)", (_ONE_TO_FIVE, (1.0, 2.0), (3.0, 10.0))),
            ("I.14.4", "x1*x2**2/2", (_ONE_TO_FIVE,) * 2),
            ("I.16.6", "(x1 + x2)/(1 + x1*x2/x3**2)", (_ONE_TO_FIVE,) * 3),
            ("I.25.13", "x1/x2", (_ONE_TO_FIVE,) * 2),
            ("I.26.2", "asin(x1*sin(x2))", ((0.0, 1.0), _ONE_TO_FIVE)),
            ("I.27.6", "1/(1/x1 + x2/x3)", (_ONE_TO_FIVE,) * 3),
            ("I.30.3", "x1*sin(x2*x3/2)**2/sin(x3/2)**2", (_ONE_TO_FIVE,) * 3),
            ("I.37.4", "x1 + x2 + 2*sqrt(x1*x2)*cos(x3)", (_ONE_TO_FIVE,) * 3),
            ("I.47.23", "sqrt(x1*x2/x3)", (_ONE_TO_FIVE,) * 3),
            ("II.3.24", "x1/(4*pi*x2**2)", (_ONE_TO_FIVE,) * 2),
            ("II.11.28", "1 + x1*x2/(1 - x1*x2/3)", ((0.0, 1.0),) * 2),
            ("II.15.4", "-x1*x2*cos(x3)", (_ONE_TO_FIVE,) * 3),
            ("II.38.14", "x1/(2*(1 + x2))", (_ONE_TO_FIVE,) * 2),
            ("III.15.12", "2*x1*(1 - cos(x2*x3))", (_ONE_TO_FIVE,) * 3),
            ("III.17.37", "x1*(1 + x2*cos(x3))", (_ONE_TO_FIVE,) * 3),
        ),
        *_truths(
            "curves",
            ("line times sine", "x2*sin(pi*x1)", (_UNIT,) * 2),
            ("sine times cosine", "sin(pi*x1)*cos(2*x2)", (_UNIT,) * 2),
            ("damped sine", "exp(-x1)*sin(3*x2)", (_UNIT,) * 2),
            ("line times bell", "x1*exp(-x2**2)", (_TWO,) * 2),
            ("line over parabola", "x1/(1 + x2**2)", (_TWO,) * 2),
            ("line times tanh", "x1*tanh(2*x2)", (_UNIT,) * 2),
            ("line times logarithm", "x1*log(x2)", (_ONE_TO_FIVE,) * 2),
        ),
    )
}


def sought(truth: Truth, *, draw: int, searches: int) -> dict[str, Any]:
    """What the searchers make of the exact values of a function at random places, as a row of the report."""
    symbols, expression = symbols_for(truth.names), truth.expression

    def function(places: Float[np.ndarray, "N inputs"]) -> Float[np.ndarray, " N"]:
        return evaluated(expression, symbols, places)

    x, deciding = (truth.places(EXAMPLES, seed=[draw, part]) for part in (0, 1))
    values = function(deciding)
    sampled = Sampled(function, x, gradient(function, x), x.std(axis=0), function(x), truth.names)
    judge = Judge(
        deciding, values, values, lambda raw: raw, lambda answer: float(((answer - values) ** 2).mean()),
        0.0, TOLERANCE * float(values.var()), TOLERANCE,
    )  # fmt: skip
    began = time.process_time()
    with threadpool_limits(1):
        found = find(sampled, judge, seed=draw, budget=Budget(searches))
    row: dict[str, Any] = {
        "name": truth.name,
        "truth": truth.text,
        "source": truth.source,
        "draw": draw,
        "formula": None if found.verdict is None else str(found.verdict.expression),
        "searcher": None if found.verdict is None else found.verdict.searcher,
        "reason": found.reason,
        "seconds_cpu": time.process_time() - began,
        "found": False,
    }
    if found.verdict is None:
        return row
    formula = found.verdict.expression
    row |= {"complexity": complexity(formula), "true_complexity": complexity(expression)}
    for part, (name, wider) in enumerate((("fresh", 0.0), ("wider", WIDER)), start=2):
        places = truth.places(FRESH, seed=[draw, part], wider=wider)
        right, answer = function(places), evaluated(formula, symbols, places)
        known = np.isfinite(right)
        row[f"r2_{name}"] = float(r_squared(right[known], answer[known])) if np.isfinite(answer[known]).all() else None
    close = all((row[f"r2_{name}"] or 0.0) >= FOUND for name in ("fresh", "wider"))
    row["found"] = close and row["complexity"] <= MUCH_LARGER * row["true_complexity"]
    return row


def gradient(
    function: Callable[[Float[np.ndarray, "N inputs"]], Float[np.ndarray, " N"]], x: Float[np.ndarray, "N inputs"]
) -> Float[np.ndarray, "N inputs"]:
    """The derivative in each input, by central differences."""
    found = np.empty_like(x)
    for column in range(x.shape[1]):
        step = np.zeros(x.shape[1])
        step[column] = 1e-5 * x[:, column].std()
        found[:, column] = (function(x + step) - function(x - step)) / (2 * step[column])
    return found


def kept_row(truth: Truth, folder: Path, *, draw: int, searcher: str) -> dict[str, Any]:
    """The row of an earlier, interrupted report of the same source, or a new one."""
    said = json.dumps([asdict(truth), draw, SEARCHERS[searcher], code_hash(), Path(__file__).read_text("utf-8")])
    path = folder / f"formula-{hashlib.sha256(said.encode()).hexdigest()[:24]}.json"
    if path.exists():
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return row
    row = sought(truth, draw=draw, searches=SEARCHERS[searcher])
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row), encoding="utf-8")
    part.rename(path)
    return row


def read_networks(seeds: int, folder: Path, processes: int) -> dict[str, Any]:
    """PRODUCT learnt by networks of the default spec: in how many seeds the formula is found as it is."""
    spec = Spec(dataset=FormulaData(inputs=4, formulas=[PRODUCT]))
    rows = in_order([Experiment("product", seed, spec) for seed in range(seeds)], folder, processes)["product"]
    lines = []
    truth = Truth("product", PRODUCT, (_UNIT,) * 4, "networks")
    places = truth.places(FRESH, seed=[0, 2], wider=WIDER)
    right = evaluated(truth.expression, symbols_for(truth.names), places)
    for row in sorted(rows, key=lambda row: row["seed"]):
        formula = row["evidence"]["readout"]["outputs"][0]["formula"]
        fields = {name: formula.get(name) for name in (
            "text", "accepted", "meets_network", "meets_data", "better_than_network", "r2", "r2_of_targets",
            "network_r2_of_targets", "reason",
        )}  # fmt: skip
        same = False
        if fields["text"] is not None:
            symbols = symbols_for(truth.names)
            said = sympy.sympify(fields["text"], locals={str(symbol): symbol for symbol in symbols})
            same = r_squared(right, evaluated(said, symbols, places)) >= FOUND
        lines.append({"seed": row["seed"], "found": same, "seconds_cpu": row["seconds_cpu"]} | fields)
    return {"formula": PRODUCT, "found": sum(line["found"] for line in lines), "of": len(lines), "rows": lines}


def table(report: dict[str, Any]) -> Table:
    """The suite as people read it."""
    drawn = Table(title="Thirty functions")
    for heading in ("function", "true formula", "library", "library and genetic search", "CPU s"):
        drawn.add_column(heading)
    for number, row in enumerate(report["both"]["rows"]):
        alone = report["library"]["rows"][number]
        drawn.add_row(
            f"{row['name']} ({row['draw']})",
            row["truth"],
            "found" if alone["found"] else "",
            f"[bold]{row['formula']}[/]" if row["found"] else f"[dim]{(row['formula'] or row['reason'])[:60]}[/]",
            f"{row['seconds_cpu']:.1f}",
        )
    return drawn


def main(arguments: list[str] | None = None) -> int:
    """Search, summarise, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements formulas", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(SUITE), action="append", help="one function; may be repeated")
    parser.add_argument("--draws", type=int, default=1, help="draws of the places, 0 … n−1")
    parser.add_argument("--networks", type=int, default=20, help="seeds 0 … n−1 of the networks; 0: none")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    kept = args.folder / "rows"
    kept.mkdir(parents=True, exist_ok=True)
    truths = [SUITE[name] for name in args.only or SUITE]
    report: dict[str, Any] = {}
    for searcher in SEARCHERS:
        rows = []
        for draw in range(args.draws):
            rows += [kept_row(truth, kept, draw=draw, searcher=searcher) for truth in truths]
        report[searcher] = {"found": sum(row["found"] for row in rows), "of": len(rows), "rows": rows}
    entries: dict[str, Any] = {"suite": report}
    console.print(table(report))
    for searcher, entry in report.items():
        console.print(f"{searcher}: {entry['found']} of {entry['of']} found.")
    if args.networks:
        networks = entries["networks"] = read_networks(args.networks, args.folder, args.processes)
        console.print(f"{PRODUCT} is read out of {networks['found']} of {networks['of']} networks.")
    merge(args.folder / "formulas.json", entries)
    console.print(f"Wrote {args.folder}/formulas.json.")
    return 0
