"""An attached module as a network of the engine: its exported graph, run with the parameters of the wiring.

Every analysis takes a `Network`: parameters by name, a wiring, activations through taps. Here its parameters are the
views of the module's tensors, and its computation is the exported graph, node by node, in evaluation mode. Taps are at
the nodes where a layer's activation was found to be made; what recurrent operators (`gru`, `lstm`) do inside from step
to step cannot be tapped, only what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Int64
from pydantic import PrivateAttr
from torch import Tensor, fx

from bimt_engine.networks.architecture import Architecture
from bimt_engine.networks.attach.attached import Attached
from bimt_engine.networks.attach.derive import RESHAPING, Derived
from bimt_engine.networks.attach.taps import TapPoint
from bimt_engine.networks.attach.views import View
from bimt_engine.networks.attach.walk import AttachError, arguments, operator_name, sizes, tensors_of
from bimt_engine.networks.network import ACTIVATIONS, Network, Tap
from bimt_engine.networks.wiring import Wiring

RESERVED = ("architecture", "wiring")


@dataclass(frozen=True)
class Rebuilt:
    """A tensor of the module, put together from parameters of the wiring.

    entries   of the parameters laid end to end, for each entry of the tensor.
    """

    parameters: tuple[str, ...]
    entries: Int64[Tensor, "*shape"]

    def value(self, network: Network) -> Tensor:
        """The tensor, differentiable in the network's parameters."""
        flat = torch.cat([network.get_parameter(name).reshape(-1) for name in self.parameters])
        return flat[self.entries.reshape(-1)].view(self.entries.shape)


