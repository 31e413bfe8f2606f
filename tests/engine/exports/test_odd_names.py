"""Names of columns are text wherever they are written: pictures, LaTeX, GraphML, DOT, ONNX, weights and the card."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import sympy

from bimt_engine.analysis.evidence import Evidence
from bimt_engine.analysis.readout.verdicts import _latex_names, written
from bimt_engine.analysis.statements.formulas import combination
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.data.preview import understand
from bimt_engine.exports.model_card import model_card
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import load_weights, weights_file
from bimt_engine.figures.registry import draw_run_figures
from bimt_engine.figures.style import to_png, to_svg
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.spec import Spec
from tests.engine.figures.test_registry import evidence_of
from tests.engine.makers import table_data

NAMES = (
    *("Temp: inside", "x[0]", "n" * 200, "מחיר", "温度 🌡️ 👩\u200d🔬", "=1+2", "@SUM|`x`", "a'b\"c"),
    *("<b>&amp;</b>", "$x_1^2$", "\\input{a}%", "_ {"),
)
TARGETS = ("=y|*1*", "$\\frac{1}{")


@pytest.fixture(scope="module")
def examined() -> tuple[Evidence, Dataset]:
    data = replace(table_data(len(NAMES), len(TARGETS)), feature_names=NAMES, target_names=TARGETS)
    return evidence_of(MlpNetwork(hidden=[5]), data), data


def test_such_names_are_read_and_told_as_they_are() -> None:
    quoted = [name.replace('"', '""') for name in (*NAMES, "y")]
    rows = [",".join(f"{i * k % 7}.5" for k in range(1, len(quoted) + 1)) for i in range(1, 30)]
    content = "\n".join([",".join(f'"{name}"' for name in quoted), *rows]).encode()
    preview = understand(content, "csv")
    assert [column["name"] for column in preview["columns"]] == [*NAMES, "y"]
    json.dumps(preview, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("name", "read"),
    [("a\u202eb", "ab"), ("a\u200fb", "ab"), ("a\nb", "a b"), ("\ufeffa\u00a0b", "a b"), ("a\u200db", "a\u200db")],
)
def test_marks_that_cannot_be_seen_are_taken_out_of_names(name: str, read: str) -> None:
    content = f'"{name}",y\n1.5,2\n2,3\n4,1\n3,7\n'.encode()
    preview = understand(content, "csv")
    assert preview["columns"][0]["name"] == read
    assert any("cannot be seen" in note for note in preview["notes"]) == (name.strip() != read)


def test_every_picture_can_be_drawn_without_a_warning(examined) -> None:
    evidence, data = examined
    for figure in draw_run_figures(evidence, data).values():
        ElementTree.fromstring(to_svg(figure))
        assert to_png(figure)


def test_graphs_in_other_formats_have_the_names_as_text(examined) -> None:
    evidence, _ = examined
    assert evidence.graph is not None
    graph = replace(
        evidence.graph,
        neurons=tuple(replace(n, name=NAMES[i % len(NAMES)]) for i, n in enumerate(evidence.graph.neurons)),
    )
    texts = {element.text for element in ElementTree.fromstring(graph.to_graphml().encode()).iter()}
    shown = {neuron.name for neuron in graph.neurons}
    assert shown <= texts
    dot = graph.to_dot()
    assert dot.count("\n") == 3 + len(graph.neurons) + len(graph.connections)
    assert 'label="a\'b\\"c"' in dot or "a'b\"c" not in shown


def test_networks_in_other_formats_have_the_names_as_text(examined) -> None:
    evidence, data = examined
    network = evidence.network
    held = onnx.load_from_string(onnx_file(network, data))
    onnx.checker.check_model(held)
    spec = Spec(dataset=FormulaData(formulas=["x1"], inputs=1), network=MlpNetwork(hidden=[5]))
    saved = load_weights(weights_file(network, network, spec=spec, seed=0, dataset=data))
    assert (saved.data.feature_names, saved.data.target_names) == (NAMES, TARGETS)


def test_the_card_has_them_as_text() -> None:
    dataset = {"task": "regression", "features": list(NAMES), "targets": list(TARGETS), "train": 1, "test": 1}
    card = model_card(name="=1", spec={}, metrics={}, modules=[], dataset=dataset)
    assert "<b>" not in card.split("```")[0]
    assert r"\<b\>" in card
    assert r"\*1\*" in card


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *[
            ("a+b", "“a+b”"),
            ("x 1", "“x 1”"),
            ("log(x)", "“log(x)”"),
            ("pi", "“pi”"),
            ("1e3", "“1e3”"),
            ("”+“", "“\\”+“”"),
        ],
        *[("x[0]", "x[0]"), ("port[a+b]", "port[a+b]"), ("a_b", "a_b"), ("größe", "größe"), ("a[b][c]", "“a[b][c]”")],
    ],
)
def test_a_name_in_a_formula_is_one_thing(name: str, told: str) -> None:
    x, y = (sympy.Symbol(one, real=True) for one in (name, "z"))
    assert written(2.5 * x + y**2) in (f"2.5*{told} + z**2", f"z**2 + 2.5*{told}")
    assert combination([name, "z"], [2.5, -1.0]) == f"2.5·{told} - z"
    assert str(sympy.sympify("3*z + sin(z)**2")) == written(sympy.sympify("3*z + sin(z)**2"))  # others as ever


def test_a_column_that_is_called_like_a_number_is_no_number_in_latex() -> None:
    symbol = sympy.Symbol("pi", real=True)
    assert _latex_names(symbol + 1) == {symbol: "\\text{pi}"}


@pytest.mark.parametrize("name", NAMES)
def test_names_in_latex_are_no_commands(name: str) -> None:
    symbol = sympy.Symbol(name, real=True)
    said = sympy.latex(symbol**2 + 1, symbol_names=_latex_names(symbol**2 + 1))
    if not name.isalnum():
        assert "\\text{" in said
    assert "\\input" not in said
    plain = said.replace("\\{", "").replace("\\}", "")
    assert plain.count("{") == plain.count("}")
    assert np.char.count(said.replace("\\$", ""), "$") == 0
