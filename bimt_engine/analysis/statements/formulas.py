"""The sentences about formulas: what an output depends on, and what its formula was compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bimt_engine.analysis.statements.wording import Document, listed, number, quoted, sentence, share

NAMED = 1e-3  # of an output's variance: additive parts that carry less are not named

FORMULA_UNITS = {
    "data": "Columns and target are in the units of the data.",
    "scores": "It is the score of this class, the larger the likelier, for columns in the units of the data.",
    # Runs that were read out when formulas were still in the network's own units.
    None: "It is in the units that the network was trained in: standardised ones, where its data were standardised.",
}

PLAIN = re.compile(r"[^\W\d]\w*(\[[^\[\]“”]*\])?")

RESERVED = frozenset((
    "pi", "e", "E", "I", "oo", "zoo", "nan", "abs", "Abs", "sign", "sqrt", "exp", "log", "ln", "min", "max", "Min",
    "Max", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "floor", "ceiling", "Piecewise",
    "Heaviside", "True", "False",
))  # fmt: skip
"""What sympy calls functions and numbers: no column may be written so in a formula."""


@dataclass(frozen=True)
class FormulaVerdict:
    """One thing that a formula was compared with, in a few words, and whether it agrees."""

    text: str
    good: bool


@dataclass(frozen=True)
class FormulaStatement:
    """What is said of the formula of one output.

    formula     as text, in Python's notation; None where none was found.
    verdicts    of the network and of the data; in documents without them, whether it was accepted.
    evidence    sentences: what it was compared with, or why there is none, and its units.
    structure   sentences: what the output depends on.
    """

    output: str
    formula: str | None
    verdicts: tuple[FormulaVerdict, ...]
    evidence: tuple[str, ...]
    structure: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """All verdicts in one clause."""
        return listed([verdict.text for verdict in self.verdicts])


def formula_statements(readout: Document) -> list[FormulaStatement]:
    """One statement for each output of a stored readout."""
    return [formula_statement(output, readout.get("units")) for output in readout.get("outputs") or ()]


def formula_statement(output: Document, units: str | None) -> FormulaStatement:
    """The statement of one output of a stored readout; `units` is the field of that name beside it."""
    formula, symmetry = output.get("formula") or {}, output.get("symmetry") or {}
    text = formula.get("text")
    if text is None or formula.get("r2") is None:
        said = [_formula_refused(formula)]
    elif "meets_network" in formula:
        said = [_beside_the_network(formula), *_beside_the_data(formula)]
    else:
        said = [_formula_evidence(formula) if formula.get("accepted") else _formula_refused(formula)]
    if formula.get("search_skipped"):
        said.append(sentence(formula["search_skipped"]))
    if text is not None:
        said.append(FORMULA_UNITS.get(units, FORMULA_UNITS[None]))
    return FormulaStatement(
        output=str(output.get("output", "")),
        formula=text,
        verdicts=formula_verdicts(formula),
        evidence=tuple(said),
        structure=structure_sentences(symmetry, formula),
    )


def formula_verdicts(formula: Document) -> tuple[FormulaVerdict, ...]:
    """The verdicts of a stored formula; of one that was stored before there were two, whether it was accepted."""
    if formula.get("text") is None:
        return (FormulaVerdict("no formula", False),)
    if "meets_network" not in formula:
        accepted = bool(formula.get("accepted"))
        return (FormulaVerdict("accepted" if accepted else "not accepted", accepted),)
    meets = bool(formula["meets_network"])
    verdicts = [FormulaVerdict("meets the network" if meets else "does not meet the network", meets)]
    if formula.get("better_than_network"):
        verdicts.append(FormulaVerdict("fits the data better than the network", True))
    elif (data := formula.get("meets_data")) is not None:
        verdicts.append(FormulaVerdict("meets the data" if data else "does not meet the data", bool(data)))
    return tuple(verdicts)


def structure_sentences(symmetry: Document, formula: Document | None = None) -> tuple[str, ...]:
    """What an output depends on, from the `symmetry` of a readout; empty where there is no structure to describe.

    Parts that carry less than NAMED of the variance are not named, nor those that an accepted formula leaves out: what
    the network makes of these is said in a sentence of its own. Parts are of columns; formulas and sums read inputs,
    of which a column may have several, such as `port[C]`: these are named by their columns.
    """
    formula = formula or {}
    parts = symmetry.get("additive_parts") or []
    columns = frozenset(name for part in (symmetry.get("reads") or [], *parts) for name in part)
    shares = symmetry.get("part_shares") or [None] * len(parts)
    named = [(part, share) for part, share in zip(parts, shares, strict=True) if share is None or share >= NAMED]
    used = _columns_read(formula, columns) if formula.get("accepted") and "inputs" in formula else None
    apart = [part for part, _ in named if used is None or set(part) & used]
    beside = [(part, share) for part, share in named if part not in apart]
    said = []
    if len(apart) > 1:
        said.append(f"It adds up {len(apart)} parts that do not mix: {'; '.join(listed(part) for part in apart)}.")
    for through in symmetry.get("through") or []:
        inputs, of = through.get("inputs") or [], _columns_read(through, columns)
        if len(of) > 1 and any(of <= set(part) for part in apart or parts):  # a category is always read through a sum
            said.append(f"It depends on {listed(inputs)} only through {through.get('reading')}.")
    if beside:
        names = listed([name for part, _ in beside for name in part])
        carried = sum(share or 0.0 for _, share in beside)
        said.append(f"The network reads {names} as well ({carried:.2g} of its variance); the formula does not.")
    return tuple(said)


def _columns_read(document: Document, columns: frozenset[str]) -> set[str]:
    """The columns that the inputs of a stored formula or sum belong to.

    Documents without `columns` name the inputs alone: `port[C]` belongs to the longest of these columns that it begins
    with, and an input that is named like a column to that one.
    """
    if (stored := document.get("columns")) is not None:
        return set(stored)
    found = set()
    for name in document.get("inputs") or ():
        ends = [at for at, letter in enumerate(name) if letter == "["] if name not in columns else []
        found.add(next((name[:at] for at in reversed(ends) if name[:at] in columns), name))
    return found


def readout_statement(document: Document, classes: bool) -> str:
    """Which formulas were accepted, from the outputs of a readout: the stored field `reading`.

    classes   whether the outputs are scores of classes.
    """
    met: list[str] = []
    better: list[str] = []
    for output in document["outputs"]:
        formula = output["formula"]
        if formula["accepted"]:
            (met if formula.get("meets_network", True) else better).append(
                f"{quoted(output['output'])} = {formula['text']}"
            )
    if not met and not better:
        return "No formula was accepted: none meets the network closely enough to stand in for it."
    units = f", {'scores of classes for columns' if classes else 'all'} in units of the data"
    said = [f"Accepted{units}: {'; '.join(met)}."] if met else []
    if better:
        said.append(f"Not the network, but a better fit to the data{'' if met else units}: {'; '.join(better)}.")
    return " ".join(said)


def in_formula(name: Any) -> str:
    """A name as it stands in a formula: in quotes where it could be read as more than one thing, such as “a+b”, “log”.

    Words, digits and underscores stand as they are, and so does what follows them in square brackets.
    """
    text = str(name)
    if PLAIN.fullmatch(text) and text not in RESERVED:
        return text
    return "“" + text.replace("”", "\\”") + "”"


def combination(names: Sequence[str], coefficients: Sequence[float]) -> str:
    """A weighted sum as text: x1 - x2, or 0.5·x1 + x3."""
    text = ""
    for name, coefficient in zip(names, coefficients, strict=True):
        size = "" if abs(coefficient) == 1 else f"{abs(coefficient):.4g}·"
        sign = " - " if coefficient < 0 else " + "
        text += f"{sign if text else sign.strip().replace('+', '')}{size}{in_formula(name)}"
    return text


def _formula_refused(formula: Document) -> str:
    reason = formula.get("reason") or "no reason was kept"
    return f"{'Not accepted' if formula.get('predicted', True) else 'Nothing is read out'}: {reason}."


def _beside_the_network(formula: Document) -> str:
    """How far the network and the formula agree."""
    tested = formula.get("test") or {}
    on_test = "" if tested.get("r2") is None else f", {share(tested['r2'])} on test rows"
    if not formula["meets_network"]:
        return sentence(f"{formula.get('reason') or 'it does not meet the network'}{on_test}")
    said = f"It meets the network to R² = {share(formula['r2'])} on validation rows{on_test}"
    return (
        f"{said}; with it in the output’s place the network loses {number(formula['substitution_loss'])}, "
        f"where {number(formula['loss_limit'])} is allowed."
    )


def _beside_the_data(formula: Document) -> list[str]:
    """How far the data and the formula agree, beside the network; nothing for classes."""
    if formula.get("meets_data") is None:
        return []
    how = "meets the data as the network does" if formula["meets_data"] else "is off the data by more than the network"
    if formula.get("better_than_network"):
        how = "fits the data better than the network"
    said = f"It {how}: R² = {share(formula.get('r2_of_targets'))}"
    said += f", that of the network {share(formula.get('network_r2_of_targets'))}"
    if tested := formula.get("test"):
        said += f"; on test rows {share(tested['r2_of_targets'])} and {share(tested['network_r2_of_targets'])}"
    return [f"{said}."]


def _formula_evidence(formula: Document) -> str:
    """The evidence in documents of one verdict."""
    said = f"It meets the network to R² = {share(formula.get('r2'))} on held-out examples"
    if (of_targets := formula.get("r2_of_targets")) is not None:
        said += f" and the data to {share(of_targets)}" if of_targets >= 0 else " and the data worse than a constant"
    if formula.get("substitution_loss") is not None:
        said += (
            f"; with it in the output’s place the network loses {number(formula['substitution_loss'])}, "
            f"where {number(formula.get('loss_limit'))} is allowed"
        )
    return f"{said}."
