"""Groups by name satisfy the axioms; tables that do not are refused with the entry."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.data.kinds.groups import (
    GroupData,
    ModularAdditionData,
    check_group_table,
    multiplication,
    read_cayley,
)
from bimt_engine.data.kinds.uploaded import UploadedData
from bimt_engine.data.registry import make_dataset
from bimt_engine.errors import DataError

NAMED = ["Z1", "Z2", "Z7", "Z59", "S1", "S3", "S4", "S5", "D1", "D2", "D5", "D12", "Q8", "Z6xZ6", "S3xZ5", "Q8xD4xZ8"]


@pytest.mark.parametrize("group", NAMED)
def test_a_named_group_satisfies_the_axioms(group):
    names, table = multiplication(group)
    n = len(names)
    assert len(set(names)) == n
    everything = np.arange(n)
    assert (np.sort(table, axis=0) == everything[:, None]).all()  # every element once in each column
    assert (np.sort(table, axis=1) == everything).all()
    assert (table[0] == everything).all()  # the identity is first, from the left and from the right
    assert (table[:, 0] == everything).all()
    triples = np.random.default_rng(0).integers(0, n, (3, 500))
    a, b, c = triples
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()


def test_the_symmetric_group_composes_permutations():
    names, table = multiplication("S4")
    matrices = [np.eye(4)[:, [int(i) - 1 for i in name]] for name in names]  # an outside truth: permutation matrices
    for a, b in itertools.product(range(24), repeat=2):
        assert (matrices[a] @ matrices[b] == matrices[table[a, b]]).all()


def test_the_dihedral_group_composes_turns_and_mirrors():
    n = 5
    turn = np.array([[np.cos(t := 2 * np.pi / n), -np.sin(t)], [np.sin(t), np.cos(t)]])
    mirror = np.diag([1.0, -1.0])
    matrices = [np.linalg.matrix_power(turn, k) for k in range(n)]
    matrices += [mirror @ m for m in matrices]
    _, table = multiplication("D5")
    for a, b in itertools.product(range(2 * n), repeat=2):
        np.testing.assert_allclose(matrices[a] @ matrices[b], matrices[table[a, b]], atol=1e-12)


def test_the_quaternion_group_obeys_hamilton():
    names, table = multiplication("Q8")
    at = names.index
    for unit in "ijk":
        assert table[at(unit), at(unit)] == at("-1")
    assert table[table[at("i"), at("j")], at("k")] == at("-1")
    assert table[at("j"), at("i")] == at("-k")


def test_a_product_multiplies_its_factors_apart():
    names, table = multiplication("S3xZ5")
    permutations, by_permutation = multiplication("S3")
    assert names[:6] == ("(123,0)", "(123,1)", "(123,2)", "(123,3)", "(123,4)", "(132,0)")
    for a, b in itertools.product(range(30), repeat=2):
        (left, i), (right, j) = divmod(a, 5), divmod(b, 5)
        assert names[table[a, b]] == f"({permutations[by_permutation[left, right]]},{(i + j) % 5})"


@pytest.mark.parametrize(
    "group", ["S6", "Z513", "D257", "A4", "Z0", "", "table", "S5xZ5", "Z2xZ513", "Z2x", "Z2xtable"]
)
def test_a_group_that_is_not_offered_is_refused_with_a_sentence(group):
    with pytest.raises(DataError, match=r"is too large|There is no group"):
        multiplication(group)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([[0, 1], [1]], "row 2 has 1 entries"),
        ([[0, 1], [1, 2]], "Row 2, column 2 holds 2"),
        ([[0, 1], [1, -1]], "Row 2, column 2 holds -1"),
        ([[0, 1], [1, 10**30]], "Row 2, column 2"),
        ([[0, 1], [0, 1]], "0 stands twice in column 1"),
        ([[0, 0], [1, 1]], "0 stands twice in row 1: at positions 1 and 2"),
        ([], "1 to 512 rows"),
    ],
)
def test_a_table_that_is_no_latin_square_is_refused_with_the_entry(table, says):
    with pytest.raises(DataError, match=says):
        check_group_table(table)


def test_a_latin_square_that_is_not_associative_is_refused_with_three_elements():
    subtraction = [[(a - b) % 5 for b in range(5)] for a in range(5)]
    with pytest.raises(DataError, match=r"not associative: \(0·0\)·1 is 4, but 0·\(0·1\) is 1"):
        check_group_table(subtraction)


@given(st.sampled_from(["Z6", "S3", "D4", "Q8", "Z9"]), st.data())
@settings(max_examples=60)
def test_a_group_stays_one_under_new_numbers_and_is_none_after_one_wrong_entry(group, data):
    _, table = multiplication(group)
    n = len(table)
    new = np.array(data.draw(st.permutations(range(n))))
    renamed = np.empty_like(table)
    renamed[np.ix_(new, new)] = new[table]
    assert (check_group_table(renamed.tolist()) == renamed).all()
    row, column = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    wrong = renamed.copy()
    wrong[row, column] = (wrong[row, column] + data.draw(st.integers(1, n - 1))) % n
    with pytest.raises(DataError):
        check_group_table(wrong.tolist())


def test_data_of_a_group_know_its_table(tmp_path):
    for part in (GroupData(group="S3xZ5"), ModularAdditionData(modulus=7)):
        data = make_dataset(part, seed=0)
        for inputs, labels in ((data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)):
            assert (data.group[inputs[:, 0], inputs[:, 1]] == labels).all()
    file = tmp_path / "q8.csv"
    names, table = multiplication("Q8")
    file.write_text("\n".join(",".join(names[i] for i in row) for row in table))
    uploaded = UploadedData(
        dataset_id=f"ds_{'0' * 26}", sha256="0" * 64, format="cayley", targets=["product"], task="classification"
    )
    assert (make_dataset(uploaded, seed=0, content=file).group == table).all()


@pytest.mark.parametrize("group", ["S3", "Q8", "Z5"])
def test_a_cayley_table_is_read_with_names_without_and_by_number(group):
    names, table = multiplication(group)
    bare = "\n".join(",".join(names[i] for i in row) for row in table)
    head = ",".join(["*", *names])
    labelled = "\n".join([head, *(",".join([names[i], *(names[j] for j in row)]) for i, row in enumerate(table))])
    numbers = "\n".join(",".join(map(str, row)) for row in table.tolist())
    counted = tuple(map(str, range(len(names))))
    in_json = json.dumps(table.tolist())
    for text, expected in ((bare, names), (labelled, names), (numbers, counted), (in_json, counted)):
        got_names, got = read_cayley(text.encode())
        assert got_names == expected
        assert (got == table).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("e,a\na,b", "holds 'b'"),
        ("e,a\na,e,e", "row 2 has 3 entries"),
        ("e,e\na,a", "names 'e' twice"),
        ("e,a,b\na,b,e\nb,a,e", "stands twice"),
        ("\x00", "zero byte"),
        ("[[0, 1], [1", "no sound JSON"),
        ("[" * 100_000, "no sound JSON|list of rows"),
        ("[[0, 1], [1, null]]", "list of rows"),
        ("[[0, 1], [1, 2]]", "holds '2'"),
    ],
)
def test_a_file_that_is_no_cayley_table_is_refused(text, says):
    with pytest.raises(DataError, match=says):
        read_cayley(text.encode())
