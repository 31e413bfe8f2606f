"""Neurons that read different functions of a token are separated whatever the basis of the embedding."""

import numpy as np
import pytest
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.modules.effects import Ablator
from bimt_engine.analysis.modules.nested import measure_reading, partitions_of
from bimt_engine.analysis.modules.structure import depths
from bimt_engine.analysis.modules.token_functions import COMMON, cut_apart, token_functions, weakest_cut
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.spec import Spec
from tests.engine.makers import build, token_data

TOKENS, WIDTH = 12, 4
WAVES = (1, 2)  # turns around the circle of tokens; each group of four neurons reads the waves of one


def planted(mixing, *, strayed=0.0):
    """Two groups of neurons, each over its own cosine and sine of the token; the embedding is these times `mixing`.

    strayed   this share of what every neuron reads is of the other group's functions.
    """
    data = token_data(TOKENS)
    network = build_network(
        MlpNetwork(hidden=[8], embedding_width=WIDTH), data, generator=torch.Generator().manual_seed(0)
    )
    angles = 2 * np.pi * np.outer(np.arange(TOKENS), WAVES) / TOKENS
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)[:, [0, 2, 1, 3]]
    read = np.zeros((8, 2, WIDTH))
    for neuron in range(8):
        phase = np.pi * (neuron % 4) / 4
        at = 2 * (neuron // 4)
        read[neuron, :, at : at + 2] = np.sqrt(1 - strayed) * np.array([np.cos(phase), np.sin(phase)])
        read[neuron, :, 2 - at : 4 - at] = np.sqrt(strayed) * np.array([np.cos(phase), np.sin(phase)])
    parameters = dict(network.named_parameters())
    wiring = network.wiring
    with torch.no_grad():
        parameters[wiring.embeddings[0]].copy_(torch.from_numpy(waves @ mixing))
        first = parameters[wiring.weight_layers[0].parameter]
        first.copy_(torch.from_numpy(read @ np.linalg.inv(mixing).T).reshape(first.shape))
    context = AnalysisContext.of(network, data)
    values = context.values()
    return context, network, {w.parameter: values[w.parameter] != 0 for w in wiring.weight_layers}


def neurons_of(groups):
    return sorted(tuple(np.flatnonzero(group.places["hidden1"]).tolist()) for group in groups)


@pytest.mark.parametrize("mixed", [False, True])
def test_groups_that_share_every_dimension_are_parted_by_what_they_read(mixed):
    mixing = np.random.default_rng(3).normal(size=(WIDTH, WIDTH)) if mixed else np.eye(WIDTH)
    context, network, masks = planted(mixing)
    (depth,) = depths(context.wiring, masks)
    assert len(depth.groups) == (1 if mixed else 2)  # by dimensions, mixing ties all of them
    functions = token_functions(network)
    groups = functions.split(depth)
    assert neurons_of(groups) == neurons_of(functions.tied(depth)) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    turned = functions.in_basis(network, functions.basis(groups))
    with torch.no_grad():
        inputs = torch.from_numpy(context.dataset.train_inputs)
        assert torch.allclose(turned(inputs), network(inputs), atol=1e-5)
    weights = dict(turned.named_parameters())[functions.weights].detach().numpy().reshape(8, 2, WIDTH)
    used = [np.abs(weights[list(group)]).max(axis=(0, 1)) > 1e-6 for group in neurons_of(groups)]
    assert not (used[0] & used[1]).any(), "in the new basis no dimension is read by both"
    assert all(of.any() for of in used)


def test_neurons_that_read_a_little_of_the_other_group_are_parted_though_some_two_are_alike():
    context, network, masks = planted(np.eye(WIDTH), strayed=0.03)
    (depth,) = depths(context.wiring, masks)
    functions = token_functions(network)
    assert neurons_of(functions.split(depth)) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert len(functions.tied(depth)) == 1, "pair by pair they are one group"


def test_neurons_that_read_as_much_of_both_are_one_group():
    context, network, masks = planted(np.eye(WIDTH), strayed=0.3)
    (depth,) = depths(context.wiring, masks)
    assert len(token_functions(network).split(depth)) == 1


@pytest.mark.parametrize("neurons", [3, 4, 7, 40])
def test_functions_of_one_frequency_in_all_phases_are_not_cut(neurons):
    phases = np.pi * np.arange(neurons) / neurons
    common = np.cos(phases[:, None] - phases) ** 2
    assert weakest_cut(common) is None
    assert cut_apart(common) == [list(range(neurons))]


def test_of_cuts_the_one_across_which_least_is_common_is_taken_and_what_has_nothing_stays_alone():
    common = np.kron(np.eye(3), np.ones((2, 2)))
    common[0:4, 0:4] += 0.05
    common = np.pad(common, (0, 1))
    assert cut_apart(common) == [[0, 1], [2, 3], [4, 5], [6]]
    assert cut_apart(common[:6, :6] + 0.5) == [[0, 1, 2, 3, 4, 5]]
    side = weakest_cut(common[:4, :4])
    across = common[:4, :4][np.ix_(side, ~side)].sum() / common[:4, :4][side].sum()
    assert across == pytest.approx(0.2 / 4.4)
    assert across < COMMON


@pytest.mark.parametrize(("version", "tied_by"), [(1, "functions"), (2, "functions"), (3, "common_functions")])
def test_specs_of_before_are_examined_by_their_own_rule(version, tied_by):
    context, network, _ = planted(np.eye(WIDTH))
    spec = Spec.model_validate(
        {
            "dataset": {"kind": "group", "group": f"Z{TOKENS}"},
            "network": {"kind": "mlp", "hidden": [8], "embedding_width": WIDTH},
            "evidence": {"random_groups": 0, "evidence_version": version},
        }
    )
    evidence = gather_evidence(network, context.dataset, spec, seed=0, nulls=0)
    assert evidence.document()["interior"]["tied_by"] == tied_by


def test_partitions_of_a_mixed_embedding_leak_nothing_between_groups():
    mixing = np.random.default_rng(3).normal(size=(WIDTH, WIDTH))
    context, network, masks = planted(mixing)
    ablators = Ablator(context, network, seed=0), Ablator(context, network, seed=0)
    proposed = depths(context.wiring, masks)
    found, partitions = partitions_of(*ablators, proposed, seed=0)
    assert neurons_of(found[0].groups) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert partitions, "the groups are told"
    assert all(partition.leak < 1e-6 for partition in partitions)
    group = proposed[0].groups[0]
    by_dimension = measure_reading(ablators[0], group.places, sorted(group.terminals))
    labels = [0] * 4 + [1] * 4
    assert by_dimension.leak(labels) > 0.1, "by dimensions the same groups would seem to read the same"


def test_documents_of_before_are_examined_by_dimensions():
    mixing = np.random.default_rng(3).normal(size=(WIDTH, WIDTH))
    context, network, masks = planted(mixing)
    ablators = Ablator(context, network, seed=0), Ablator(context, network, seed=0)
    found, partitions = partitions_of(*ablators, depths(context.wiring, masks), tied_by="dimensions", seed=0)
    assert (len(found[0].groups), partitions) == (1, [])


@pytest.mark.parametrize("name", ["mlp", "transformer", "recurrent"])
def test_networks_without_an_embedding_of_a_chain_have_no_such_functions(name):
    network, _ = build(name)
    assert token_functions(network) is None
