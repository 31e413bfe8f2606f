"""Formulas of a network as people write them, each with what it was held against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from api.web.charts import number
from api.web.words import listed

LONGEST_EXPRESSION = 4_000  # characters of an exact expression that a page shows


@dataclass(frozen=True)
class FormulaShown:
    """One output of the network, written down.

    text        the formula, None where none was found
    accepted    whether the network confirms it
    evidence    what it was held against, or why it was not accepted, in a sentence
    structure   what the output depends on, in sentences
    exact       the whole network as one expression, where it is short enough
    """

    output: str
    text: Markup | None
    accepted: bool
    evidence: str
    structure: list[str]
    exact: str | None


def formulas(readout: Mapping[str, Any]) -> list[FormulaShown]:
    """Every output of a readout."""
    return [_shown(output, readout.get("units")) for output in readout.get("outputs") or []]


UNITS = {
    "data": "Columns and target are in the units of the data.",
    "scores": "It is the score of this class, the larger the likelier, for columns in the units of the data.",
    # Runs that were read out when formulas were still in the network's own units.
    None: "It is in the units that the network was trained in: standardised ones, where its data were standardised.",
}


def _shown(output: Mapping[str, Any], units: str | None) -> FormulaShown:
    formula, symmetry = output.get("formula") or {}, output.get("symmetry") or {}
    accepted, text, exact = bool(formula.get("accepted")), formula.get("text"), output.get("expression")
    if exact is not None and len(exact) > LONGEST_EXPRESSION:
        exact = None
    said = _evidence(formula) if accepted else _why_not(formula)
    return FormulaShown(
        output=str(output.get("output", "")),
        text=mathematics(text) if text else None,
        accepted=accepted,
        evidence=" ".join([said, UNITS.get(units, UNITS[None])] if text else [said]),
        structure=_structure(symmetry),
        exact=exact,
    )


def _why_not(formula: Mapping[str, Any]) -> str:
    reason = formula.get("reason") or "no reason was kept"
    return f"{'Not accepted' if formula.get('predicted', True) else 'Nothing is read out'}: {reason}."


def _evidence(formula: Mapping[str, Any]) -> str:
    sentence = f"It meets the network to R² = {share(formula.get('r2'))} on held-out examples"
    if (of_targets := formula.get("r2_of_targets")) is not None:
        sentence += (
            f" and the data to {share(of_targets)}" if of_targets >= 0 else " and the data worse than a constant"
        )
    if formula.get("substitution_loss") is not None:
        sentence += (
            f"; with it in the output’s place the network loses {number(formula['substitution_loss'])}, "
            f"where {number(formula.get('loss_limit'))} is allowed"
        )
    return f"{sentence}."


def _structure(symmetry: Mapping[str, Any]) -> list[str]:
    told = []
    parts = symmetry.get("additive_parts") or []
    if len(parts) > 1:
        told.append(f"It adds up {len(parts)} parts that do not mix: {'; '.join(listed(part) for part in parts)}.")
    for through in symmetry.get("through") or []:
        if len(through.get("inputs") or []) > 1:
            told.append(f"It depends on {listed(through['inputs'])} only through {through.get('reading')}.")
    return told


def share(value: float | None) -> str:
    """A share such as R²: 0.99995 is not 1, so it gets as many digits as it takes to say so, up to nine.

    How far below zero R² is says nothing: a constant would be better.
    """
    if value is None:
        return "–"
    if value < 0:
        return "below 0, worse than a constant"
    digits = next((n for n in range(4, 9) if float(f"{value:.{n}f}") != 1.0 or value == 1.0), 9)
    shown = f"{value:.{digits}f}"
    return (shown.rstrip("0").rstrip(".") or "0").replace("-", "−")


_PARTS = re.compile(
    r"(?P<power>\*\*\((?P<inner>-?[\d./]+)\)|\*\*(?P<bare>-?\d+(?:\.\d+)?))|(?P<name>[A-Za-z]+)_?(?P<index>\d+)\b"
    r"|(?P<times>\s*\*\s*)|(?P<pi>\bpi\b)|(?P<root>\bsqrt\b)|(?P<minus>-)"
)


def mathematics(text: str) -> Markup:
    """`(x1 + x3)**3*sin(pi*x4)` with raised powers, lowered indices, a dot for times, π and √."""
    out, last = Markup(), 0
    for found in _PARTS.finditer(text):
        out += escape(text[last : found.start()]) + _part(found)
        last = found.end()
    return out + escape(text[last:])


def _part(found: re.Match[str]) -> Markup:
    if found["power"]:
        return Markup("<sup>{}</sup>").format((found["inner"] or found["bare"]).replace("-", "−"))
    if found["name"]:
        return Markup("{}<sub>{}</sub>").format(found["name"], found["index"])
    return Markup({"times": "·", "pi": "π", "root": "√", "minus": "−"}[str(found.lastgroup)])
