"""The representations of a group are those of its characters, whichever table it is given by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.analysis.representations import COMMUTANT, Group, _representations, matrices, representations, shares
from bimt_engine.data.kinds.groups import multiplication

COS = 2 * np.cos(2 * np.pi / 5 * np.arange(5))  # of a fifth of a turn, and of its multiples


def fixed_points(name: str) -> int:
    return sum(int(image) == place for place, image in enumerate(name, start=1))


def parity(name: str) -> int:
    return round(float(np.linalg.det(np.eye(len(name))[[int(image) - 1 for image in name]])))


def pairings(name: str) -> int:
    """How many of the three ways to pair four things a permutation leaves as they are."""
    halves = [frozenset({frozenset({0, i}), frozenset({1, 2, 3} - {i})}) for i in (1, 2, 3)]
    image = [int(i) - 1 for i in name]
    return sum(frozenset(frozenset(image[i] for i in pair) for pair in half) == half for half in halves)


def cyclic(n: int) -> dict[tuple[int, str], np.ndarray]:
    turns = 2 * np.pi / n * np.outer(np.arange(n // 2 + 1), np.arange(n))
    return {
        (k, "real" if k in (0, n / 2) else "complex"): np.cos(turn) * (1 if k in (0, n / 2) else 2)
        for k, turn in enumerate(turns)
    }


def known(group: str) -> list[tuple[str, np.ndarray]]:
    """(type, character of each element) of every real irreducible representation, from textbooks."""
    names, _ = multiplication(group)
    one = np.ones(len(names))
    if group in ("S3", "S4"):
        sign = np.array([parity(name) for name in names])
        standard = np.array([fixed_points(name) - 1 for name in names])
        found = [("real", one), ("real", sign), ("real", standard)]
        if group == "S4":
            found += [("real", sign * standard), ("real", np.array([pairings(name) - 1 for name in names]))]
        return found
    if group == "D5":
        turned = np.array([name.startswith("r") for name in names])
        return [("real", one), ("real", np.where(turned, 1, -1))] + [
            ("real", np.where(turned, COS[k * np.tile(np.arange(5), 2) % 5], 0)) for k in (1, 2)
        ]
    if group == "Q8":
        units = np.array([name.removeprefix("-") for name in names])
        ones = [one, *(np.where(np.isin(units, ["1", unit]), 1, -1) for unit in "ijk")]
        return [("real", each) for each in ones] + [
            ("quaternionic", np.where(units != "1", 0, np.where(np.char.startswith(names, "-"), -4, 4)))
        ]
    if group == "Z12":
        return [(of, character) for (_, of), character in cyclic(12).items()]
    assert group == "S3xZ5"
    return [
        ("real" if a == b == "real" else "complex", np.multiply.outer(left, right).reshape(-1))
        for a, left in known("S3")
        for (_, b), right in cyclic(5).items()
    ]


KNOWN = ["S3", "S4", "D5", "Q8", "Z12", "S3xZ5"]
OTHERS = ["Z1", "Z2", "Z59", "S5", "D4", "Z6xZ6", "Q8xZ3", "Q8xS3", "Z2xZ2xZ2xZ2xZ2", "S5xZ4"]


@pytest.mark.parametrize("group", KNOWN)
def test_types_and_characters_are_those_of_textbooks(group: str) -> None:
    found = representations(multiplication(group)[1])
    expected = known(group)
    assert len(found) == len(expected)
    for kind, character in expected:
        same = [part for part in found if np.allclose(part.character, character, atol=1e-9)]
        assert [(part.type, part.dimension) for part in same] == [(kind, character[0])]


@pytest.mark.parametrize("group", KNOWN)
def test_shares_are_those_that_the_characters_give(group: str) -> None:
    _, table = multiplication(group)
    found = representations(table)
    functions = np.random.default_rng(0).normal(size=(len(table), 5)) + 3
    inverse = Group.of(table).inverse
    centred = functions - functions.mean(axis=0)
    for kind, character in known(group)[1:]:
        number = next(i for i, part in enumerate(found) if np.allclose(part.character, character, atol=1e-9))
        # The projection is dim / (n · dim of the commutant) · Σ_g character(g⁻¹) · translation by g.
        scale = character[0] / COMMUTANT[kind] / len(table)
        projected = sum(scale * character[inverse[g]] * functions[table[inverse[g]]] for g in range(len(table)))
        expected = (projected**2).sum(axis=0) / (centred**2).sum(axis=0)
        np.testing.assert_allclose(shares(functions, found)[:, number], expected, atol=1e-12)


@pytest.mark.parametrize("group", [*KNOWN, *OTHERS])
def test_every_representation_multiplies_as_the_group_does_and_together_they_are_all_functions(group: str) -> None:
    _, table = multiplication(group)
    found = representations(table)
    assert found[0].name == "trivial"
    assert [part.dimension for part in found] == sorted(part.dimension for part in found)
    assert len({part.name for part in found}) == len(found)
    widths = [part.dimension**2 // COMMUTANT[part.type] for part in found]
    assert [part.basis.shape[1] for part in found] == widths
    assert sum(widths) == len(table)
    for part in found if len(table) <= 130 else found[:3]:
        of = matrices(table, part)
        np.testing.assert_allclose(np.trace(of, axis1=1, axis2=2), part.character, atol=1e-9)
        np.testing.assert_allclose(of @ of.swapaxes(1, 2), np.broadcast_to(np.eye(part.dimension), of.shape), atol=1e-9)
        for a in range(len(table)):
            np.testing.assert_allclose(of[a] @ of, of[table[a]], atol=1e-8)


@given(st.sampled_from(KNOWN), st.data())
@settings(max_examples=25, deadline=None)
def test_new_numbers_for_the_elements_change_no_share(group: str, data: st.DataObject) -> None:
    _, table = multiplication(group)
    new = np.array(data.draw(st.permutations(range(len(table)))))
    renamed = np.empty_like(table)
    renamed[np.ix_(new, new)] = new[table]
    function = np.random.default_rng(1).normal(size=(len(table), 1))
    moved = np.empty_like(function)
    moved[new] = function
    before, after = (shares(f, representations(t))[0] for f, t in ((function, table), (moved, renamed)))
    # Conjugate representations may change places: which of two is the first depends on the names of the elements.
    np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-9)


def test_of_numbers_modulo_n_they_are_the_frequencies() -> None:
    functions = np.random.default_rng(2).normal(size=(12, 4))
    found = representations(multiplication("Z12")[1])
    power = np.abs(np.fft.rfft(functions, axis=0)) ** 2
    power[1:6] *= 2
    for name, of in zip([part.name for part in found], shares(functions, found).T, strict=True):
        k = 0 if name == "trivial" else int(name.removeprefix("frequency "))
        np.testing.assert_allclose(of, power[k] / power[1:].sum(axis=0) if k else 0, atol=1e-12)
    assert [part.frequency for part in found] == [(0,), (6,), (1,), (2,), (3,), (4,), (5,)]


def test_products_of_cyclic_groups_have_a_frequency_for_each_factor() -> None:
    a, b = np.divmod(np.arange(36), 6)
    found = representations(multiplication("Z6xZ6")[1])
    wave = np.cos(2 * np.pi * (a + 2 * b) / 6)[:, None]
    [number] = np.flatnonzero(shares(wave, found)[0] > 0.5)
    assert found[number].name == "frequency (1, 2)"


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("S4", ["trivial", "sign", "2-dimensional", "3-dimensional a", "3-dimensional b"]),
        ("D5", ["trivial", "sign", "2-dimensional a", "2-dimensional b"]),
        ("Q8", ["trivial", "1-dimensional a", "1-dimensional b", "1-dimensional c", "4-dimensional"]),
    ],
)
def test_others_are_named_by_their_dimension(group: str, names: list[str]) -> None:
    assert [part.name for part in representations(multiplication(group)[1])] == names


def test_the_three_dimensional_ones_of_s4_are_told_apart_by_what_exchanges_do() -> None:
    names, table = multiplication("S4")
    of = {part.name: part for part in representations(table)}
    exchange = names.index("2134")
    assert of["3-dimensional a"].character[exchange] == pytest.approx(1)
    assert of["3-dimensional b"].character[exchange] == pytest.approx(-1)
    assert sorted(np.array(names)[of["2-dimensional"].kernel]) == ["1234", "2143", "3412", "4321"]


def test_a_constant_function_has_no_shares_and_rounding_is_no_variance() -> None:
    found = representations(multiplication("S4")[1])
    assert not shares(np.full((24, 1), 0.1) * 3, found).any()


def test_classes_and_cosets_are_those_of_s4() -> None:
    names, table = multiplication("S4")
    group = Group.of(table)
    assert [(group.element_orders[of[0]], len(of)) for of in group.classes] == [(1, 1), (2, 3), (2, 6), (3, 8), (4, 6)]
    even = np.array([parity(name) == 1 for name in names])
    assert (group.cosets(even) == np.where(even, 0, 1)).all()


def test_they_are_equal_bit_for_bit() -> None:
    _, table = multiplication("S3xZ5")
    one = representations(table)
    _representations.cache_clear()
    two = representations(table)
    for a, b in zip(one, two, strict=True):
        assert (a.name, a.basis.tobytes(), a.character.tobytes()) == (b.name, b.basis.tobytes(), b.character.tobytes())


@pytest.mark.parametrize("table", [[[1, 0], [1, 0]], [[0, 1], [1, 1]]])
def test_a_table_that_is_none_of_a_group_is_refused(table: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="not that of a group"):
        representations(np.array(table))
