"""Sentences are made from the stored documents, and give their parts beside the text: nothing has to be split again."""

from __future__ import annotations

import json

import pytest

from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.job import pareto, stability
from bimt_engine.analysis.statements.formulas import (
    FormulaStatement,
    formula_statement,
    formula_statements,
    readout_statement,
    structure_sentences,
)
from bimt_engine.analysis.statements.job import pareto_statement, stability_statement
from bimt_engine.analysis.statements.network import communities_statement, module_statement, network_statement, verdict
from bimt_engine.analysis.statements.outputs import data_statement, output_statement
from bimt_engine.analysis.statements.wording import listed, measured, number, share
from tests.engine.analysis.teachers import TANGLED, TWO_MODULES, plain_spec, student_and_data
from tests.engine.figures.makers import line_graph


def document_of(connections=TWO_MODULES) -> dict:
    network, data = student_and_data(connections)
    evidence = gather_evidence(network, data, plain_spec(leiden_seeds=1, random_groups=40), seed=0, nulls=19)
    return json.loads(json.dumps(evidence.document()))


@pytest.fixture(scope="module")
def document() -> dict:
    return document_of()


@pytest.mark.parametrize(
    ("changes", "seeds", "same", "said"),
    [
        ({}, (0, 0), True, "the same data and rows."),
        ({}, (0, 1), True, "in other rows: each seed draws its own."),
        ({"seed": 4}, (0, 0), True, "in other rows: they differ in seed."),
        ({"columns": {}, "split_version": 1}, (0, 0), True, "in other rows: they differ in split_version."),
        ({"targets": ["z"]}, (0, 0), False, "different data (they differ in targets)"),
        ({"dataset_id": "b" * 64}, (0, 0), False, "different data (they differ in dataset)"),
        ({"kind": "two_moons"}, (0, 0), False, "different data (uploaded and two moons)"),
    ],
)
def test_whether_two_are_of_the_same_data_is_said(changes: dict, seeds: tuple[int, int], same: bool, said: str) -> None:
    data = {"kind": "uploaded", "dataset_id": "a" * 64, "targets": ["y"], "seed": None, "split_version": 2}
    found = data_statement(data, data | changes, seeds=seeds)
    assert found.same is same
    assert said in found.text


def test_the_stored_sentences_are_those_of_the_stored_documents(document: dict) -> None:
    for module in document["modules"]:
        said = module_statement(module, len(document["modules"]))
        assert (said.text, said.reason) == (module["reading"], module["why_not"])
    # Each module is one group inside, so the verdict adds nothing about these.
    assert verdict(document["modules"]) == document["metrics"]["verdict"]
    assert communities_statement(document["communities"]) == document["communities"]["reading"]
    assert readout_statement(document["readout"], False) == document["readout"]["reading"]


def test_a_module_gives_its_parts_whatever_its_columns_are_called(document: dict) -> None:
    module = json.loads(json.dumps(document["modules"][0]).replace('"x1"', '"Temp: inside; out"'))
    said = module_statement(module, 2)
    assert said.evidence[1].startswith("in the network as trained its neurons move y1 by ")
    assert said.reason is None
    what = "reads “Temp: inside; out” and x3, decides y1, nothing else"
    assert said.text == f"module A {what}: {'; '.join(said.evidence)}"


def test_a_network_in_one_piece_is_said_to_be_one() -> None:
    document = document_of(TANGLED)
    [module] = document["modules"]
    said = module_statement(module, 1)
    assert said.evidence[0].startswith("the whole network in one piece (effect ")
    assert said.text == module["reading"]
    assert (said.reason, said.verdict, module["verdict"]) == (None, "one piece", "one piece")


def test_a_module_that_is_not_supported_says_why(document: dict) -> None:
    module = document["modules"][0] | {"supported": False, "trained_leak": 0.3}
    said = module_statement(module, 2)
    assert said.reason == (
        "in the network as trained, the neurons of A also move other outputs (by 0.3 of their variance): "
        "pruning made this separation, training did not"
    )
    assert said.text.endswith(f"; not supported: {said.reason}")


def test_what_could_not_be_tested_is_not_called_unsupported(document: dict) -> None:
    few = {"supported": False, "all_groups_tried": True, "random_groups": 5}
    modules = [module | few for module in document["modules"]]
    stated = [module_statement(module, 2) for module in modules]
    assert {said.verdict for said in stated} == {"not testable"}
    assert stated[0].text.endswith(
        "; not testable: so few neurons have connections that only 5 other groups are of the size of A: "
        "chance cannot be ruled out"
    )
    modules = [m | {"verdict": s.verdict, "why_not": s.reason} for m, s in zip(modules, stated, strict=True)]
    assert verdict(modules).startswith("No module is testable: so few neurons have connections")
    assert verdict([document["modules"][0], modules[1]]).startswith("Supported: A. Not testable: so few neurons")
    leaking = module_statement(modules[0] | {"trained_leak": 0.3}, 2)
    said = verdict([modules[0] | {"verdict": leaking.verdict, "why_not": leaking.reason}, modules[1]])
    assert said.startswith("No module is supported: in the network as trained")
    assert ". Not testable: so few neurons have connections" in said


