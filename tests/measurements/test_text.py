"""The circuit of a question is found where it is known, and what is told of it adds up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bimt_engine.data.kinds.text import text_dataset
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.transformer import TransformerNetwork
from measurements import text
from measurements.text import (
    BEFORE,
    QUOTES,
    Question,
    examine_quotes,
    fewest_connections,
    find_circuit,
    like_groups,
    quote_pairs,
    ratios,
)

SPEC = TransformerNetwork(width=8, blocks=1)


def sources(count: int = 12):
    """Short programs with strings of both kinds."""
    draw = np.random.default_rng(0)
    for number in range(count):
        lines = []
        for line in range(60):
            quote, word = "'\""[draw.integers(2)], "abcdefgh"[: draw.integers(2, 8)]
            lines.append(f"value{line} = {quote}{word}{quote} + name\n")
        yield f"file{number}.py", "".join(lines).encode()


@pytest.fixture(scope="module")
def data():
    return text_dataset(list(sources()), context=64, shares=(0.6, 0.2), seed=0)


@pytest.fixture(scope="module")
def network(data) -> Network:
    """One whose hidden neurons 0 and 1 tell the two quotes apart, by hand; attention averages over all before."""
    built = build_network(SPEC, data, precision="float32", generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.mul_(0.01)
            if name.endswith("bias"):
                parameter.zero_()
        built.read_in.weight[0, QUOTES[0]], built.read_in.weight[0, QUOTES[1]] = -4.0, 4.0
        built.attend[0].weight[16, 0] = 8.0  # value 0 of the one head reads the stream's neuron 0
        built.gather[0].weight[1, 0] = 8.0
        built.read_out.weight[QUOTES[0], 1], built.read_out.weight[QUOTES[1], 1] = -0.1, 0.1
    return built


def test_a_pair_differs_in_the_quote_that_opened_the_last_string(data) -> None:
    pairs = quote_pairs(data, ("train", "validation"), 20, seed=0)
    assert pairs.single.shape == (20, BEFORE)
    apart = pairs.single != pairs.double
    assert (apart.sum(dim=1) == 1).all()
    for single, double, place in zip(pairs.single, pairs.double, apart.int().argmax(dim=1).tolist(), strict=True):
        assert (int(single[place]), int(double[place])) == tuple(QUOTES)
        rest = bytes(single[place + 1 :].tolist())
        assert rest
        assert rest.isalpha(), "right before the string is closed"
    again = quote_pairs(data, ("train", "validation"), 20, seed=0)
    assert torch.equal(pairs.single, again.single)
    with pytest.raises(ValueError, match="fewer than 100000"):
        quote_pairs(data, ("test",), 100_000, seed=0)


def test_a_part_whose_connections_all_are_kept_is_the_network_and_none_is_chance(network, data) -> None:
    pairs = quote_pairs(data, ("train",), 16, seed=0)
    question = Question(network, pairs)
    everything = question.all()
    single, double = question.margins(everything)
    scores = network(torch.cat([pairs.single, pairs.double]))[:, -1].detach()
    above = scores[:, QUOTES[1]] - scores[:, QUOTES[0]]
    torch.testing.assert_close(torch.cat([-single, double]), above)
    nothing = {name: torch.zeros_like(mask) for name, mask in everything.items()}
    assert float(question.loss(nothing)) == pytest.approx(math.log(2), abs=1e-6)


def test_the_circuit_that_was_put_in_is_found(network, data) -> None:
    circuit = find_circuit(Question(network, quote_pairs(data, ("train",), 32, seed=0)))
    kept = {name: mask.nonzero().tolist() for name, mask in circuit.items() if mask.any()}
    # One of the two is enough where the other may carry its mean.
    assert {tuple(connection) for connection in kept.pop("read_in.weight")} <= {(0, quote) for quote in QUOTES}
    assert [16, 0] in kept["attend.0.weight"]
    assert [1, 0] in kept["gather.0.weight"]
    assert sum(map(len, kept.values())) <= 8


def test_what_is_told_of_a_circuit(network, data, monkeypatch) -> None:
    monkeypatch.setattr(text, "PAIRS", 24)
    told = examine_quotes(network, data, seed=0, groups=19)
    assert told["edges"] <= 10
    assert 0.8 < told["sufficiency"] < 1.2
    assert told["necessity"] > 0.9
    assert abs(told["random_sufficiency"]) < 0.5
    assert told["random_necessity"] <= told["necessity"]
    assert told["p_sufficiency"] == 0.05
    assert told["network"]["accuracy"] == 1


def test_a_network_that_does_not_know_has_no_circuit(data, monkeypatch) -> None:
    monkeypatch.setattr(text, "PAIRS", 24)
    ignorant = build_network(SPEC, data, precision="float32", generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ignorant.read_out.weight.zero_()
    told = examine_quotes(ignorant, data, seed=0, groups=2)
    assert told["edges"] is None
    assert told["sufficiency"] is None


def test_random_groups_are_as_large_in_every_layer(network, data) -> None:
    question = Question(network, quote_pairs(data, ("train",), 8, seed=0))
    circuit = {
        name: torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.1
        for name, mask in question.all().items()
    }
    first, second = like_groups(question, circuit, 2, seed=0)
    for name, mask in circuit.items():
        assert int(first[name].sum()) == int(second[name].sum()) == int(mask.sum())
    assert any(not torch.equal(first[name], second[name]) for name in circuit)


def test_connections_that_carry_nothing_are_not_counted(network, data) -> None:
    found = fewest_connections(network, data, seed=0)
    assert found["all"] == sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
    assert found["own"] < found["all"]
    assert found["dense"] == found["own"]
    strict = fewest_connections(network, data, seed=0, dense=found["reference"] / 2)
    assert strict["dense"] is None


def test_ratios_are_to_the_dense_network_of_the_same_seed() -> None:
    def told(loss: float, own: int, edges: int | None) -> dict:
        losses = {"validation_prediction_loss": loss, "test_prediction_loss": loss}
        return losses | {"pruned": {"own": own, "dense": None}, "quotes": {"edges": edges}}

    methods = {
        "vanilla": {"0": told(2.0, 100, 50), "1": told(4.0, 200, None)},
        "bimt": {"0": told(3.0, 10, 5), "1": told(4.0, 20, 7)},
    }
    found = ratios(methods)
    assert found["vanilla"]["validation_loss"] == [1.0, 1.0]
    assert found["bimt"]["validation_loss"] == [1.5, 1.0]
    assert found["bimt"]["connections_own"] == [0.1, 0.1]
    assert found["bimt"]["circuit_edges"] == [0.1, None]
    assert found["bimt"]["connections_dense"] == [None, None]
    json.dumps(found)
