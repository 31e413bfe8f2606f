"""Formulas that users send, such as `(x1 + x3)**3`: parsed by Python's `ast`, evaluated node by node, never by `eval`.

The whole language: numbers, `x1` … `xn`, `pi`, `e`, `+ - * /`, `**` (also binds to the right), unary signs,
parentheses, and the functions of `FUNCTIONS`. One pass over the tokens refuses everything else, naming the place,
before Python's parser sees the text, and bounds how deep it nests.

Shapes stand in docstrings here, not in signatures: the web process reads specs and has no jaxtyping.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bimt_engine.errors import DataError, FormulaError

MAX_LENGTH = 500  # characters; the longest formula of the paper has 30
MAX_DEPTH = 30  # parentheses, signs and powers inside one another
PLACES_TRIED = 32  # random inputs at which a formula must be finite
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

_OPERATORS: dict[type[ast.operator], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>\*\*|[-+*/(),]))",
    re.ASCII,
)
_INPUT = re.compile(r"x([1-9][0-9]{0,3})", re.ASCII)
_HINTS = {
    "^": " Write powers as `**`.",
    "=": " A formula is the right-hand side only and compares nothing.",
    "<": " A formula compares nothing; `max` and `min` are available.",
    ">": " A formula compares nothing; `max` and `min` are available.",
    "[": " Inputs are written x1, x2, …",
    "'": " Text has no place in a formula.",
    '"': " Text has no place in a formula.",
    ".": " Nothing has attributes in a formula, and a number has one point at most.",
    "×": " Write products as `*`.",
    "·": " Write products as `*`.",
    "−": " Write minus as `-`.",
}


class BadFormula(FormulaError, ValueError):
    """A formula that cannot be read; also a ValueError, so that pydantic names the field it stood in."""


def check_formula(text: str, *, inputs: int) -> None:
    """Return when the formula can be read and uses x1 … x`inputs` only; the error says what is wrong, and where.

    Raises FormulaError (which is a ValueError too).
    """
    if not any(isinstance(node, ast.Name) and _INPUT.fullmatch(node.id) for node in ast.walk(_read(text, inputs).tree)):
        raise BadFormula(f"The formula {_quoted(text)} uses no input; write it in terms of x1 … x{inputs}.")


def check_values(text: str, *, inputs: int, low: float, high: float) -> None:
    """Return when the formula has finite values between `low` and `high`, as PLACES_TRIED random places show.

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
    formula = _read(text, inputs.shape[1])
    with np.errstate(all="ignore"):  # the result is checked below, with a sentence
        values = np.ascontiguousarray(formula.value(inputs), dtype=np.float64)
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
class _Formula:
    """A formula that has been parsed. Columns of the tree are characters of the text, counted from 1."""

    text: str
    tree: ast.expr
    numbers: dict[int, float]  # by column

    def value(self, inputs: NDArray[np.float64] | None) -> np.ndarray | None:
        """The values for rows of inputs; without inputs the constant that the formula is, or None, after a check.

        Raises FormulaError, without inputs, for a constant that is not finite, too large an exponent or a wrong number
        of arguments.
        """
        return self._value(self.tree, inputs)

    def _value(self, node: ast.expr, inputs: NDArray[np.float64] | None) -> np.ndarray | None:
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow):
            chain = []  # a long sum is nested as deep to the left: a loop, so that it needs no deep recursion
            left: ast.expr = node
            while isinstance(left, ast.BinOp) and not isinstance(left.op, ast.Pow):
                chain.append(left)
                left = left.left
            total = self._value(left, inputs)
            for step in reversed(chain):
                total = self._apply(_OPERATORS[type(step.op)], [total, self._value(step.right, inputs)], step, inputs)
            return total
        if isinstance(node, ast.BinOp):
            base, exponent = self._value(node.left, inputs), self._value(node.right, inputs)
            if inputs is None and exponent is not None and not abs(float(exponent)) <= MAX_EXPONENT:
                assert node.left.end_col_offset is not None
                at = self._next_token(self.text.index("**", node.left.end_col_offset - 1) + 3)
                raise BadFormula(
                    f"The formula {_quoted(self.text)} has the exponent {float(exponent):g} at character {at}; "
                    f"at most {MAX_EXPONENT} is allowed."
                )
            return self._apply(np.power, [base, exponent], node, inputs)
        if isinstance(node, ast.UnaryOp):
            operand = self._value(node.operand, inputs)
            return operand if isinstance(node.op, ast.UAdd) else self._apply(np.negative, [operand], node, inputs)
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            return self._call(node.func.id, node, inputs)
        if isinstance(node, ast.Name) and (match := _INPUT.fullmatch(node.id)):
            return None if inputs is None else inputs[:, int(match[1]) - 1]
        if isinstance(node, ast.Name):
            constant = CONSTANTS[node.id]
        else:
            constant = self.numbers[node.col_offset]
            if not math.isfinite(constant):
                raise self._not_finite(node.col_offset + 1)
        return np.full(() if inputs is None else len(inputs), constant)

    def _call(self, name: str, node: ast.Call, inputs: NDArray[np.float64] | None) -> np.ndarray | None:
        function, fewest, most = FUNCTIONS[name]
        arguments = [self._value(argument, inputs) for argument in node.args]
        count = len(arguments)
        if not fewest <= count <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise BadFormula(
                f"The formula {_quoted(self.text)} gives `{name}` at character {node.col_offset} {count} "
                f"argument{'s' if count != 1 else ''}; it takes {wanted}."
            )
        return self._apply(function, arguments, node, inputs)

    def _apply(
        self,
        function: Callable[..., np.ndarray],
        arguments: list[np.ndarray | None],
        node: ast.expr,
        inputs: NDArray[np.float64] | None,
    ) -> np.ndarray | None:
        if any(argument is None for argument in arguments):
            return None
        value = np.asarray(function(*arguments))
        if inputs is None and not np.isfinite(value).all():
            assert node.end_col_offset is not None
            raise self._not_finite(self._next_token(node.end_col_offset))
        return value

    def _not_finite(self, before: int) -> BadFormula:
        return BadFormula(
            f"The formula {_quoted(self.text)} contains a constant that is not a finite number, "
            f"before character {before}."
        )

    def _next_token(self, at: int) -> int:
        """The first character at or after this one that is no blank."""
        rest = self.text[at - 1 :].rstrip()
        return at + len(rest) - len(rest.lstrip())


