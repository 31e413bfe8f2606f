"""The sentences about the runs of a job together: how far they agree, and what a shorter wiring costs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bimt_engine.analysis.statements.wording import MAX_NAMED, Document, counted, names_in, number, quoted


def stability_statement(document: Document) -> str:
    """How far the runs of a job agree, of a stored stability document or of one of its `cost_strengths`."""
    runs = document["runs"]
    if not runs:
        return "No run has ended yet, so there is nothing to compare."
    empty = document["empty"]
    nothing = f"{empty} of {runs} runs kept no connection, so they have no modules"
    if empty == runs:
        return f"{nothing}: nothing was found, and there is nothing to compare."
    ends = (_ends(group) for group in document["partition"])
    parts = " | ".join(_arrow(reads, decides) for reads, decides in ends if decides) or "no output is reached"
    said = f"{nothing}. " if empty else ""
    said += f"{document['agreement']} of {runs} runs divide inputs and outputs the same way ({parts})"
    if document["adjusted_rand"] is not None:
        among = " of those that kept something" if empty else ""
        said += (
            f"; mean adjusted Rand index{among} {document['adjusted_rand']:.2f}, mean variation of information "
            f"{document['variation_of_information']:.2f} nats"
        )
    came_back = "; ".join(_recurring_module(module, runs) for module in document["modules"][:MAX_NAMED])
    text = f"{said}. A module with exactly these inputs and outputs: {came_back}."
    if inside := document.get("interior"):
        text = f"{text} {_stable_inside(inside)}"
    return text


def _stable_inside(inside: Document) -> str:
    """How far runs agree on the supported groups inside their modules."""
    examined, groups = inside["examined"], inside["groups"]
    said = f"Inside, {inside['counted_in']} of {examined} runs have {counted(groups, 'supported group')}"
    if not groups:
        return f"{said}."
    roles = [role["representation"] or _arrow(role["reads"], role["moves"]) for role in inside["roles"]]
    shown = " | ".join(roles[:MAX_NAMED]) + (f" and {len(roles) - MAX_NAMED} more" if len(roles) > MAX_NAMED else "")
    return f"{said}, {inside['same_roles_in']} with the same roles ({shown})."


def strength_sentence(cost_strength: float | None, said: str, *, of: int) -> str:
    """What is said of the runs with one cost strength; which one it is, where there are several."""
    if of == 1:
        return said
    return f"At {'the λ of the spec' if cost_strength is None else f'λ {number(cost_strength)}'}: {said}"


def _recurring_module(module: Document, runs: int) -> str:
    """In how many runs there is a module with exactly its inputs and outputs, and in how many an overlapping one."""
    same, overlapping = module["same_ends_in"], max(module["met_in"] - module["same_ends_in"], 0)
    inputs, outputs = names_in(module, "inputs"), names_in(module, "outputs")
    text = f"{_arrow(inputs, outputs)} in {same} of {runs} runs"
    return f"{text}, overlapping modules in {overlapping} more" if overlapping else text


def _ends(group: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(inputs, outputs) of a group of the stored partition, whose members are `in NAME` and `out NAME`."""
    reads = tuple(name.removeprefix("in ") for name in group if name.startswith("in "))
    return reads, tuple(name.removeprefix("out ") for name in group if name.startswith("out "))


def _arrow(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    return f"{', '.join(map(quoted, inputs)) or 'nothing'} → {', '.join(map(quoted, outputs))}"


@dataclass(frozen=True)
class ParetoStatement:
    """What a sweep of cost strengths says.

    empty       sentence: how many runs kept nothing; None where all kept something. The stored field `reading`.
    suggested   sentence: the largest harmless cost strength, and what the next larger one costs; None where there is
                none. chosen: that strength.
    strengths   clause for each cost strength: its loss, wiring and connections over the seeds.
    knee        sentence: where the front bends; None where it does not. knee_run: the id of that run.
    """

    empty: str | None
    suggested: str | None
    strengths: tuple[str, ...]
    knee: str | None
    knee_run: str | None
    chosen: float | None = None


def pareto_statement(document: Document) -> ParetoStatement:
    """The statement of a stored sweep."""
    strength, knee = document.get("suggested_cost_strength"), document.get("knee")
    suggested = bend = None
    strengths = document.get("cost_strengths") or ()
    if strength is not None and len(strengths) != 1:
        suggested = _largest_harmless(strength, document)
    if knee:
        at = "" if knee.get("cost_strength") is None else f"λ {number(knee['cost_strength'])}, "
        bend = f"The knee is at {at}seed {knee.get('seed')}."
    said = tuple(map(_strength_statement, strengths))
    knee_run = None if not knee else str(knee.get("run"))
    return ParetoStatement(document.get("reading"), suggested, said, bend, knee_run, strength if suggested else None)


def _largest_harmless(strength: float, document: Document) -> str:
    """Which cost strength is the largest harmless one, by which numbers, and what the next larger one costs."""
    strengths = {row["cost_strength"]: row for row in document.get("cost_strengths") or ()}
    chosen, rows = strengths.get(strength), document.get("rows")
    said = f"λ {number(strength)} is the largest whose median loss"
    within = f"within {number(document.get('tolerance'))} of the targets’ variance above the best"
    if chosen is None:  # a document of an earlier version, which has no medians
        return f"{said} is still harmless ({within})."
    best = min(strengths.values(), key=lambda row: (row["loss"], row["cost_strength"]))
    said += f" on {rows} rows, {number(chosen['loss'])}, is still harmless ({within}"
    said += ")." if best is chosen else f", {number(best['loss'])} at λ {number(best['cost_strength'])})."
    higher = next((row for row in strengths.values() if row["cost_strength"] > strength), None)
    if higher is not None and higher["times_best"] is not None:
        said += f" At λ {number(higher['cost_strength'])} it is {number(higher['times_best'])} times the best."
    if rows == "validation" and chosen.get("test_loss") is not None:
        said += f" On test rows, which nothing was chosen by, it is {number(chosen['test_loss'])}."
    return said


def _strength_statement(row: Document) -> str:
    text = f"λ {number(row['cost_strength'])}: loss {number(row['loss'])}"
    if row["runs"] > 1:
        text += f" (median of {row['runs']} runs, {number(row['lowest_loss'])} to {number(row['highest_loss'])})"
    text += f", wiring {number(row['wiring'])}"
    if row["connections"] is not None:
        text += f", {number(row['connections'])} connections"
    return text + ("" if row["harmless"] else "; not harmless")


def empty_runs(empty: int, runs: int) -> str | None:
    """How many runs of a sweep kept no connection; None where all kept some."""
    if not empty:
        return None
    return f"{empty} of {runs} runs kept no connection: they answer a constant, and their loss is that of a constant."
