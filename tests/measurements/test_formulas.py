"""The suite of formulas is thirty different functions, and a formula that only comes near one of them is not found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sympy

from bimt_engine.analysis.readout.function_search import symbols_for
from bimt_engine.analysis.readout.verdicts import evaluated
from measurements import formulas
from measurements.formulas import EXAMPLES, SUITE, gradient, main, sought


def test_thirty_functions_have_values_where_they_are_sought() -> None:
    assert len({truth.text for truth in SUITE.values()}) == 30
    for truth in SUITE.values():
        places = truth.places(EXAMPLES, seed=[0, 0])
        values = evaluated(truth.expression, symbols_for(truth.names), places)
        assert np.isfinite(values).all(), truth.name
        assert values.std() > 0


def test_the_gradient_is_that_of_the_expression() -> None:
    truth = SUITE["damped sine"]
    symbols, places = symbols_for(truth.names), truth.places(50, seed=[0, 0])
    ours = gradient(lambda at: evaluated(truth.expression, symbols, at), places)
    for column, symbol in enumerate(symbols):
        exact = evaluated(sympy.diff(truth.expression, symbol), symbols, places)
        np.testing.assert_allclose(ours[:, column], exact, atol=1e-8)


def test_what_is_right_is_found_and_what_comes_near_is_not() -> None:
    right = sought(SUITE["norm of differences"], draw=0, searches=0)
    assert (right["found"], right["searcher"]) == (True, "library")
    near = sought(SUITE["line times logarithm"], draw=0, searches=0)
    assert near["formula"] is not None
    assert not near["found"]
    json.dumps([right, near], allow_nan=False)


def test_a_report_that_was_interrupted_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--only", "one square", "--networks", "0", "--folder", str(tmp_path)]
    assert main(asked) == 0
    report = json.loads((tmp_path / "formulas.json").read_text(encoding="utf-8"))
    assert (report["suite"]["library"]["found"], report["suite"]["both"]["of"]) == (1, 1)
    monkeypatch.setattr(formulas, "find", None)  # searching again would fail
    assert main(asked) == 0
    assert json.loads((tmp_path / "formulas.json").read_text(encoding="utf-8")) == report
    assert "both: 1 of 1 found." in capsys.readouterr().out
