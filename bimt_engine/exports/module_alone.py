"""One module, or one group inside a module, as a network of its own: its neurons, what it reads and what it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from bimt_engine.data.dataset import Answer, Dataset, Scaling
from bimt_engine.errors import BimtError
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import weights_file
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.wiring import Chain
from bimt_engine.spec import Spec


class ModuleAloneError(BimtError):
    """These neurons cannot stand alone."""


@dataclass(frozen=True)
class ModuleAlone:
    """A module that can be called, kept and exported as any other network.

    network   reads the module's inputs in the order of `data.feature_names`, gives its outputs in that of
              `data.target_names`; each exactly what the whole network gives.
    trained   the same neurons of the network as it was trained, with all the weights between them.
    spec      the whole one's, with the network part cut down; its data part still describes the whole table.
    data      shape and names of the data, with no rows. Of classes, the scores are given, as numbers.
    """

    network: Network
    trained: Network
    spec: Spec
    data: Dataset

    def weights(self, *, seed: int) -> bytes:
        """The module as a weights file, which `load_weights` reads as it reads any other."""
        return weights_file(self.trained, self.network, spec=self.spec, seed=seed, dataset=self.data)

    def onnx(self, about: Mapping[str, str] | None = None) -> bytes:
        """The module for other programs: the raw columns that it reads in, the targets that it decides out."""
        return onnx_file(self.network, self.data, about)


def module_alone(
    network: Network, dataset: Dataset, spec: Spec, neurons: Sequence[str], *, trained: Network | None = None
) -> ModuleAlone:
    """Cut a module out of a pruned network.

    dataset   shape and names suffice; rows are not looked at.
    neurons   ids of all its places, ends included, as the evidence lists them.
    trained   the network as training left it, its neurons in the same slots; None: the pruned one again.
    Raises ModuleAloneError for networks other than perceptrons, and for neurons that are not a module.
    """
    return _cut(network, dataset, spec, _places(network, neurons), trained, contribution=False)


def group_alone(
    network: Network, dataset: Dataset, spec: Spec, neurons: Sequence[str], *, trained: Network | None = None
) -> ModuleAlone:
    """Cut a group of hidden neurons out of a pruned network, with the inputs it reads and the outputs it leads to.

    What it gives is its contribution to these outputs, without their bias and mean: where the outputs add up what
    several groups give, the contributions of all and what the network gives for no group sum to its prediction.

    neurons   ids of hidden neurons; the other parameters are those of `module_alone`.
    Raises ModuleAloneError also where the group has no neuron in the last hidden layer, because later layers then
    combine what it computes with what others do.
    """
    chain = _chain(network)
    places = _places(network, neurons)
    inner = network.wiring.hidden_layers
    if not inner or not places[inner[-1].name].any():
        raise ModuleAloneError(
            "Only a group that reaches the last hidden layer can stand alone: of this one, later layers combine what "
            "it computes with what other groups do. Export its whole module."
        )
    values = {name: parameter.detach().cpu().numpy() for name, parameter in network.named_parameters()}
    first, last = chain.weights[0], chain.weights[-1]
    places["input"] = (values[first][places[inner[0].name]] != 0).any(axis=0)
    places["output"] = (values[last][:, places[inner[-1].name]] != 0).any(axis=1)
    return _cut(network, dataset, spec, places, trained, contribution=True)


def _cut(
    network: Network,
    dataset: Dataset,
    spec: Spec,
    places: dict[str, np.ndarray],
    trained: Network | None,
    *,
    contribution: bool,
) -> ModuleAlone:
    chain = _chain(network)
    width = network.wiring.input_layer.neurons
    if chain.embedding is not None:
        tokens = np.flatnonzero(places["input"].reshape(chain.copies, width).any(axis=1))
        live = np.flatnonzero(places["input"].reshape(chain.copies, width).any(axis=0))
        columns = np.concatenate([live + copy * width for copy in tokens])
        read = tokens
    else:
        first = network.wiring.input_layer
        live = columns = np.flatnonzero(first.whole_runs(places["input"]))
        read = network.input_order.cpu().numpy()[live]
        if first.runs:  # columns of the table in their own order, for the lengths of the runs follow it
            live = columns = live[np.argsort(read)]
            read = np.sort(read)
    after = network.wiring.neuron_layers[1:]
    kept = [columns, *(np.flatnonzero(places[layer.name]) for layer in after)]
    decided = network.output_order.cpu().numpy()[kept[-1]]
    if any(len(slots) == 0 for slots in kept):
        raise ModuleAloneError("These neurons are no module: a module has some in every layer, inputs and outputs too.")
    data = _cut_data(dataset, np.sort(read), np.sort(decided), contribution=contribution)
    ends = [live, *kept[1:]]
    coordinates = [
        layer.positions.double().numpy()[slots].tolist()
        for layer, slots in zip(network.wiring.neuron_layers, ends, strict=True)
    ]
    asked = MlpNetwork(
        hidden=[len(slots) for slots in kept[1:-1]],
        activation=chain.activation,
        embedding_width=len(live) if chain.embedding is not None else None,
        coordinates=coordinates,
    )
    cut = spec.model_copy(update={"network": asked})
    orders = {"output": _ranks(decided)} | ({} if chain.embedding is not None else {"input": _ranks(read)})

    def built(whole: Network) -> Network:
        return _filled(asked, data, whole, kept, live, orders, contribution=contribution)

    return ModuleAlone(built(network), built(trained if trained is not None else network), cut, data)


def _filled(
    asked: MlpNetwork,
    data: Dataset,
    whole: Network,
    kept: list[np.ndarray],
    live: np.ndarray,
    orders: dict[str, Tensor],
    *,
    contribution: bool,
) -> Network:
    """The small network with the whole one's weights between the kept places; a contribution has no output bias."""
    small = build_network(asked, data, precision="float64", generator=torch.Generator().manual_seed(0))
    values = {name: parameter.detach().double().cpu() for name, parameter in whole.named_parameters()}
    parts = [torch.from_numpy(slots) for slots in kept]
    cut: dict[str, Tensor] = {}
    for number, (before, after) in enumerate(pairwise(parts)):
        cut[f"weights.{number}"] = values[f"weights.{number}"][after][:, before]
        cut[f"biases.{number}"] = values[f"biases.{number}"][after]
    if contribution:
        last = f"biases.{len(parts) - 2}"
        cut[last] = torch.zeros_like(cut[last])
    if "embedding" in values:
        cut["embedding"] = values["embedding"][:, torch.from_numpy(live)]
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            parameter.copy_(cut[name])
    small.adopt_orders(orders)
    return small.eval()


