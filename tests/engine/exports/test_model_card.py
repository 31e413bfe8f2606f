"""A card says what the documents say, claims nothing more, and no name becomes mark-up in it."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys

import pytest

from bimt_engine.analysis import statements
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.exports.model_card import model_card, safe
from bimt_engine.recipes import load_recipe
from tests.engine.analysis.teachers import TANGLED, TWO_MODULES, plain_spec, student_and_data

DATA = {"task": "regression", "features": ["x1", "x2", "x3", "x4"], "targets": ["y1", "y2"], "train": 100, "test": 100}


def card(connections, **more) -> tuple[str, dict]:
    network, data = student_and_data(connections)
    evidence = gather_evidence(network, data, plain_spec(leiden_seeds=1, random_groups=40), seed=0, nulls=0)
    document = json.loads(json.dumps(evidence.document()))
    parts = {key: document[key] for key in ("metrics", "modules", "effects", "communities", "readout")}
    spec = load_recipe("independence").spec.model_dump(mode="json")
    return model_card(**({"name": "Two parts", "spec": spec, "dataset": DATA, "seed": 0, **parts} | more)), document


def test_the_card_tells_data_training_numbers_modules_formulas_and_limits() -> None:
    text, document = card(TWO_MODULES, hashes={"data": "ab" * 32}, notes="Ours.")
    for heading in ("# Two parts", "## Data", "## Training", "## Numbers", "## Modules", "## Formulas", "## Limits"):
        assert f"{heading}\n" in text
    for module in document["modules"]:
        assert safe(module["reading"]) in text
    assert re.search(r"- \*\*A\*\* \(\d+ neurons\): module A reads x1 and x3, decides y1.*\. Supported\.\n", text)
    assert f"SHA-256 of the data: `{'ab' * 32}`" in text
    assert text.startswith("# Two parts\n\nOurs.\n\n")
    body = text.split("```json\n")[1].split("\n```")[0]
    assert json.loads(body) == load_recipe("independence").spec.model_dump(mode="json")


def test_a_network_in_one_piece_is_not_given_modules() -> None:
    text, _ = card(TANGLED)
    assert "No separate module is supported" in text
    assert "Not supported by the tests: A" in text
    assert "Supported." not in text


def test_names_cannot_become_mark_up() -> None:
    nasty = "<img src=x onerror=alert(1)>\n# A heading | [link](x) `code`"
    text, _ = card(TWO_MODULES, name=nasty, dataset=DATA | {"features": [nasty] * 30})
    assert not any(character in text.replace("\\<", "").split("```json")[0] for character in "<")
    assert "\n# A heading" not in text
    assert "and 10 more" in text


SENTENCES = [f"{statements.__name__}.{module.name}" for module in pkgutil.iter_modules(statements.__path__)]


@pytest.mark.parametrize("module", ["bimt_engine.exports.model_card", *SENTENCES, "bimt_engine.figures.layout"])
def test_what_the_api_imports_brings_neither_torch_nor_numpy_nor_matplotlib(module: str) -> None:
    code = f"import {module}, sys; assert not {{'torch', 'numpy', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
