"""Finite groups by name or by Cayley table, and the task of multiplying in them. (arXiv 2305.08746, section 3.3)"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.data.kinds import Drawn, dataset_kind
from bimt_engine.data.readers import opened
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError

MAX_ORDER = 512  # elements: 262 144 pairs; checking that a table is associative takes the cube
MAX_JSON_BYTES = 16 << 20  # 512² entries of a name each
MAX_DEGREE = 5  # of a symmetric group: S5 has 120 elements, S6 720

NAME = r"(Z|S|D)[1-9][0-9]{0,2}|Q8"
PATTERN = rf"^({NAME})(x({NAME})){{0,8}}$|^table$"  # a product of nine groups of two elements has 512

Table = NDArray[np.int64]


class NoGroup(DataError, ValueError):
    """What was named or sent is no group that we take; also a ValueError, so that pydantic names the field."""


class GroupData(Drawn):
    """All pairs of a finite group with their product: Z_n, S_n, D_n (of order 2n), Q8, or a Cayley table.

    Groups joined by x, such as S3xZ5, are their direct product.
    """

    examples: ClassVar[Examples] = "tokens"  # two elements
    has_classes: ClassVar[bool] = True  # which element their product is
    kind: Literal["group"] = "group"
    group: str = Field(
        default="S4", pattern=PATTERN, description="Z7, S4, D5, Q8, products such as Z6xZ6 and S3xZ5, or `table`."
    )
    cayley_table: list[list[int]] | None = Field(default=None, description="With group `table`: row · column.")
    train_fraction: float = Field(default=0.8, gt=0, lt=1)

    @model_validator(mode="after")
    def _is_a_group(self) -> GroupData:
        check_group(self.group, self.cayley_table)
        return self


@dataset_kind(GroupData, label="Products in a finite group")
def group(spec: GroupData, *, seed: int) -> Dataset:
    """All pairs of a group with their product. (section 3.3)"""
    check_group(spec.group, spec.cayley_table)
    if spec.cayley_table is not None:
        table = check_group_table(spec.cayley_table)
        names = tuple(map(str, range(len(table))))
    else:
        names, table = multiplication(spec.group)
    return group_dataset(names, table, train_fraction=spec.train_fraction, seed=seed)


class ModularAdditionData(Drawn):
    """All pairs (a, b) with the label (a + b) mod p."""

    examples: ClassVar[Examples] = "tokens"  # two elements
    has_classes: ClassVar[bool] = True  # which element their product is
    kind: Literal["modular_addition"] = "modular_addition"
    modulus: int = Field(default=59, ge=2, le=512)
    train_fraction: float = Field(default=0.8, gt=0, lt=1)


@dataset_kind(ModularAdditionData, label="Modular addition")
def modular_addition(spec: ModularAdditionData, *, seed: int) -> Dataset:
    """All pairs (a, b) with a + b modulo p. (section 3.3)"""
    names, table = multiplication(f"Z{spec.modulus}")
    return group_dataset(names, table, train_fraction=spec.train_fraction, seed=seed)


def multiplication(group: str) -> tuple[tuple[str, ...], Table]:
    """The names of the elements, the identity first, and table[a, b] = index of a · b.

    Z7, S4 (permutations in one-line notation; a · b does b first), D5 (order 10; r turns, s mirrors), Q8, and products
    such as S3xZ5, whose elements (a,b) are counted b first.
    Raises DataError for what is no group that we know, or too large a one.
    """
    check_group_name(group)
    factors = [_factor(name) for name in group.split("x")]
    if len(factors) == 1:
        return factors[0]
    table = np.zeros((1, 1), np.int64)
    for _, factor in factors:
        before, new = len(table), len(factor)
        paired = table[:, None, :, None] * new + factor[None, :, None, :]
        table = paired.reshape(before * new, before * new)
    names = itertools.product(*(names for names, _ in factors))
    return tuple(f"({','.join(parts)})" for parts in names), table


def check_group(group: str, table: list[list[int]] | None) -> None:
    """Return when the name, or `table` with a table, is a group that is offered. Raises NoGroup."""
    if group != "table":
        if table is not None:
            raise NoGroup(f"A `cayley_table` goes with the group `table`, not with {group!r}; leave one of them out.")
        check_group_name(group)
    elif table is None:
        raise NoGroup("The group `table` needs a `cayley_table`: for each row its products with all columns.")
    else:
        check_group_table(table)


def check_group_name(group: str) -> None:
    """Return when the group, or the product of groups, is offered. Raises NoGroup."""
    orders = [_named_order(name) for name in group.split("x")]
    if (order := math.prod(orders)) > MAX_ORDER:
        raise NoGroup(f"{group} is too large: it has {order} elements, and at most {MAX_ORDER} are offered.")


def _named_order(name: str) -> int:
    """How many elements a group has. Raises NoGroup where it is not offered."""
    if re.fullmatch(NAME, name) is None:
        raise NoGroup(
            f"There is no group {name[:30]!r} here; name Z7, S4, D5 (for any number), Q8, a product such as S3xZ5, "
            "or send a table."
        )
    if name == "Q8":
        return 8
    kind, n = name[0], int(name[1:])
    order = {"Z": n, "S": math.factorial(min(n, 20)), "D": 2 * n}[kind]
    if order > (math.factorial(MAX_DEGREE) if kind == "S" else MAX_ORDER):
        most = {"Z": f"Z{MAX_ORDER}", "S": f"S{MAX_DEGREE}", "D": f"D{MAX_ORDER // 2}"}[kind]
        raise NoGroup(f"{name} is too large: {most} is the largest of its kind that is offered.")
    return order


def check_group_table(table: list[list[int]] | NDArray[Any], names: tuple[str, ...] | None = None) -> Table:
    """The table as an array when it is that of a group: square, Latin, associative.

    names   how elements are called in sentences; None: by number.
    Raises DataError that names the first entry that is wrong.
    """
    size = len(table)
    if not 1 <= size <= MAX_ORDER:
        raise NoGroup(f"A Cayley table has 1 to {MAX_ORDER} rows; this has {size}.")
    for row, entries in enumerate(table):
        if len(entries) != size:
            raise NoGroup(
                f"A Cayley table is square: it has {size} rows, but row {row + 1} has {len(entries)} entries.",
                where={"row": row + 1},
            )
    array = np.asarray(table)
    names = names or tuple(map(str, range(size)))
    outside = np.argwhere((array < 0) | (array >= size))
    if len(outside):
        row, column = map(int, outside[0])
        raise NoGroup(
            f"Row {row + 1}, column {column + 1} holds {array[row, column]}; elements are numbered 0 to {size - 1}.",
            where={"row": row + 1, "column": column + 1},
        )
    array = array.astype(np.int64)
    _check_latin(array, names)
    _check_associative(array, names)
    return array


def _check_latin(array: Table, names: tuple[str, ...]) -> None:
    for axis, line in ((0, "row"), (1, "column")):
        for i, entries in enumerate(array if axis == 0 else array.T):
            first: dict[int, int] = {}
            for j, entry in enumerate(entries.tolist()):
                if entry in first:
                    row, column = (i, j) if axis == 0 else (j, i)
                    raise NoGroup(
                        f"In a group every element stands once in each row and column, but {names[entry]} stands twice "
                        f"in {line} {i + 1}: at positions {first[entry] + 1} and {j + 1}. Correct the table.",
                        where={"row": row + 1, "column": column + 1},
                    )
                first[entry] = j


def _check_associative(array: Table, names: tuple[str, ...]) -> None:
    """Light's test: (a·x)·b = a·(x·b) need hold only for x of a generating set, and few elements generate a group."""
    for x in generators(array):
        left = array[array[:, x]]  # [a, b]: (a·x)·b
        right = array[:, array[x]]  # [a, b]: a·(x·b)
        wrong = np.argwhere(left != right)
        if len(wrong):
            a, b = map(int, wrong[0])
            raise NoGroup(
                f"The table is not associative: ({names[a]}·{names[x]})·{names[b]} is {names[left[a, b]]}, but "
                f"{names[a]}·({names[x]}·{names[b]}) is {names[right[a, b]]}. Correct one of the entries "
                f"(row {a + 1}, column {x + 1}) and (row {x + 1}, column {b + 1}), or those that they lead to.",
                where={"row": a + 1, "column": x + 1},
            )


