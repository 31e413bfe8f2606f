"""The exported graph of a module, and the walk through it that gives every axis of every tensor an identity."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bimt_engine.errors import BimtError
from bimt_engine.networks.attach.axes import Axes, Axis, axis, pin, pinned_axis, unify

FEW_EXAMPLES = 3  # in the export, where the user gives one: a batch of one is taken for a constant


class AttachError(BimtError):
    """The network cannot be attached: what is in the way, and what to do."""


@dataclass(frozen=True)
class WeightUse:
    """A product with a tensor that depends on parameters alone: where a weight layer is found.

    weight        the tensor: a parameter as it is, or what is computed from several (weight norm).
    rows, columns the axes of the weight that run along the targets and along the sources; all others are copies
                  (kernel taps).
    source        the axis of the activation that is contracted. With groups it is longer than the weight's columns.
    groups        of a grouped convolution: rows of group g read the columns of group g alone.
    reads         the activation that is read; made: what the product gives; None: inside an operator (recurrence).
    bias          added to the targets; None: nothing is.
    """

    weight: fx.Node
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    source: Axis
    groups: int = 1
    reads: fx.Node | None = None
    made: fx.Node | None = None
    bias: fx.Node | None = None
    roles: tuple[str, ...] = ()


@dataclass
class Walk:
    """The axes of every tensor of an exported graph, found by going through it once, forward.

    values     node -> axes of its tensor, or a list of those where it gives several.
    uses       every product with a weight, in the order of the computation.
    parameters nodes that are parameters or buffers, or are computed from these alone.
    inputs     nodes that depend on an input.
    scores     products of two activations -> the axis that is contracted there.
    attentions the axis that queries and keys share, and that of the values which their scores weigh.
    """

    values: dict[fx.Node, Any] = field(default_factory=dict)
    uses: list[WeightUse] = field(default_factory=list)
    parameters: set[fx.Node] = field(default_factory=set)
    inputs: set[fx.Node] = field(default_factory=set)
    scores: dict[fx.Node, Axis] = field(default_factory=dict)
    attentions: list[tuple[Axis, Axis]] = field(default_factory=list)

    def visit(self, node: fx.Node, rules: Mapping[str, Rule]) -> None:
        """Apply the operator's rule; without one, pin every axis that it reads and makes."""
        read = node.all_input_nodes
        if any(n in self.inputs for n in read):
            self.inputs.add(node)
        elif any(n in self.parameters for n in read):
            self.parameters.add(node)
        name = operator_name(node)
        rule = rules.get(name)
        try:
            self.values[node] = rule(self, node) if rule is not None else unknown(self, node)
        except NotCovered as why:
            self.values[node] = unknown(self, node, f" ({why})" if str(why) else "")

    def axes(self, node: Any) -> Axes:
        """The axes of a node's tensor; of a number, none."""
        return self.values.get(node) or [] if isinstance(node, fx.Node) else []

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether a node gives one tensor."""
        value = self.values.get(node)
        return isinstance(value, list) and all(isinstance(one, tuple) for one in value)

    def is_weight(self, node: Any) -> bool:
        """Whether a node depends on parameters and on no input."""
        return isinstance(node, fx.Node) and node in self.parameters

    def add_use(self, use: WeightUse) -> None:
        """Note a product with a weight. The same weight at a second place is the same weight layer."""
        self.uses.append(use)

    def add_bias(self, made: fx.Node, bias: fx.Node) -> None:
        """What is added to a product that has no bias yet is its bias."""
        for number, use in enumerate(self.uses):
            if use.made is made and use.bias is None:
                self.uses[number] = WeightUse(**{**use.__dict__, "bias": bias})


class NotCovered(Exception):
    """A form of a known operator that its rule does not cover."""


Rule = Callable[[Walk, fx.Node], Any]
"""What an operator does: its node's axes, or a list of those where it gives several tensors."""


def operator_name(node: fx.Node) -> str:
    """The operator's name as in the table: that of ATen without overload, and without the mark for in place."""
    if node.target is operator.getitem:
        return "getitem"
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", str(node.target))
    space, _, name = schema.name.partition("::")
    if space != "aten":
        return str(schema.name)
    return name.rstrip("_") if name != "_" and not name.startswith("__") else name


def where(node: fx.Node) -> str:
    """The operator and the module that it stands in, for reasons."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = next((entry[0] for entry in reversed(stack) if entry[0] and not entry[0].startswith("_")), "")
    return f"`{operator_name(node)}` in {path or 'the network itself'}"


def sizes(node: fx.Node) -> list[int]:
    """The sizes of a node's tensor in the example. Raises AttachError where they depend on the data."""
    return [hint_of(size, node) for size in node.meta["val"].shape]


def hint_of(size: Any, node: fx.Node) -> int:
    """One size in the example. Raises AttachError where it depends on the data."""
    if isinstance(size, int):
        return size
    hint = getattr(getattr(size, "node", None), "hint", None)
    if hint is None:
        raise AttachError(
            f"The size of what {where(node)} gives depends on the data, so its axes cannot be followed: "
            "take that part out of the network, or give `wiring=` by hand."
        )
    return int(hint)


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments by name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    found = {argument.name: argument.default_value for argument in schema.arguments}
    for argument, value in zip(schema.arguments, node.args, strict=False):
        found[argument.name] = value
    return found | dict(node.kwargs)


