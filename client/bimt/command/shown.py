"""What a person reads: tables, modules in words, and the effects as a small picture. Nothing of it with `--json`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..datasets import Dataset
from ..runs import Module, Run

Asked = argparse.Namespace
MOST_SHOWN = 24  # characters of a text in a cell: of two hashes that differ, the beginnings differ
STRONGEST = 4  # effects of a module that are named where there is no room for all
MOST_OUTPUTS = 12  # in a list; what is not learnt comes first
SHADES = " ░▒▓█"  # none of the loss, a quarter, half, three quarters, all of it


def say(asked: Asked, words: str) -> None:
    """A line for people."""
    if not asked.json:
        _console().print(escape(words), soft_wrap=True)


def table(asked: Asked, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table without lines; what is absent stays empty. Ids are never cut."""
    if asked.json:
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
    else:  # for a pipe: as wide as it needs, nothing cut or wrapped
        widths = [max(map(len, column)) for column in zip(head, *written, strict=True)]
        for row in (list(head), *written):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def dataset(asked: Asked, found: Dataset) -> None:
    say(asked, f"{found.id}  {found.name}: {found.rows} rows, {found.columns} columns")
    roles = found.roles or {}
    if roles:
        inputs = "all others" if roles.get("inputs") is None else ", ".join(roles["inputs"])
        say(asked, f"{roles.get('task')} of {', '.join(roles.get('targets', []))} from {inputs}")
    for note in found.notes or ():
        say(asked, note)


def runs(asked: Asked, found: Sequence[Run]) -> None:
    # Runs of one job share their metric; in a list of the team's each says which it is.
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
    table(asked, ("run", "seed", "λ", "state", metric or "test", "connections", "modules", "Q", "selectivity"), rows)


def _named(run: Run) -> str:
    return f"{run.test_metric_name} {number(run.test_metric)}"


def run(asked: Asked, found: Run, modules: Sequence[Module], *, page: str) -> None:
    """A run: what sums it up, its modules in words, and what each does to every target."""
    if asked.json:
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
    for output in outputs[:MOST_OUTPUTS]:
        console.print(f"  {escape(predicted(output))}", soft_wrap=True)
    if len(outputs) > MOST_OUTPUTS:
        console.print(f"  and {len(outputs) - MOST_OUTPUTS} more outputs", style="dim")
    console.print()
    for module in modules:
        console.print(f"  {escape(str(module))}", soft_wrap=True)
    console.print()
    for kind, title in (("mean", "pruned, set to its mean"), ("trained", "the same as trained")):
        if any(share_of(module, kind) for module in modules):
            _print_effects(console, modules, kind, title)
    console.print(f"\n  [dim]{escape(page)}[/]", soft_wrap=True)


def _print_effects(console: Console, modules: Sequence[Module], kind: str, title: str) -> None:
    """As a matrix where it fits, else the strongest of each module."""
    drawn = picture(modules, kind, title)
    if console.measure(drawn, options=console.options.update(max_width=10_000)).maximum <= console.width:
        console.print(drawn)
        return
    console.print(f"  {title}, most of all", style="dim")
    for module in modules:
        console.print(strongest(module, kind), soft_wrap=True)


def predicted(output: dict[str, Any]) -> str:
    """How well one target is predicted, in a line."""
    measure = str(output["measure"])
    shares = [number((output.get(which) or {}).get(measure)) or "–" for which in ("pruned", "trained")]
    learnt = {True: "", False: ", NOT LEARNT", None: ", too few rows to tell"}[output.get("learnt")]
    name = {"r2": "R²", "recall": "recall"}.get(measure, measure)
    return f"{output['output']:22} {name} {shares[0]} held out ({shares[1]} before pruning){learnt}"


def picture(modules: Sequence[Module], kind: str, title: str) -> Table:
    """The effects of a kind as a matrix: how much of what every target can lose it loses without the module."""
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
    """The few targets that lose most without the module, where all of them do not fit beside one another."""
    shares = sorted(share_of(module, kind).items(), key=lambda found: -found[1])
    line = Text(f"  module {module.name}")
    for target, value in shares[:STRONGEST]:
        line.append_text(Text("  ")).append_text(cell(value)).append(f" {target}")
    if len(shares) > STRONGEST:
        line.append(f"  and {len(shares) - STRONGEST} more, less", style="dim")
    return line


def share_of(module: Module, kind: str) -> dict[str, float]:
    """Target → the share of its variance that it loses when the module is held at its mean: pruned, or as trained."""
    measured = {target: found.get(kind) for target, found in (module.effects or {}).items()}
    return {target: float(value) for target, value in measured.items() if value is not None}


def cell(value: float | None) -> Text:
    """One number with its shade."""
    if value is None:
        return Text("")
    shade = SHADES[min(len(SHADES) - 1, max(0, round(min(1.0, abs(value)) * (len(SHADES) - 1))))]
    return Text(f"{shade * 4} {value:.2f}")


def number(value: float | None, *, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """A share to two digits, without the dust of its arithmetic: -2e-16 is 0."""
    return "" if value is None else number(round(value, 9) + 0.0, digits=2)


def brief(value: Any) -> str:
    """Any JSON value in a table's cell: of modules what they read and decide, of a long text its beginning."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "outputs" in each for each in value):
        return " | ".join(f"{', '.join(each['inputs'])} → {', '.join(each['outputs'])}" for each in value)
    text = number(value) if isinstance(value, float) else "" if value is None else str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _console() -> Console:
    return Console(highlight=False)