def generators(array: Table) -> list[int]:
    """Elements whose products, and the products of these, are all the elements."""
    chosen: list[int] = []
    reached = np.zeros(len(array), dtype=bool)
    for element in range(len(array)):
        if reached[element]:
            continue
        chosen.append(element)
        reached[element] = True
        before = 0
        while (count := int(reached.sum())) > before:
            before = count
            members = np.flatnonzero(reached)
            reached[array[np.ix_(members, members)]] = True
    return chosen


def group_dataset(names: tuple[str, ...], table: Table, *, train_fraction: float, seed: int) -> Dataset:
    """All pairs (a, b) as two tokens each, labelled with their product."""
    pairs = np.indices(table.shape).reshape(2, -1).T.astype(np.int64)
    labels = table.reshape(-1).astype(np.int64)
    if len(pairs) < 2:
        raise NoGroup("The group has one element only, so there is nothing to learn; choose a larger one.")
    return Dataset(
        **Split.random(len(pairs), train_fraction, seed=seed).parts_of(pairs, labels),
        task="classification",
        feature_names=("a", "b"),
        target_names=names,
        tokens=len(table),
        group=table,
    )


def read_cayley(content: bytes | Path) -> tuple[tuple[str, ...], Table]:
    """A Cayley table from CSV: bare entries, or with a first row and a first column that name the elements.

    Entries are 0 … n−1, or names; bare tables of names have the identity's row first. A JSON list of rows is read too.
    Raises DataError.
    """
    from bimt_engine.data.readers.delimited import read_records

    rows = _json_rows(content) or read_records(content, most=MAX_ORDER + 1)
    head = rows[0]
    labelled = head[1:] == [row[0] for row in rows[1:]] and not any(head[0] in row[1:] for row in rows)
    if labelled:
        names = tuple(head[1:])
        entries = [row[1:] for row in rows[1:]]
    else:
        entries = rows
        numbered = {str(i) for i in range(len(rows))}
        names = tuple(map(str, range(len(rows)))) if numbered == set(head) else tuple(head)
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NoGroup(f"The first row names {twice!r} twice; every element has one name.", where={"row": 1})
    table = []
    for number, row in enumerate(entries, start=1):
        unknown = next((j for j, name in enumerate(row) if name not in index), None)
        if unknown is not None:
            raise NoGroup(
                f"Row {number}, column {unknown + 1} of the Cayley table holds {row[unknown][:30]!r}, which is none of "
                f"the {len(names)} elements that the first row names.",
                where={"row": number, "column": unknown + 1},
            )
        table.append([index[name] for name in row])
    return names, check_group_table(table, names)


