"""What a network is asked and answers, in the units of the data; what cannot be answered is named by row and column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.networks.network import Network
from tests.engine.makers import build
from worker.predicting import Refusal, predict


def scaled(name: str) -> tuple[Network, Dataset]:
    """A network that learned on columns as small as a millionth."""
    network, data = build(name)
    return network, replace(data, input_scaling=Scaling(np.zeros(data.inputs), np.full(data.inputs, 1e-6)))


@pytest.mark.parametrize("name", ["mlp", "classifier"])
def test_numbers_for_which_there_is_no_answer_are_named_by_row_and_column(name: str) -> None:
    network, data = scaled(name)
    rows = [[1e-6, 0, 0, 0], [0, 3, 1e308, 1], dict.fromkeys(data.feature_names, 0) | {"x2": -1e308}]
    rows = [row[: data.inputs] if isinstance(row, list) else row for row in rows]
    with pytest.raises(
        Refusal, match=r"^Column `x3` of row 1 \(the first is 0\) is 1e\+308: the network's answer"
    ) as refused:
        predict(network, data, rows)
    assert [pointer for pointer, _ in refused.value.problems] == ["/inputs/1/2", "/inputs/2/x2"]
    predict(network, data, rows[:1])


def test_of_sequences_the_step_is_named_too() -> None:
    network, data = scaled("transformer")
    rows = np.zeros((2, *data.train_inputs.shape[1:]))
    rows[1, 2, 1] = 1e308
    with pytest.raises(Refusal, match="Column `c2` at step 2 of row 1") as refused:
        predict(network, data, rows.tolist())
    assert [pointer for pointer, _ in refused.value.problems] == ["/inputs/1/2/1"]


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan"), "1e999"])
def test_what_is_no_number_of_ours_is_named_too(number: object) -> None:
    network, data = build("mlp")
    with pytest.raises(Refusal, match="Column `x2` holds no number") as refused:
        predict(network, data, [[0] * data.inputs, [0, number, *[0] * (data.inputs - 2)]])
    assert [pointer for pointer, _ in refused.value.problems] == ["/inputs/1/1"]


def test_text_is_asked_as_text_or_by_names_or_numbers_and_answered_at_every_step() -> None:
    network, data = build("text transformer")
    rows = [[0, 1, 2, 3], ["token0", "token1", "token2", "token3"]]
    told = predict(network, data, rows)
    assert np.shape(told["probabilities"]) == (2, 4, 5)
    assert told["probabilities"][0] == told["probabilities"][1]
    assert np.shape(told["labels"]) == (2, 4)
    assert told["labels"][0][3] == f"token{int(np.argmax(told['probabilities'][0][3]))}"
    as_text = predict(network, data, ["\0\1\2\3"])  # of a real text, its bytes
    np.testing.assert_allclose(as_text["probabilities"], told["probabilities"][:1])
    for row, said in (([0, 1], "A row has 4 tokens; this one has 2"), ("\0\1\2\5", "no token 5"), ({}, "4 tokens")):
        with pytest.raises(Refusal, match=said):
            predict(network, data, [row])