def test_a_module_stored_without_effects_keeps_its_sentence() -> None:
    said = module_statement({"name": "A", "inputs": ["x1"], "outputs": ["y1"], "reading": "module A reads x1"}, 2)
    assert (said.text, said.evidence) == ("module A reads x1", ())


def test_formulas_give_verdict_evidence_and_structure(document: dict) -> None:
    said = formula_statements(document["readout"])
    assert [statement.output for statement in said] == ["y1", "y2"]
    for statement, output in zip(said, document["readout"]["outputs"], strict=True):
        assert statement.formula == output["formula"]["text"]
        assert statement.verdicts[0].good is bool(output["formula"]["meets_network"])
        assert len(statement.verdicts) == 2
        assert statement.evidence[-1] == "Columns and target are in the units of the data."


MET = {
    "text": "x1**2", "inputs": ["x1"], "accepted": True, "meets_network": True, "meets_data": True,
    "better_than_network": False, "r2": 0.99998, "r2_of_targets": 0.9997, "network_r2_of_targets": 0.9997,
    "substitution_loss": 1e-5, "loss": 1e-5, "loss_limit": 1e-4, "reason": None,
    "test": {"r2": 0.9999, "r2_of_targets": 0.9998, "network_r2_of_targets": 0.9997},
}  # fmt: skip


def said_of(formula: dict, symmetry: dict | None = None) -> FormulaStatement:
    return formula_statement({"output": "y", "formula": formula, "symmetry": symmetry or {}}, "data")


def test_a_formula_has_a_verdict_of_the_network_and_one_of_the_data() -> None:
    assert said_of(MET).verdict == "meets the network and meets the data"
    better = MET | {"meets_network": False, "better_than_network": True, "r2": 0.998, "r2_of_targets": 1.0,
                    "reason": "it meets the network only to R² = 0.9980 on validation rows"}  # fmt: skip
    said = said_of(better)
    assert [(v.text, v.good) for v in said.verdicts] == [
        ("does not meet the network", False),
        ("fits the data better than the network", True),
    ]
    assert said.evidence[0] == "It meets the network only to R² = 0.9980 on validation rows, 0.9999 on test rows."
    assert said.evidence[1] == (
        "It fits the data better than the network: R² = 1, that of the network 0.9997; on test rows 0.9998 and 0.9997."
    )
    classes = MET | {"meets_data": None, "r2_of_targets": None, "network_r2_of_targets": None}
    assert said_of(classes).verdict == "meets the network"
    outputs = [{"output": "y1", "formula": MET}, {"output": "y2", "formula": better}]
    assert readout_statement({"outputs": outputs}, False) == (
        "Accepted, all in units of the data: y1 = x1**2. Not the network, but a better fit to the data: y2 = x1**2."
    )


def test_documents_of_one_verdict_are_still_told() -> None:
    old = {"text": "x1**2", "accepted": True, "r2": 0.9999, "r2_of_targets": 0.9998, "reason": None}
    said = said_of(old)
    assert (said.verdict, said.verdicts[0].good) == ("accepted", True)
    assert said.evidence[0] == "It meets the network to R² = 0.9999 on held-out examples and the data to 0.9998."
    refused = said_of(old | {"accepted": False, "reason": "it meets the network only to R² = 0.9 on held-out examples"})
    assert refused.verdict == "not accepted"
    assert refused.evidence[0] == "Not accepted: it meets the network only to R² = 0.9 on held-out examples."
    assert said_of({"text": None, "accepted": False, "reason": "nothing fits"}).verdict == "no formula"
    assert readout_statement({"outputs": [{"output": "y", "formula": old}]}, False).startswith("Accepted, all in")


def test_the_structure_does_not_contradict_the_formula() -> None:
    dust = {"additive_parts": [["x1"], ["x2"]], "part_shares": [0.9999, 2e-6]}
    assert said_of(MET, dust).structure == ()
    beside = dust | {"part_shares": [0.98, 0.02]}
    (sentence,) = said_of(MET, beside).structure
    assert sentence == "The network reads x2 as well (0.02 of its variance); the formula does not."
    whole = said_of(MET | {"text": "x1**2 + x2", "inputs": ["x1", "x2"]}, beside).structure
    assert whole == ("It adds up 2 parts that do not mix: x1; x2.",)
    old = {"additive_parts": [["x1"], ["x2"]], "through": []}
    assert structure_sentences(old) == ("It adds up 2 parts that do not mix: x1; x2.",)