def _json_rows(content: bytes | Path) -> list[list[str]] | None:
    """The rows of a JSON list of lists, entries as text; None when the file is none."""
    with opened(content) as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if not text.lstrip().startswith(b"["):
        return None
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoGroup(f"The file is no sound JSON ({str(error)[:100]}); send a list of rows.") from None
    sound = isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows)
    if not sound or not all(isinstance(entry, int | str) for row in rows for entry in row):
        raise NoGroup("The JSON must be a list of rows, each a list of numbers or names, such as [[0, 1], [1, 0]].")
    return [[str(entry) for entry in row] for row in rows]


# --- the named ones -----------------------------------------------------------------------------


def _factor(name: str) -> tuple[tuple[str, ...], Table]:
    """The elements and the table of one group that is offered."""
    if name == "Q8":
        return _quaternions()
    return {"Z": _cyclic, "S": _symmetric, "D": _dihedral}[name[0]](int(name[1:]))


def _cyclic(n: int) -> tuple[tuple[str, ...], Table]:
    numbers = np.arange(n)
    return tuple(map(str, range(n))), (numbers[:, None] + numbers) % n


def _symmetric(n: int) -> tuple[tuple[str, ...], Table]:
    elements = list(itertools.permutations(range(n)))
    index = {element: i for i, element in enumerate(elements)}
    table = [[index[tuple(a[b[i]] for i in range(n))] for b in elements] for a in elements]
    return tuple("".join(str(i + 1) for i in element) for element in elements), np.array(table)


def _dihedral(n: int) -> tuple[tuple[str, ...], Table]:
    """Elements r^k, then s·r^k; r^k · s = s · r^−k."""
    k = np.arange(n)
    turned = (k[:, None] + k) % n
    mirrored = (k - k[:, None]) % n
    table = np.block([[turned, n + mirrored], [n + turned, mirrored]])
    return tuple([f"r{i}" for i in range(n)] + [f"sr{i}" for i in range(n)]), table


def _quaternions() -> tuple[tuple[str, ...], Table]:
    """1, i, j, k and their negatives, with i² = j² = k² = ijk = −1."""
    units = {  # (a, b): sign and unit of a · b
        ("i", "j"): (1, "k"), ("j", "k"): (1, "i"), ("k", "i"): (1, "j"),
        ("j", "i"): (-1, "k"), ("k", "j"): (-1, "i"), ("i", "k"): (-1, "j"),
    }  # fmt: skip
    elements = [(sign, unit) for unit in "1ijk" for sign in (1, -1)]

    def product(a: tuple[int, str], b: tuple[int, str]) -> tuple[int, str]:
        if a[1] == "1" or b[1] == "1":
            sign, unit = 1, a[1] if b[1] == "1" else b[1]
        elif a[1] == b[1]:
            sign, unit = -1, "1"
        else:
            sign, unit = units[a[1], b[1]]
        return a[0] * b[0] * sign, unit

    table = [[elements.index(product(a, b)) for b in elements] for a in elements]
    return tuple(("-" if sign < 0 else "") + unit for sign, unit in elements), np.array(table)