def _chain(network: Network) -> Chain:
    chain = network.wiring.chain
    if chain is None:
        raise ModuleAloneError(
            "Only a module of a perceptron can stand alone: in this network all blocks share one stream."
        )
    return chain


def _places(network: Network, neurons: Sequence[str]) -> dict[str, np.ndarray]:
    sizes = {layer.name: layer.places for layer in network.wiring.neuron_layers}
    places = {name: np.zeros(size, bool) for name, size in sizes.items()}
    for identifier in neurons:
        layer, _, slot = identifier.rpartition(":")
        if layer not in sizes or not slot.isdecimal() or int(slot) >= sizes[layer]:
            raise ModuleAloneError(f"There is no neuron {identifier!r} in this network.")
        places[layer][int(slot)] = True
    return places


def _cut_data(dataset: Dataset, read: np.ndarray, decided: np.ndarray, *, contribution: bool) -> Dataset:
    """The shape of the data that the module sees: the columns it reads, the targets it decides, and no rows.

    A contribution is a part of a sum: it has the unit of the target, and not its mean.
    """
    columns, targets = read.tolist(), decided.tolist()
    inputs = np.zeros((0, len(columns)), dataset.train_inputs.dtype)
    answers = np.zeros((0, len(targets)))
    scaling = _cut_scaling(dataset.target_scaling, targets)
    return replace(
        dataset,
        train_inputs=inputs,
        train_targets=answers,
        test_inputs=inputs,
        test_targets=answers,
        validation_inputs=None,
        validation_targets=None,
        task="regression",
        feature_names=tuple(dataset.feature_names[i] for i in columns),
        encoding=dataset.encoding
        and dataset.encoding.only([dataset.column_names[n] for n in set(dataset.column_of[columns].tolist())]),
        target_names=tuple(dataset.target_names[i] for i in targets),
        input_scaling=_cut_scaling(dataset.input_scaling, columns),
        target_scaling=_without_mean(scaling) if contribution and scaling else scaling,
        answers=_cut_answers(dataset, targets, contribution=contribution),
    )


def _cut_answers(dataset: Dataset, targets: list[int], *, contribution: bool) -> tuple[Answer, ...]:
    """Each output as a column of its own; a logarithm is undone but of a part of a sum."""
    whole = {place.start: answer for answer, place in zip(dataset.answers, dataset.answer_places, strict=True)}
    if not dataset.answers:
        return ()
    return tuple(
        whole[i] if i in whole and whole[i].median is not None and not contribution else Answer(dataset.target_names[i])
        for i in targets
    )


def _cut_scaling(scaling: Scaling | None, columns: list[int]) -> Scaling | None:
    return scaling and Scaling(scaling.mean[columns], scaling.std[columns])


def _without_mean(scaling: Scaling) -> Scaling:
    return Scaling(np.zeros_like(scaling.mean), scaling.std)


def _ranks(numbers: np.ndarray) -> Tensor:
    """The neuron in each slot, numbered again over those that are left: (7, 2, 5) -> (2, 0, 1)."""
    return torch.from_numpy(np.argsort(np.argsort(numbers)))