def tensors_in(value: Any) -> Iterator[fx.Node]:
    """Every node among some arguments."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def dims_of(dim: Any, count: int) -> list[int]:
    """The axes that an argument names, counted from the first; all where it names none."""
    if dim is None or dim == []:
        return list(range(count))
    return [d % count for d in (dim if isinstance(dim, list | tuple) else [dim])]


def broadcast(many: Sequence[Axes], reason: str) -> Axes:
    """Axes of tensors of which smaller ones are repeated along larger ones, aligned at the end."""
    longest = max((len(axes) for axes in many), default=0)
    made: Axes = [()] * longest
    for axes in many:
        for number, one in enumerate(axes, start=longest - len(axes)):
            made[number] = unify(made[number], one, reason)
    return made


# --- for rules -------------------------------------------------------------------------------------


def unknown(walk: Walk, node: fx.Node, more: str = "") -> Any:
    """No rule: every axis is pinned."""
    reason = f"{where(node)} is not understood{more}"
    for read in node.all_input_nodes:
        for number, one in enumerate(axes_in(walk.values.get(read))):
            pin(one, f"{reason}: axis {number}")

    def fresh(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return [
                pinned_axis(hint_of(size, node), f"{reason}: axis {number}") for number, size in enumerate(value.shape)
            ]
        return [fresh(each) for each in value] if isinstance(value, list | tuple) else None

    return fresh(node.meta.get("val"))


def axes_in(value: Any) -> list[Axis]:
    """Every axis in a node's value."""
    if not isinstance(value, list):
        return []
    return [one for each in value for one in ([each] if isinstance(each, tuple) else axes_in(each))]


# --- the graph ---------------------------------------------------------------------------------------


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, by its first name: tied ones have one entry."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def exported(model: nn.Module, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The module as a graph, number of examples free where the module allows it.

    Raises AttachError where torch cannot export it.
    """
    given = tuple(_few(each) for each in example)
    free = tuple({0: torch.export.Dim.AUTO} if isinstance(each, Tensor) and each.dim() else None for each in given)
    failed: Exception | None = None
    for shapes in (free, None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(model, given, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch raises many kinds
            failed = error
    reason = str(failed).strip().splitlines()
    raise AttachError(
        f"torch.export cannot follow this network: {type(failed).__name__}: {reason[0] if reason else ''} "
        "Take what depends on the data out of its forward pass, or give `wiring=` by hand."
    ) from failed


def _few(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == 1:
        return value.expand(FEW_EXAMPLES, *value.shape[1:]).clone()
    return value


def doubled(value: Any) -> Any:
    """Numbers at float64 on the CPU; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value


def trained(model: nn.Module) -> frozenset[str]:
    """The parameters that take gradients; where none does, all are made to: torch's short cuts are not for export."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        model.requires_grad_(True)
        names = {name for name, _ in model.named_parameters()}
    return frozenset(names)


def walked(
    program: torch.export.ExportedProgram, model: nn.Module, rules: Mapping[str, Rule]
) -> tuple[Walk, dict[str, str], dict[str, Axes], fx.Node]:
    """The graph with axes; placeholder -> tensor's name; tensor's name -> its axes; the output node."""
    names, axes = _named_tensors(program, model)
    signature, walk = program.graph_signature, Walk()
    output: fx.Node | None = None
    for node in program.graph.nodes:
        if node.name in names:
            walk.values[node] = axes[names[node.name]]
            walk.parameters.add(node)
        elif node.op == "placeholder":
            _enter(walk, node, is_input=node.name in signature.user_inputs)
        elif node.op == "get_attr":
            walk.values[node] = None
        elif node.op == "output":
            wanted = [made for made in node.all_input_nodes if made.name in signature.user_outputs]
            for one in itertools.chain.from_iterable(map(walk.axes, wanted)):
                if isinstance(one, tuple):
                    pin(one, "the network's outputs keep the order of the data")
            output = wanted[0] if wanted else None
        else:
            walk.visit(node, rules)
    if output is None:
        raise AttachError("The network gives no tensor: return one from its forward pass.")
    return walk, names, axes, output


def _named_tensors(program: torch.export.ExportedProgram, model: nn.Module) -> tuple[dict[str, str], dict[str, Axes]]:
    """Placeholder of a parameter or buffer -> its name, one for a tensor that has several; that name -> its axes."""
    of = dict(program.graph_signature.inputs_to_parameters) | dict(program.graph_signature.inputs_to_buffers)
    every = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    unique = {id(tensor): name for name, tensor in tensors_of(model).items()}
    lasting = set(model.state_dict())
    names: dict[str, str] = {}
    axes: dict[str, Axes] = {}
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in of:
            continue
        stored = str(of[node.name])
        names[node.name] = name = unique.get(id(every.get(stored)), stored)
        if name not in axes:
            axes[name] = [axis(size) for size in sizes(node)]
            if stored not in lasting:
                for one in axes[name]:
                    pin(one, f"buffer {name} is made anew by the code and not saved")
    return names, axes


def _enter(walk: Walk, node: fx.Node, *, is_input: bool) -> None:
    """The axes of an input of the network, or of a constant; a number has none."""
    if not isinstance(node.meta.get("val"), Tensor):
        return
    if not is_input:
        walk.values[node] = [pinned_axis(size, f"constant {node.name}") for size in sizes(node)]
        return
    walk.inputs.add(node)
    walk.values[node] = [
        pinned_axis(size, f"the network's input {node.name} keeps the order of the data", copies=not number)
        for number, size in enumerate(sizes(node))
    ]
