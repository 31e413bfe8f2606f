"""Formulas that people send, such as `(x1 + x3)**3`: read by a grammar of our own, never by `eval`.

The whole language: numbers, `x1` … `xn`, `pi`, `e`, `+ - * /`, `**` (also binds to the right), unary signs,
parentheses, and the functions of `FUNCTIONS`. Whatever the grammar does not name does not exist.

A formula becomes a list of steps for a stack of arrays, so that evaluating needs no recursion; reading recurses only
into parentheses, signs and powers, and that is bounded by `MAX_DEPTH`.

Shapes stand in docstrings here, not in signatures: the web process reads specs and has no jaxtyping.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bimt_engine.errors import DataError, FormulaError

MAX_LENGTH = 500  # characters; the longest formula of the paper has 30
MAX_DEPTH = 30  # parentheses, signs and powers inside one another; seven frames each, far below Python's 1 000
PLACES_TRIED = 32
MAX_EXPONENT = 64  # a constant exponent above this is a slip of the key: 2**64 already has 20 digits

CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e}

FUNCTIONS: dict[str, tuple[Callable[..., np.ndarray], int, int]] = {  # name: what it does, fewest and most arguments
    "abs": (np.abs, 1, 1),
    "acos": (np.arccos, 1, 1),
    "asin": (np.arcsin, 1, 1),
    "atan": (np.arctan, 1, 1),
    "cos": (np.cos, 1, 1),
    "cosh": (np.cosh, 1, 1),
    "exp": (np.exp, 1, 1),
    "log": (np.log, 1, 1),
    "max": (lambda *many: np.maximum.reduce(many), 2, 16),
    "min": (lambda *many: np.minimum.reduce(many), 2, 16),
    "sign": (np.sign, 1, 1),
    "sin": (np.sin, 1, 1),
    "sinh": (np.sinh, 1, 1),
    "sqrt": (np.sqrt, 1, 1),
    "tan": (np.tan, 1, 1),
    "tanh": (np.tanh, 1, 1),
}

_OPERATORS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
}

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>\*\*|[-+*/(),]))",
    re.ASCII,
)
_INPUT = re.compile(r"x([1-9][0-9]{0,3})", re.ASCII)


class BadFormula(FormulaError, ValueError):
    """A formula that cannot be read; also a ValueError, so that pydantic names the field it stood in."""


def check_formula(text: str, *, inputs: int) -> None:
    """Say nothing when the formula can be read and uses x1 … x`inputs` only; otherwise say what and where.

    Raises FormulaError (which is a ValueError too).
    """
    steps = _read(text, inputs)
    if not any(step.what == "input" for step in steps):
        raise BadFormula(f"The formula {_quoted(text)} uses no input; write it in terms of x1 … x{inputs}.")


def check_values(text: str, *, inputs: int, low: float, high: float) -> None:
    """Say nothing when the formula has finite values between `low` and `high`, as a few dozen places tell.

    Raises FormulaError (which is a ValueError too) where it has none: training would find out much later.
    """
    places = np.random.default_rng(0).uniform(low, high, size=(PLACES_TRIED, inputs))
    try:
        evaluate_formula(text, places)
    except DataError as error:
        raise BadFormula(str(error)) from None


def evaluate_formula(text: str, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of the formula for each row of inputs (examples, inputs), at float64: (examples,).

    Raises FormulaError when it cannot be read, DataError when a value is infinite or not a number.
    """
    inputs = np.asarray(inputs, dtype=np.float64)
    stack: list[np.ndarray] = []
    with np.errstate(all="ignore"):  # what comes out is checked below, with a sentence
        for step in _read(text, inputs.shape[1]):
            if step.what == "number":
                stack.append(np.full(len(inputs), step.value))
            elif step.what == "input":
                stack.append(inputs[:, int(step.value)])
            else:
                arguments = stack[-step.arguments :]
                del stack[-step.arguments :]
                stack.append(_apply(step, arguments))
    values = np.ascontiguousarray(stack.pop(), dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        at = ", ".join(f"x{i + 1} = {x:.4g}" for i, x in enumerate(inputs[wrong[0], :8]))
        raise DataError(
            f"The formula {_quoted(text)} has no finite value at {at} (and at {len(wrong) - 1} other examples of "
            f"{len(values)}); change the formula, or `low` and `high`, so that every value is finite.",
            where={"formula": text, "row": int(wrong[0]) + 1},
        )
    return values


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Token:
    kind: str  # "number" | "name" | "sign" | "unreadable" | "end"
    text: str
    at: int  # character, from 1


@dataclass(frozen=True)
class _Step:
    """One step on the stack: push a number or an input, or replace the last `arguments` arrays by one."""

    what: str  # "number" | "input" | "function" | "operator" | "minus"
    value: float = 0.0
    name: str = ""
    arguments: int = 0


def _apply(step: _Step, arguments: list[np.ndarray]) -> np.ndarray:
    if step.what == "minus":
        return np.asarray(np.negative(arguments[0]))
    if step.what == "operator":
        return np.asarray(_OPERATORS[step.name](*arguments))
    return np.asarray(FUNCTIONS[step.name][0](*arguments))


@lru_cache(maxsize=256)
def _read(text: str, inputs: int) -> tuple[_Step, ...]:
    if not isinstance(text, str):
        raise BadFormula(f"A formula must be text such as `x1 + x2`; this is of type {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        raise BadFormula(
            f"The formula {_quoted(text)} has {len(text)} characters; at most {MAX_LENGTH} are read. "
            "Shorten it, or upload the values as a table."
        )
    return _Reader(text, inputs).steps()


class _Reader:
    """Precedence climbing over the tokens of one formula; emits the steps in the order they are done."""

    def __init__(self, text: str, inputs: int) -> None:
        self._text = text
        self._inputs = inputs
        self._tokens = self._split()
        self._next = 0
        self._depth = 0
        self._steps: list[_Step] = []
        self._known: list[float | None] = []  # the stack, as far as it does not depend on the inputs

    def steps(self) -> tuple[_Step, ...]:
        self._sum()
        token = self._tokens[self._next]
        if token.kind != "end":
            raise self._wrong(token, "an operator or the end of the formula")
        return tuple(self._steps)

    # tokens

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        text = self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:  # told when the grammar gets here, so that an earlier mistake is named first
                at += len(text[at:]) - len(text[at:].lstrip())
                tokens.append(_Token("unreadable", text[at], at + 1))
                break
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match.group(kind), match.start(kind) + 1))
            at = match.end()
        return [*tokens, _Token("end", "", len(text) + 1)]

    def _unreadable(self, token: _Token) -> BadFormula:
        character = token.text
        hints = {
            "^": " Write powers as `**`.",
            "=": " A formula is the right-hand side only and compares nothing.",
            "<": " A formula compares nothing; `max` and `min` are at hand.",
            ">": " A formula compares nothing; `max` and `min` are at hand.",
            "[": " Inputs are written x1, x2, …",
            "'": " Text has no place in a formula.",
            '"': " Text has no place in a formula.",
            ".": " Nothing has attributes in a formula, and a number has one point at most.",
            "×": " Write products as `*`.",
            "·": " Write products as `*`.",
            "−": " Write minus as `-`.",
        }
        hint = " Write products with `*`." if character.isdigit() else hints.get(character, "")
        return BadFormula(
            f"The formula {_quoted(self._text)} cannot be read at character {token.at}, {character!r}.{hint}"
        )

    def _wrong(self, token: _Token, expected: str) -> BadFormula:
        if token.kind == "unreadable":
            return self._unreadable(token)
        found = "the formula ends" if token.kind == "end" else f"`{_short(token.text)}` stands"
        return BadFormula(
            f"The formula {_quoted(self._text)} cannot be read at character {token.at}: "
            f"{found} where {expected} should be."
        )

    def _take(self, *signs: str) -> str | None:
        token = self._tokens[self._next]
        if token.kind == "sign" and token.text in signs:
            self._next += 1
            return token.text
        return None

    def _need(self, sign: str, expected: str) -> None:
        if self._take(sign) is None:
            raise self._wrong(self._tokens[self._next], expected)

    # grammar

    def _sum(self) -> None:
        self._product()
        while sign := self._take("+", "-"):
            self._product()
            self._emit(_Step("operator", name=sign, arguments=2))

    def _product(self) -> None:
        self._signed()
        while sign := self._take("*", "/"):
            self._signed()
            self._emit(_Step("operator", name=sign, arguments=2))

    def _signed(self) -> None:
        self._deeper()
        sign = self._take("+", "-")
        if sign is None:
            self._power()
        else:
            self._signed()
            if sign == "-":
                self._emit(_Step("minus", arguments=1))
        self._depth -= 1

    def _power(self) -> None:
        self._atom()
        if self._take("**"):
            token = self._tokens[self._next]
            self._signed()
            exponent = self._known[-1]
            if exponent is not None and not abs(exponent) <= MAX_EXPONENT:
                raise BadFormula(
                    f"The formula {_quoted(self._text)} has the exponent {exponent:g} at character {token.at}; "
                    f"at most {MAX_EXPONENT} is allowed."
                )
            self._emit(_Step("operator", name="**", arguments=2))

    def _atom(self) -> None:
        token = self._tokens[self._next]
        self._next += 1
        if token.kind == "number":
            self._emit(_Step("number", value=float(token.text)), at=token.at)
        elif token.kind == "name":
            self._named(token)
        elif token.text == "(":
            self._sum()
            self._need(")", "`)`")
        else:
            raise self._wrong(token, "a number, an input, a function or `(`")

    def _named(self, token: _Token) -> None:
        name = token.text
        match = _INPUT.fullmatch(name)
        if match and int(match[1]) <= self._inputs:
            self._emit(_Step("input", value=float(int(match[1]) - 1)))
        elif match:
            raise BadFormula(
                f"The formula {_quoted(self._text)} reads `{name}` at character {token.at}, but there are "
                f"{self._inputs} inputs: x1 … x{self._inputs}. Correct the name or raise `inputs`."
            )
        elif name in CONSTANTS:
            self._emit(_Step("number", value=CONSTANTS[name]))
        elif name in FUNCTIONS:
            self._called(token)
        else:
            raise BadFormula(
                f"The formula {_quoted(self._text)} uses the name `{_short(name)}` at character {token.at}, which is "
                f"not allowed. Formulas know x1 … x{self._inputs}, {', '.join(CONSTANTS)} and the functions "
                f"{', '.join(FUNCTIONS)}."
            )

    def _called(self, token: _Token) -> None:
        _, fewest, most = FUNCTIONS[token.text]
        self._need("(", f"`(` after `{token.text}`")
        count = 1
        self._sum()
        while self._take(","):
            self._sum()
            count += 1
        self._need(")", "`)`")
        if not fewest <= count <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise BadFormula(
                f"The formula {_quoted(self._text)} gives `{token.text}` at character {token.at} {count} "
                f"argument{'s' if count != 1 else ''}; it takes {wanted}."
            )
        self._emit(_Step("function", name=token.text, arguments=count))

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            at = self._tokens[self._next].at
            raise BadFormula(
                f"The formula {_quoted(self._text)} is nested more than {MAX_DEPTH} deep at character {at}; "
                "simplify it."
            )

    # what is known without the inputs

    def _emit(self, step: _Step, at: int | None = None) -> None:
        self._steps.append(step)
        if step.what == "input":
            self._known.append(None)
            return
        if step.what == "number":
            value: float | None = step.value
        else:
            arguments = self._known[-step.arguments :]
            del self._known[-step.arguments :]
            value = None
            if None not in arguments:
                with np.errstate(all="ignore"):
                    value = float(_apply(step, [np.asarray(a, dtype=np.float64) for a in arguments]))
        if value is not None and not math.isfinite(value):
            where = self._tokens[self._next].at if at is None else at
            raise BadFormula(
                f"The formula {_quoted(self._text)} contains a constant that is not a finite number, "
                f"before character {where + (at is not None)}."
            )
        self._known.append(value)


def _quoted(text: str) -> str:
    return f"`{_short(text, 60)}`"


def _short(text: str, most: int = 30) -> str:
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return shown if len(text) <= most else shown[:most] + "…"