@dataclass(frozen=True)
class Program:
    """What the exported graph needs to run.

    rebuilt     node -> the tensor that stands there: a parameter, or a weight that the module computes.
    constants   node -> a tensor that is no parameter of the wiring.
    points      node -> (neuron layer, its neurons, how its activation lies there).
    entered     the module's inputs; of several, rows of numbers that lie side by side in the engine's.
    joined      the neuron layer that all inputs together are; None: a node has it.
    """

    nodes: tuple[fx.Node, ...]
    entered: tuple[fx.Node, ...]
    output: fx.Node
    rebuilt: Mapping[fx.Node, Rebuilt]
    constants: Mapping[fx.Node, Any]
    points: Mapping[fx.Node, Sequence[tuple[str, int, TapPoint]]] = field(default_factory=dict)
    joined: str | None = None

    def run(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """The module's first output."""
        known: dict[fx.Node, Any] = dict(self.constants)
        shapes = [sizes(node)[1:] for node in self.entered]
        whole = x.flatten(1) if len(shapes) > 1 else x
        whole = whole if self.joined is None else tap(self.joined, whole)
        parts = whole.split([prod(shape) for shape in shapes], 1) if len(shapes) > 1 else (whole,)
        for node, part, shape in zip(self.entered, parts, shapes, strict=True):
            known[node] = self._tapped(node, part.reshape(x.shape[0], *shape), tap)
        for node in self.nodes:
            if node in known:
                continue
            if node in self.rebuilt:
                known[node] = self.rebuilt[node].value(network)
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            made = node.target(*args, **kwargs)  # type: ignore[operator]
            known[node] = self._tapped(node, made, tap)
        return known[self.output]

    def _tapped(self, node: fx.Node, made: Any, tap: Tap) -> Any:
        for layer, neurons, point in self.points.get(node, ()):
            here = point.apart(made, neurons)
            after = tap.record(layer, here) if point.records else tap(layer, here)
            made = made if after is here else point.together(after, made)
            if any(str(user.target).split(".")[-2:-1][0].endswith("_") for user in node.users if _called(user)):
                made = made.clone()  # what is recorded must not change when the graph goes on in place
        return made


def _called(node: fx.Node) -> bool:
    return node.op == "call_function" and str(node.target).count(".") > 1


class TracedArchitecture(Architecture):
    """The computation of an attached module; it is made by `network_of` and stands in no spec."""

    kind: Literal["attached"] = "attached"
    _program: Program | None = PrivateAttr(default=None)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> TracedArchitecture:
        """Itself: nothing in it changes."""
        return self

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """The exported graph with these parameters."""
        assert self._program is not None
        return self._program.run(network, x, tap)


def parameter_names(attached: Attached) -> dict[str, str]:
    """What `network_of` calls each parameter of the wiring."""
    names = {view.name: _name(view.name) for view in attached.views.views}
    if _perceptron(attached) is not None:  # called as the fast path for perceptrons calls them
        for number, w in enumerate(attached.wiring.weight_layers):
            names |= {w.parameter: f"weights.{number}", str(w.bias): f"biases.{number}"}
    return names


def network_of(attached: Attached) -> Network:
    """A network of the engine with the module's present weights, at float64; it is a copy.

    A module with several inputs that are rows of numbers reads them side by side in one. Raises AttachError for a
    wiring given by hand, other modules with several inputs, one whose number of examples is fixed, or a layer of which
    no activation is seen.
    """
    derived = attached.derived
    if derived is None:
        raise AttachError(
            "A wiring given by hand says nothing about activations: only cost and relocation work with it."
        )
    wiring = attached.wiring
    tensors = tensors_of(attached.model)
    views = attached.views.views
    activation = _perceptron(attached)
    names = parameter_names(attached)
    values = {names[name]: value.detach().cpu().double().clone() for name, value in attached.matrices().items()}
    renamed = _renamed(attached, names, activation)
    nodes = [
        n for n in derived.program.graph.nodes if n.op == "placeholder" or (n.op == "call_function" and _needed(n))
    ]
    entered = derived.given
    if len(entered) != 1 and derived.joined is None:
        raise AttachError(
            f"The network has {len(entered)} inputs, and an analysis follows one, or several that are each a row of "
            "numbers and are read by weights: give the others values, or lay them flat."
        )
    if any(isinstance(node.meta["val"].shape[0], int) for node in entered):
        raise AttachError(
            "The export fixed the number of examples, because the network computes with it: take examples from "
            "`x.shape[0]` alone, and give `attach` more than one."
        )
    if derived.layers[0].key == derived.layers[-1].key:
        raise AttachError(
            "The network's outputs are its inputs, changed (x + f(x)), so there is no layer of outputs to examine: "
            "add a linear layer at one end."
        )
    ends = [layer.name for layer in wiring.neuron_layers[1:-1] if not wiring.out_of(layer.name)]
    if ends:
        raise AttachError(
            f"No weights read the neuron layers {', '.join(ends)} (queries and keys of another size than the values?), "
            "so an analysis would take them for dead ends."
        )
    joined = next((layer.name for layer in derived.layers if layer.key == derived.joined), None)
    unseen = [layer.name for layer in derived.layers if not layer.points and layer.name != joined]
    if unseen:
        raise AttachError(f"No activation of the neuron layers {', '.join(unseen)} is seen in the graph.")
    rebuilt, constants = _sources(derived, views, names, tensors)
    points: dict[fx.Node, list[tuple[str, int, TapPoint]]] = {}
    for layer in derived.layers:
        for point in layer.points:
            points.setdefault(point.node, []).append((layer.name, layer.neurons, point))
    architecture = TracedArchitecture()
    architecture._program = Program(tuple(nodes), tuple(entered), derived.output, rebuilt, constants, points, joined)
    network = Network(architecture, renamed, values)
    network.joins = {names[view.name]: view.entries >= 0 for view in views if bool((view.entries < 0).any())}
    for name in wiring.buffers:
        network.get_parameter(names[name]).requires_grad_(False)
    return network


def _needed(node: fx.Node) -> bool:
    """Whether a node gives anything that is read: checks of shapes are left out."""
    return bool(node.users)


def _sources(
    derived: Derived, views: Sequence[View], names: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> tuple[dict[fx.Node, Rebuilt], dict[fx.Node, Any]]:
    """What stands at placeholders, and at weights that the module computes."""
    by_tensor: dict[str, list[View]] = {}
    for view in views:
        by_tensor.setdefault(view.tensor, []).append(view)
    rebuilt: dict[fx.Node, Rebuilt] = {}
    constants: dict[fx.Node, Any] = {}
    made = {
        of: _rebuilt(found, names, tensors[of].shape if found[0].weight is None else sizes(found[0].weight))
        for of, found in by_tensor.items()
    }
    for of, found in by_tensor.items():
        if found[0].weight is not None:
            rebuilt[found[0].weight] = made[of]
    signature = derived.program.graph_signature
    for node in derived.program.graph.nodes:
        if node.op != "placeholder" or node in derived.walk.inputs:
            continue
        of = derived.names.get(node.name, "")
        if of in made:
            rebuilt[node] = made[of]
        elif of:
            value = tensors[of].detach().cpu().clone()
            constants[node] = value.double() if value.is_floating_point() else value
        else:
            name = signature.inputs_to_lifted_tensor_constants.get(node.name)
            constants[node] = derived.program.constants[name] if name is not None else node.meta.get("val")
    return rebuilt, constants


def _rebuilt(views: Sequence[View], names: Mapping[str, str], shape: Sequence[int]) -> Rebuilt:
    """The inverse of some views that together are a whole tensor."""
    entries = torch.zeros(prod(shape), dtype=torch.int64)
    passed = 0
    for view in views:
        flat = view.entries.reshape(-1)
        there = flat >= 0
        entries[flat[there]] = passed + torch.arange(flat.numel())[there]
        passed += flat.numel()
    return Rebuilt(tuple(names[view.name] for view in views), entries.view(tuple(shape)))


def _perceptron(attached: Attached) -> str | None:
    """The activation function of a plain perceptron, as the engine calls it; None for any other network.

    Plain is: one matrix with one bias from layer to layer, the same known function between, and nothing else but
    dropout and changes of shape. Such a network has the fast path, exact refits and formulas.
    """
    derived, wiring = attached.derived, attached.wiring
    assert derived is not None
    node: Any = derived.output
    functions: set[str] = set()
    steps = 0
    while node.op != "placeholder":
        if operator_name(node) != "linear" or len(node.args) < 3:
            return None
        node, steps = _before(node), steps + 1
        if node.op != "placeholder":
            approximate = operator_name(node) == "gelu" and arguments(node).get("approximate") == "tanh"
            functions.add("gelu_tanh" if approximate else operator_name(node))
            if not functions <= ACTIVATIONS.keys():
                return None
            node = _before(node)
    layers, weights = wiring.neuron_layers, wiring.weight_layers
    chained = zip(weights, layers, layers[1:], strict=False)
    plain = steps == len(weights) == len(layers) - 1 and all(
        (w.source, w.target, w.source_copies, w.target_copies) == (source.name, target.name, 1, 1)
        and w.bias is not None
        for w, source, target in chained
    )
    return (
        next(iter(functions), "silu")
        if plain and len(functions) <= 1 and 2 * len(weights) == len(attached.views.views)
        else None
    )


def _before(node: fx.Node) -> Any:
    """What an operator of one input reads, dropout and changes of shape passed over."""
    here: Any = node.args[0]
    while here.op == "call_function" and operator_name(here) in RESHAPING | {"dropout", "clone"}:
        here = here.args[0]
    return here


def _name(name: str) -> str:
    """A parameter's name that the class Network has no member of."""
    first = name.split(".")[0]
    return f"model_{name}" if hasattr(Network, first) or first in RESERVED else name


def _renamed(attached: Attached, names: Mapping[str, str], activation: str | None) -> Wiring:
    """The wiring with these names of its parameters; a perceptron's says which function its layers apply."""
    wiring = attached.wiring
    ends = wiring.input_layer.name, wiring.output_layer.name
    layers = tuple(
        replace(
            layer,
            ports=tuple(replace(port, parameter=names[port.parameter]) for port in layer.ports),
            activation=None if activation is None else "identity" if layer.name in ends else activation,
        )
        for layer in wiring.neuron_layers
    )
    weights = tuple(
        replace(w, parameter=names[w.parameter], bias=None if w.bias is None else names[w.bias])
        for w in wiring.weight_layers
    )
    return replace(
        wiring, neuron_layers=layers, weight_layers=weights, embeddings=tuple(names[n] for n in wiring.embeddings)
    )
