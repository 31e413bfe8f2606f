"""Terminal output for people: tables, modules in words, effects as a small picture. None of it with `--json`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .datasets import Dataset
from .runs import Module, Run

MAX_TEXT = 24  # characters of a text in a cell: two different hashes differ in their beginnings
MAX_EFFECTS = 4  # of a module, where the terminal has no room for all
MAX_NAMES = 4  # inputs, outputs or representations of a group in a cell
MAX_OUTPUTS = 12  # in a list; those that were not learnt come first
SHADES = " ░▒▓█"  # 0, 1/4, 1/2, 3/4, all of the variance


@dataclass(frozen=True)
class Args:
    """The options that every verb has: `--json`, `--url`, `--token`."""

    json: bool = False
    url: str | None = None
    token: str | None = None


def say(args: Args, words: str) -> None:
    """Print a line, unless JSON is wanted."""
    if not args.json:
        _console().print(escape(words), soft_wrap=True)


def table(args: Args, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table without rules; None is an empty cell. Ids are never cut."""
    if args.json:
        return
    console, written = _console(), [["" if value is None else str(value) for value in row] for row in rows]
    if not written:
        console.print(Text("none", style="dim"))
    elif console.is_terminal:
        drawn = Table(box=None, pad_edge=False, header_style="dim")
        for number, name in enumerate(head):
            drawn.add_column(name, no_wrap=number == 0)
        for row in written:
            drawn.add_row(*map(escape, row))
        console.print(drawn)
    else:  # a pipe: as wide as needed, nothing cut or wrapped
        widths = [max(map(len, column)) for column in zip(head, *written, strict=True)]
        for row in (list(head), *written):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def dataset(args: Args, found: Dataset) -> None:
    """A data set: its size, its roles, its notes."""
    say(args, f"{found.id}  {found.name}: {found.rows} rows, {found.columns} columns")
    roles = found.roles or {}
    if roles:
        inputs = "all others" if roles.get("inputs") is None else ", ".join(roles["inputs"])
        say(args, f"{roles.get('task')} of {', '.join(roles.get('targets', []))} from {inputs}")
    for note in found.notes or ():
        say(args, note)


def runs(args: Args, found: Sequence[Run]) -> None:
    """A table of runs. Where they have different metrics, each row names its own."""
    names = {run.test_metric_name for run in found if run.test_metric_name}
    metric = names.pop() if len(names) == 1 else None
    rows = [
        (
            run.id,
            run.seed,
            number(run.cost_strength),
            run.state,
            number(run.test_metric) if metric or run.test_metric is None else _named(run),
            run.connections,
            run.modules_found,
            share(run.modularity),
            share(run.selectivity),
        )
        for run in found
    ]
    table(args, ("run", "seed", "λ", "state", metric or "test", "connections", "modules", "Q", "selectivity"), rows)


def _named(run: Run) -> str:
    return f"{run.test_metric_name} {number(run.test_metric)}"


def interior(args: Args, found: dict[str, Any] | None) -> None:
    """The groups inside the modules: for each partition its sentence and its groups, then the cheapest cuts."""
    if found is None or not found.get("partitions"):
        if found is not None:
            say(args, str(found.get("reading")))
        return
    for partition in found["partitions"]:
        say(args, "")
        say(args, str(partition["reading"]))
        rows = [
            (
                group["name"],
                len(group["neurons"]),
                _names([read["name"] for read in group["reads"]]),
                _names([moved["output"] for moved in group["strongest"]]),
                share(group["strongest"][0]["effect"]) if group["strongest"] else None,
                share(group["strongest"][0]["trained"]) if group["strongest"] else None,
                _names([f"{part['name']} {share(part['share'])}" for part in group.get("lies_in") or ()]),
                _formulas(group),
            )
            for group in partition["groups"]
        ]
        head = ("group", "neurons", "reads", "moves most", "by", "as trained", "lies in", "adds, up to a constant")
        told = [any(row[column] for row in rows) for column in range(len(head))]  # not all networks have the last two
        table(args, list(compress(head, told)), [list(compress(row, told)) for row in rows])
    for cut in found.get("cuts") or ():
        say(args, "")
        say(args, str(cut["reading"]))


def _formulas(group: dict[str, Any]) -> str:
    """The accepted formulas of what a group adds to outputs."""
    found = [one for one in group.get("computes") or () if one["formula"].get("accepted")]
    return "; ".join(f"{one['output']}: {one['formula']['text']}" for one in found)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(str, names[:MAX_NAMES])) + more