def test_inputs_of_a_formula_are_told_by_their_columns() -> None:
    symmetry = {
        "reads": ["c", "Sex", "age", "a[b]"],
        "additive_parts": [["c"], ["Sex"], ["age", "a[b]"]],
        "part_shares": [0.5, 0.3, 0.2],
        "through": [
            {"inputs": ["c[x]", "c[y]"], "reading": "c[x] - c[y]"},
            {"inputs": ["age[missing]", "a[b][z]"], "reading": "age[missing] + a[b][z]"},
        ],
    }
    formula = MET | {"text": "c[x] + Sex[male] + a[b][z]", "inputs": ["c[x]", "Sex[male]", "a[b][z]"]}
    expected = (
        "It adds up 3 parts that do not mix: c; Sex; age and a[b].",
        "It depends on age[missing] and a[b][z] only through age[missing] + a[b][z].",
    )
    assert said_of(formula, symmetry).structure == expected
    stored = formula | {"inputs": ["p", "q"], "columns": ["c", "Sex"]}
    assert said_of(stored, symmetry).structure == (
        "It adds up 2 parts that do not mix: c; Sex.",
        "The network reads age and a[b] as well (0.2 of its variance); the formula does not.",
    )


def test_outputs_say_how_well_they_are_predicted(document: dict) -> None:
    said = output_statement(document["metrics"]["outputs"][0])
    assert (said.output, said.learnt, said.verdict) == ("y1", True, "learnt")
    assert said.text.startswith("R² ")


def test_the_agreement_of_seeds_gives_its_modules(document: dict) -> None:
    said = stability_statement(stability([document, document]))
    assert said.startswith("2 of 2 runs divide inputs and outputs the same way (x1, x3 → y1 | x2, x4 → y2)")
    assert "A module with exactly these inputs and outputs: x1, x3 → y1 in 2 of 2 runs; x2, x4 → y2 in 2 of 2" in said


def test_a_sweep_names_its_knee_and_the_largest_harmless_cost_strength() -> None:
    points = [
        {"run": f"r{i}", "cost_strength": strength, "seed": 3, "loss": loss, "wiring": wiring, "connections": 9}
        for i, (strength, loss, wiring) in enumerate([(0.001, 0.01, 90.0), (0.01, 0.0101, 9.0), (0.1, 1.0, 6.0)])
    ]
    said = pareto_statement(pareto(points, tolerance=0.05))
    assert said.empty is None
    assert said.suggested is not None
    assert said.suggested == (
        "λ 0.01 is the largest whose median loss on held-out rows, 0.0101, is still harmless (within 0.05 of the "
        "targets’ variance above the best, 0.01 at λ 0.001). At λ 0.1 it is 100 times the best."
    )
    assert said.chosen == 0.01
    assert said.strengths[1:] == (
        "λ 0.01: loss 0.0101, wiring 9, 9 connections",
        "λ 0.1: loss 1, wiring 6, 9 connections; not harmless",
    )
    tested = [point | {"test_loss": 2 * point["loss"]} for point in points]
    validated = pareto_statement(pareto(tested, tolerance=0.05, rows="validation"))
    assert validated.suggested.endswith("On test rows, which nothing was chosen by, it is 0.0202.")
    before = pareto_statement({"suggested_cost_strength": 0.01, "tolerance": 0.05})  # a document without medians
    assert before.suggested.endswith("is still harmless (within 0.05 of the targets’ variance above the best).")
    assert pareto_statement(pareto(points[:1])).suggested is None
    assert (said.knee, said.knee_run) == ("The knee is at λ 0.01, seed 3.", "r1")
    assert pareto_statement(pareto([])).suggested is None


def test_a_network_is_described_for_those_who_do_not_see_it() -> None:
    assert network_statement(line_graph()) == (
        "3 inputs and 2 outputs in use, with 2 and 2 neurons in 2 layers between them, joined by 7 connections. "
        "It falls into 2 modules that share no connection. Module A leads from x1 and x3 to y1. "
        "Module B leads from x4 to y2."
    )


def test_numbers_read_as_people_write_them() -> None:
    assert [number(v) for v in (None, 0.0, 12345.0, 0.00001, 0.5)] == ["–", "0", "12,345", "10⁻⁵", "0.5"]
    assert [share(v) for v in (None, 1.0, 0.99995, -3.0)] == ["–", "1", "0.99995", "below 0, worse than a constant"]
    assert measured("test_r2", 0.99995) == "0.99995"
    assert listed([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert (number(12345), number(3), measured("connections", 3)) == ("12,345", "3", "3")


def test_names_with_punctuation_are_quoted_so_that_a_list_has_one_meaning() -> None:
    assert listed(["a", "x, y", "b; c", "t: u", 'q"', "it's", "pixel[3,4]"]) == (
        "a, “x, y”, “b; c”, “t: u”, “q\"”, it's and pixel[3,4]"
    )
