"""Wrong shapes are found in the first calls of each function in each test, or in every call where asked for."""

from __future__ import annotations

import os

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float

from tests.shapes import CHECKED_CALLS, next_test

RIGHT, WRONG = np.zeros((2, 3)), np.zeros((2, 2))


def test_the_first_calls_are_checked_anew_in_each_test() -> None:
    @jaxtyping.jaxtyped(typechecker=beartype)
    def rows(table: Float[np.ndarray, "rows 3"]) -> int:
        return len(table)

    for _ in range(2):
        with pytest.raises(jaxtyping.TypeCheckError):
            rows(WRONG)
        assert [rows(RIGHT) for _ in range(CHECKED_CALLS)] == [2] * CHECKED_CALLS
        if not os.environ.get("EVERY_CALL"):
            assert rows(WRONG) == 2
        next_test()
