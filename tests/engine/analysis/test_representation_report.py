"""What a network holds of its group's representations is what a computation by hand gives, in numbers and words."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimt_engine.analysis import representation_report as module
from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.reachability import full_masks
from bimt_engine.analysis.representation_report import representation_report
from bimt_engine.analysis.representations import matrices, representations, shares
from bimt_engine.analysis.statements.representations import (
    PURE,
    group_representations,
    module_representations,
    neuron_representations,
    representation_names,
    representations_statement,
)
from bimt_engine.analysis.statements.wording import percent
from bimt_engine.data.kinds.groups import group_dataset, multiplication
from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.recipes import load_recipe
from bimt_engine.training.loop import Training
from tests.engine.makers import table_data


def untrained(group: str, *, hidden: tuple[int, ...] = (5, 4), width: int = 4) -> AnalysisContext:
    """A network as it is drawn, on all pairs of a group."""
    data = group_dataset(*multiplication(group), train_fraction=0.8, seed=0)
    part = MlpNetwork(hidden=list(hidden), embedding_width=width)
    network = build_network(part, data, precision="float64", generator=torch.Generator().manual_seed(0))
    return AnalysisContext.of(network, data)


def by_hand(context: AnalysisContext, layer: str) -> np.ndarray:
    """The activations of a layer on all pairs, (a, b, neuron)."""
    order = context.dataset.tokens
    pairs = torch.tensor([[(a, b) for b in range(order)] for a in range(order)]).reshape(-1, 2)
    with torch.no_grad():
        _, seen = context.network.forward_with_hooks(pairs)
    return seen[layer].numpy().reshape(order, order, -1)


@pytest.mark.parametrize("group", ["S3", "Z7", "Q8"])
def test_shares_are_those_of_means_taken_by_hand(group: str) -> None:
    context = untrained(group)
    values = context.values()
    document = representation_report(context, values, full_masks(context.wiring, values))
    table, parts = context.dataset.group, representations(context.dataset.group)
    for layer in ("hidden1", "hidden2"):
        activations = by_hand(context, layer)
        means = {
            "product": np.stack([activations[table == c].mean(axis=0) for c in range(len(table))]),
            "a": activations.mean(axis=1),
            "b": activations.mean(axis=0),
        }
        for neuron in range(activations.shape[2]):
            found = document["neurons"][f"{layer}:{neuron}"]
            assert found["variance"] == pytest.approx(activations[:, :, neuron].var())
            assert set(found) == {"variance", *(("product", "a", "b") if layer == "hidden1" else ("product",))}
            for by in set(found) - {"variance"}:
                function = means[by][:, [neuron]]
                assert found[by]["variance"] == pytest.approx(function.var())
                np.testing.assert_allclose(found[by]["shares"], shares(function, parts)[0], atol=1e-6)
    vectors = values["embedding"]
    together = (shares(vectors, parts) * vectors.var(axis=0)[:, None]).sum(axis=0) / vectors.var(axis=0).sum()
    np.testing.assert_allclose(document["embedding"]["together"]["shares"], together, atol=1e-6)
    assert document["embedding"]["slots"] == [0, 1, 2, 3]
    assert document["group"]["order"] == len(table) == sum(of["size"] for of in document["group"]["classes"])
    json.dumps(document, allow_nan=False)


def test_all_pairs_are_computed_in_pieces_with_the_same_result() -> None:
    context = untrained("S3")
    values = context.values()
    masks = full_masks(context.wiring, values)
    whole = representation_report(context, values, masks)
    small = replace(context, general=replace(context.general, at_once=13))
    pieces = representation_report(small, values, masks)
    for neuron, found in whole["neurons"].items():
        assert pieces["neurons"][neuron]["variance"] == pytest.approx(found["variance"])
        np.testing.assert_allclose(
            pieces["neurons"][neuron]["product"]["shares"], found["product"]["shares"], atol=1e-6
        )


def test_what_no_connection_is_left_of_is_not_told_of() -> None:
    context = untrained("S3")
    values = context.values()
    masks = full_masks(context.wiring, values)
    masks["weights.0"][:, [1, 5]] = False  # the second dimension, of the first and of the second token
    masks["weights.0"][2] = masks["weights.1"][:, 2] = False
    document = representation_report(context, values, masks)
    assert document["embedding"]["slots"] == [0, 2, 3]
    assert "hidden1:2" not in document["neurons"]


def test_a_planted_embedding_is_said_to_lie_where_it_lies() -> None:
    context = untrained("S4", width=3)
    table = context.dataset.group
    [part] = [part for part in representations(table) if part.name == "3-dimensional b"]
    values = context.values() | {"embedding": matrices(table, part)[:, :, 0] + 0.5}
    document = representation_report(context, values, full_masks(context.wiring, values))
    assert representations_statement(document).embedding == (
        "100% of the embedding’s variance lies in the 3-dimensional b representation, "
        "where random vectors would have 39%."
    )
    constant = context.values() | {"embedding": np.full((24, 3), 0.3)}
    document = representation_report(context, constant, full_masks(context.wiring, constant))
    assert representations_statement(document).embedding == "The embedding is the same for all elements."
    assert all(neuron.representation is None for neuron in neuron_representations(document))
    assert group_representations(document, list(document["neurons"])) is None


def document_of(**neurons: list[float]) -> dict:
    """A stored document of S3 with neurons of these shares of the sign and the 2-dimensional representation."""
    return {
        "group": {"order": 6, "abelian": False, "cyclic": False, "classes": []},
        "names": ["trivial", "sign", "2-dimensional"],
        "subspaces": [1, 1, 4],
        "embedding": None,
        "neurons": {
            name.replace("_", ":"): {"variance": 2.0, "product": {"shares": [0.0, *of], "variance": 1.0}}
            for name, of in neurons.items()
        },
    }


def test_a_layer_is_described_by_its_neurons_that_lie_in_one_representation() -> None:
    said = representations_statement(document_of(hidden1_0=[1.0, 0], hidden1_1=[0, 0.92], hidden2_3=[0.5, 0.5]))
    assert said.group == (
        "The group has 6 elements and is not abelian; it has 3 irreducible representations: "
        "trivial, sign and 2-dimensional."
    )
    assert said.layers == (
        "Both neurons of hidden1, averaged over pairs with the same product, have 92% or more of "
        "their variance in one representation: 1 in sign, 1 in 2-dimensional.",
        "The only neuron of hidden2, averaged over pairs with the same product, has less than 90% of its "
        "variance in each representation.",
    )
    assert said.embedding is None
    assert said.text == " ".join([said.group, *said.layers])


def test_a_module_is_described_by_the_variance_of_its_neurons_together() -> None:
    document = document_of(hidden1_0=[1.0, 0], hidden1_1=[0.5, 0.5])
    assert group_representations(document, ["input:0", "hidden1:0", "hidden1:1"]) == (0, 0.75, 0.25)
    assert module_representations(document, ["hidden1:0"]) == (
        "its hidden neurons, averaged over pairs with the same product, have 100% of their variance in "
        "the sign representation"
    )
    assert module_representations(document, ["input:0", "output:3"]) is None


def test_names_and_percentages_read_as_in_a_sentence() -> None:
    assert representation_names(["frequency 4"]) == "frequency 4"
    assert representation_names(["frequency 4", "frequency 11", "frequency 24"]) == "frequencies 4, 11 and 24"
    assert representation_names(["sign", "2-dimensional"]) == "the sign and the 2-dimensional representations"
    assert [percent(of) for of in (1.0, 0.99999, 0.9996, 0.9899, 0.5, 0.0)] == [
        "100%", "100%", "99.9%", "98%", "50%", "0%",
    ]  # fmt: skip


def test_other_data_have_none_and_too_much_work_is_told() -> None:
    data = table_data()
    network = build_network(MlpNetwork(hidden=[3]), data, generator=torch.Generator().manual_seed(0))
    context = AnalysisContext.of(network, data)
    assert representation_report(context, context.values(), full_masks(context.wiring, context.values())) is None


def test_too_much_work_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WORK", 1_000)
    context = untrained("S3")
    document = representation_report(context, context.values(), full_masks(context.wiring, context.values()))
    assert document["skipped"].startswith("too large: the work of all pairs would be")
    assert representations_statement(document).text == document["reading"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_multiplies_in_s4_keeps_each_first_neuron_in_one_representation(seed: int) -> None:
    spec = load_recipe("s4").spec.expanded()
    data = make_dataset(spec.dataset, seed=seed)
    training = Training.begin(spec, data, seed=seed)
    for _ in training.updates():
        pass
    evidence = gather_evidence(training.network, data, spec, seed=seed, nulls=0)
    document = evidence.document()["representations"]
    assert document["reading"] == representations_statement(document).text
    first = [neuron for neuron in neuron_representations(document) if neuron.neuron.startswith("hidden1:")]
    assert {neuron.representation for neuron in first} == {"2-dimensional", "3-dimensional a"}
    assert min(neuron.share for neuron in first) > 0.97 > PURE
    together = dict(zip(document["names"], document["embedding"]["together"]["shares"], strict=True))
    assert together["2-dimensional"] + together["3-dimensional a"] > 0.97
    # The groups by the embedding dimensions that the neurons read are those by representation.
    reads: dict[str, set[int]] = {neuron.neuron: set() for neuron in first}
    width = len(dict(evidence.network.named_parameters())["embedding"][0])
    for connection in evidence.graph.connections:
        if connection.target in reads:
            reads[connection.target].add(int(connection.source.partition(":")[2]) % width)
    of = {neuron.neuron: neuron.representation for neuron in first}
    for one in reads:
        for other in reads:
            assert of[one] == of[other] or not reads[one] & reads[other]