@lru_cache(maxsize=256)
def _read(text: str, inputs: int) -> _Formula:
    if not isinstance(text, str):
        raise BadFormula(f"A formula must be text such as `x1 + x2`; this is of type {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        raise BadFormula(
            f"The formula {_quoted(text)} has {len(text)} characters; at most {MAX_LENGTH} are read. "
            "Shorten it, or upload the values as a table."
        )
    numbers = _check_tokens(text, inputs)
    source = list(re.sub(r"\s", " ", text))
    for at, (length, _) in numbers.items():  # `007` and 400 digits are numbers here, but no literals of Python
        source[at - 1 : at - 1 + length] = "1".ljust(length)
    try:
        tree = ast.parse(f"({''.join(source)})", mode="eval").body  # the parenthesis makes columns count from 1
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadFormula(f"The formula {_quoted(text)} cannot be read; simplify it.") from None
    formula = _Formula(text, tree, {at: value for at, (_, value) in numbers.items()})
    with np.errstate(all="ignore"):
        formula.value(None)
    return formula


def _check_tokens(text: str, inputs: int) -> dict[int, tuple[int, float]]:
    """The numbers of a formula: character -> (length, value). Raises BadFormula for what is not in the language."""
    numbers: dict[int, tuple[int, float]] = {}
    levels = [1]  # for each open parenthesis 1, and 1 for each sign and power that the next operand is inside of
    calls = [False]  # whether it belongs to a function
    operand, function = True, ""  # an operand is due; the name of a function whose `(` is due
    end = len(text.rstrip())
    at = 0
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at + len(text[at:]) - len(text[at:].lstrip()))
        kind = str(match.lastgroup)
        token, place = match[kind], match.start(kind) + 1
        at = match.end()
        if function and token != "(":
            raise _unexpected(text, token, place, f"`(` after `{function}`")
        if operand and sum(levels) > MAX_DEPTH:
            raise BadFormula(
                f"The formula {_quoted(text)} is nested more than {MAX_DEPTH} deep at character {place}; simplify it."
            )
        if operand and token in ("+", "-"):
            levels[-1] += 1
        elif operand and token == "(":
            levels.append(1)
            calls.append(bool(function))
            function = ""
        elif operand and kind == "number":
            numbers[place] = (len(token), float(token))
            operand = False
        elif operand and kind == "name":
            _check_name(text, token, place, inputs)
            function = token if token in FUNCTIONS else ""
            operand = bool(function)
        elif operand:
            raise _unexpected(text, token, place, "a number, an input, a function or `(`")
        elif token == ")" and len(levels) > 1:
            levels.pop()
            calls.pop()
        elif token in ("+", "-", "*", "/") or (token == "," and calls[-1]):
            levels[-1], operand = 1, True
        elif token == "**":
            levels[-1], operand = levels[-1] + 1, True
        else:
            raise _unexpected(text, token, place, "`)`" if len(levels) > 1 else "an operator or the end of the formula")
    if function or operand or len(levels) > 1:
        due = f"`(` after `{function}`" if function else "a number, an input, a function or `(`" if operand else "`)`"
        raise _unexpected(text, "", end + 1, due)
    return numbers


def _check_name(text: str, name: str, at: int, inputs: int) -> None:
    match = _INPUT.fullmatch(name)
    if match and int(match[1]) > inputs:
        raise BadFormula(
            f"The formula {_quoted(text)} reads `{name}` at character {at}, but there are "
            f"{inputs} inputs: x1 … x{inputs}. Correct the name or raise `inputs`."
        )
    if not match and name not in CONSTANTS and name not in FUNCTIONS:
        raise BadFormula(
            f"The formula {_quoted(text)} uses the name `{_short(name)}` at character {at}, which is "
            f"not allowed. Formulas know x1 … x{inputs}, {', '.join(CONSTANTS)} and the functions "
            f"{', '.join(FUNCTIONS)}."
        )


def _unexpected(text: str, token: str, at: int, expected: str) -> BadFormula:
    found = f"`{_short(token)}` stands" if token else "the formula ends"
    return BadFormula(
        f"The formula {_quoted(text)} cannot be read at character {at}: {found} where {expected} should be."
    )


def _unreadable(text: str, index: int) -> BadFormula:
    character = text[index]
    hint = " Write products with `*`." if character.isdigit() else _HINTS.get(character, "")
    return BadFormula(f"The formula {_quoted(text)} cannot be read at character {index + 1}, {character!r}.{hint}")


def _quoted(text: str) -> str:
    return f"`{_short(text, 60)}`"


def _short(text: str, most: int = 30) -> str:
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return shown if len(text) <= most else shown[:most] + "…"