def run(args: Args, found: Run, modules: Sequence[Module], inside: dict[str, Any] | None = None, *, page: str) -> None:
    """A run: its numbers, its modules in words, what is inside them, and their effect on every target."""
    if args.json:
        return
    console = _console()
    console.print(f"[bold]{escape(found.id)}[/]  seed {found.seed}")
    if found.metrics and found.metrics.get("verdict"):
        console.print(f"  {escape(str(found.metrics['verdict']))}", soft_wrap=True)
    facts = {
        found.test_metric_name or "test": number(found.test_metric),
        "connections kept": found.connections,
        "connection cost": number(found.connection_cost),
        "modularity Q": share(found.modularity),
        "selectivity": share(found.selectivity),
    }
    for name, value in facts.items():
        if value not in (None, ""):
            console.print(f"  {name:22} {value}")
    outputs = sorted(found.outputs or [], key=lambda output: output.get("learnt") is not False)
    for output in outputs[:MAX_OUTPUTS]:
        console.print(f"  {escape(predicted(output))}", soft_wrap=True)
    if len(outputs) > MAX_OUTPUTS:
        console.print(f"  and {len(outputs) - MAX_OUTPUTS} more outputs", style="dim")
    console.print()
    for module in modules:
        console.print(f"  {escape(str(module))}", soft_wrap=True)
    if inside and inside.get("reading"):
        console.print(f"  {escape(str(inside['reading']))}", soft_wrap=True)
    console.print()
    for kind, title in (("mean", "pruned, set to its mean"), ("trained", "the same as trained")):
        if any(share_of(module, kind) for module in modules):
            _print_effects(console, modules, kind, title)
    console.print(f"\n  [dim]{escape(page)}[/]", soft_wrap=True)


def _print_effects(console: Console, modules: Sequence[Module], kind: str, title: str) -> None:
    """The effects as a matrix where it fits, else the strongest of each module."""
    drawn = effect_matrix(modules, kind, title)
    if console.measure(drawn, options=console.options.update(max_width=10_000)).maximum <= console.width:
        console.print(drawn)
        return
    console.print(f"  {title}, most of all", style="dim")
    for module in modules:
        console.print(strongest(module, kind), soft_wrap=True)


def predicted(output: dict[str, Any]) -> str:
    """How well one target is predicted, in a line."""
    measure = str(output["measure"])
    shares = [_below_one((output.get(which) or {}).get(measure)) or "–" for which in ("pruned", "trained")]
    learnt = {True: "", False: ", NOT LEARNT", None: ", too few rows to tell"}[output.get("learnt")]
    name = {"r2": "R²", "recall": "recall"}.get(measure, measure)
    tested = _below_one((output.get("test") or {}).get(measure))
    rows = "held out" if not tested else f"on validation rows, {tested} on test rows"
    return f"{output['output']:22} {name} {shares[0]} {rows} ({shares[1]} before pruning){learnt}"


def effect_matrix(modules: Sequence[Module], kind: str, title: str) -> Table:
    """The effects of a kind as a matrix, modules × targets: the share of the target's variance that changes."""
    targets = list(dict.fromkeys(target for module in modules for target in share_of(module, kind)))
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    drawn.add_column(f"  {title}", no_wrap=True, min_width=27)
    for target in targets:
        drawn.add_column(escape(target), justify="left", no_wrap=True)
    for module in modules:
        shares = share_of(module, kind)
        drawn.add_row(f"  module {escape(module.name)}", *(cell(shares.get(target)) for target in targets))
    return drawn


def strongest(module: Module, kind: str) -> Text:
    """The targets on which a module has its strongest effects, in one line."""
    shares = sorted(share_of(module, kind).items(), key=lambda found: -found[1])
    line = Text(f"  module {module.name}")
    for target, value in shares[:MAX_EFFECTS]:
        line.append_text(Text("  ")).append_text(cell(value)).append(f" {target}")
    if len(shares) > MAX_EFFECTS:
        line.append(f"  and {len(shares) - MAX_EFFECTS} more, less", style="dim")
    return line


def share_of(module: Module, kind: str) -> dict[str, float]:
    """Target → the share of its variance that changes when the module is set to its mean: pruned, or as trained."""
    measured = {target: found.get(kind) for target, found in (module.effects or {}).items()}
    return {target: float(value) for target, value in measured.items() if value is not None}


def cell(value: float | None) -> Text:
    """A number with its shade."""
    if value is None:
        return Text("")
    shade = SHADES[min(len(SHADES) - 1, max(0, round(min(1.0, abs(value)) * (len(SHADES) - 1))))]
    return Text(f"{shade * 4} {value:.2f}")


def number(value: float | None, *, digits: int = 3) -> str:
    """A number to some significant digits."""
    return "" if value is None else f"{value:.{digits}g}"


def _below_one(value: float | None) -> str:
    """A score whose best value is 1: 0.9996 is not rounded to it."""
    said = number(value)
    return f"{math.floor(1e4 * value) / 1e4:.4f}" if value is not None and said == "1" and value < 1 else said


def share(value: float | None) -> str:
    """A share to two digits; rounding errors vanish: -2e-16 is 0."""
    return "" if value is None else number(round(value, 9) + 0.0, digits=2)


def brief(value: Any) -> str:
    """Any JSON value in a table's cell: of modules their inputs and outputs, of a long text its beginning."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "outputs" in each for each in value):
        return " | ".join(f"{', '.join(each['inputs'])} → {', '.join(each['outputs'])}" for each in value)
    text = number(value) if isinstance(value, float) else "" if value is None else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1; the command decides


def _console() -> Console:
    return _Console(highlight=False)
