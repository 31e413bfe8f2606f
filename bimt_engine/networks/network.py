"""A network: named parameters, a wiring, which neuron is in which slot, and its architecture's computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.networks.architecture import Architecture
from bimt_engine.networks.wiring import Wiring

ActivationHook = Callable[[str, Tensor], Tensor]
"""`hook(neuron layer, activation in slot order)` returns the activation that flows on in its place."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class Tap:
    """What an architecture passes every activation through, so that hooks can replace and record it.

    hook          None: activations are left as they are.
    activations   neuron layer -> its activation when it was last seen; None: nothing is recorded.
    """

    hook: ActivationHook | None = None
    activations: dict[str, Tensor] | None = field(default_factory=dict)

    def __call__(self, layer: str, activation: Tensor) -> Tensor:
        """Replace and record an activation on its way."""
        return self.record(layer, self.replace(layer, activation))

    def replace(self, layer: str, activation: Tensor) -> Tensor:
        """Only what the hook makes of it: for a part of an activation, such as one time step."""
        return activation if self.hook is None else self.hook(layer, activation)

    def record(self, layer: str, activation: Tensor) -> Tensor:
        """Only record it: for a whole whose parts have been through `replace`."""
        if self.activations is not None:
            self.activations[layer] = activation
        return activation


PASS_THROUGH = Tap(activations=None)


class ParameterGroup(nn.Module):
    """The parameters whose names begin alike: `network.weights[0]` is `weights.0`."""

    if TYPE_CHECKING:  # members are found by name; torch calls each of them a tensor or a module

        def __getattr__(self, name: str) -> Any: ...

    def __getitem__(self, number: int) -> Any:
        """The member of this number."""
        return getattr(self, str(number))

    def __setitem__(self, number: int, value: Tensor) -> None:
        """Put a parameter in the place of a member."""
        setattr(self, str(number), value)

    def __len__(self) -> int:
        """How many members there are."""
        return len(self._parameters) + len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        """All members in the order in which they were named."""
        return iter([*self._parameters.values(), *self._modules.values()])


class Network(nn.Module):
    """A network that knows its wiring. Its parameters lie in slot order; inputs and outputs are in that of the data.

    architecture   what it was built from, and how it computes.
    wiring         what relocation, cost, pruning and every analysis read about it.
    parameters     name -> tensor, in the order of θ. Dots in a name make groups. A running statistic, which a port of
                   the wiring marks as a buffer, is a parameter that takes no gradient: it lies in θ with the others, so
                   replicas, checkpoints, relocation and weights files treat it as they treat all.
    joins          weight matrix -> which of its entries are connections, where some never are: of a grouped convolution
                   those between groups, of one input among several those from the others. They are 0, and stay so.
    orders         neuron layer name -> int64 buffer, order[slot] = the initial slot of the neuron in it. For inputs and
                   outputs that is the number of the feature or target. Integers: no optimiser changes them.
    Raises ValueError where a parameter is not as long as a port of the wiring says.
    """

    if TYPE_CHECKING:  # parameters and groups are found by name; torch calls each of them a tensor or a module

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, architecture: Architecture, wiring: Wiring, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        _check_sizes(wiring, parameters)
        self.architecture = architecture
        self.wiring = wiring
        self.joins: Mapping[str, Bool[Tensor, "targets sources"]] = {}
        statistics = wiring.buffers
        for name, value in parameters.items():
            group: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if step not in group._modules:
                    group.add_module(step, ParameterGroup())
                group = group.get_submodule(step)
            group.register_parameter(last, nn.Parameter(value, requires_grad=name not in statistics))
        for layer in wiring.neuron_layers:
            self.register_buffer(f"order_{layer.name}", torch.arange(layer.neurons))
        self.eval()  # a training that knows of batches says so

    @property
    def kind(self) -> str:
        """The kind of its architecture, as in a spec."""
        return self.architecture.kind

    @property
    def orders(self) -> dict[str, Int64[Tensor, " _"]]:
        """Which neuron sits in which slot, by neuron layer."""
        return {layer.name: getattr(self, f"order_{layer.name}") for layer in self.wiring.neuron_layers}

    @property
    def input_order(self) -> Int64[Tensor, " inputs"]:
        """Which neuron sits in which slot of the first neuron layer."""
        return getattr(self, f"order_{self.wiring.input_layer.name}")

    @property
    def output_order(self) -> Int64[Tensor, " outputs"]:
        """Which neuron sits in which slot of the last neuron layer."""
        return getattr(self, f"order_{self.wiring.output_layer.name}")

    def adopt_orders(self, orders: Mapping[str, Int64[Tensor, " _"]]) -> None:
        """From now on these tensors are the orders; they are not copied."""
        for name, order in orders.items():
            setattr(self, f"order_{name}", order)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the order of the data's targets."""
        return self.architecture.compute(self, x, PASS_THROUGH)

    def forward_with_hooks(self, x: Tensor, hook: ActivationHook | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs, and the activation of every neuron layer when it was last seen, its axes as the wiring declares.

        A hook is called for an activation whenever it has changed (a residual stream after each block, a recurrent
        layer at each time step), and what it returns flows on.
        """
        tap = Tap(hook)
        outputs = self.architecture.compute(self, x, tap)
        assert tap.activations is not None
        return outputs, tap.activations

    def permute_inputs(self, x: Tensor) -> Tensor:
        """Inputs in the order of the data -> in slot order, along the last axis."""
        return x.index_select(-1, self.input_order)

    def permute_outputs(self, y: Tensor) -> Tensor:
        """Outputs in slot order -> in the order of the data, along the last axis."""
        return y.index_select(-1, torch.argsort(self.output_order))


def _check_sizes(wiring: Wiring, parameters: Mapping[str, Tensor]) -> None:
    for layer in wiring.neuron_layers:
        for port in layer.ports:
            if port.parameter not in parameters:
                raise ValueError(f"neuron layer {layer.name!r}: there is no parameter {port.parameter!r}")
            shape, length = tuple(parameters[port.parameter].shape), port.copies * layer.neurons
            if len(shape) <= port.axis or shape[port.axis] != length:
                raise ValueError(
                    f"neuron layer {layer.name!r}: axis {port.axis} of {port.parameter!r} must have {length} entries, "
                    f"but its shape is {shape}"
                )


@dataclass(frozen=True)
class Draw:
    """Draws initial parameters as `nn.Linear` does: uniform within ±1/√fan_in.

    Drawn at float64 whatever the precision, so that a float32 run starts where a float64 run of the same seed does.
    """

    dtype: torch.dtype
    generator: torch.Generator

    def uniform(self, *shape: int, fan_in: int) -> Float[Tensor, "*_"]:
        """A weight or a bias of neurons that each read `fan_in` numbers."""
        drawn = torch.rand(shape, dtype=torch.float64, generator=self.generator)
        return ((2 * drawn - 1) / math.sqrt(fan_in)).to(self.dtype)

    def normal(self, *shape: int) -> Float[Tensor, "*_"]:
        """An embedding: standard normal."""
        return torch.randn(shape, dtype=torch.float64, generator=self.generator).to(self.dtype)

    def full(self, *shape: int, value: float) -> Float[Tensor, "*_"]:
        """What starts at one value, such as the gain of a norm; nothing is drawn."""
        return torch.full(shape, value, dtype=self.dtype)


def build_network(
    spec: Architecture,
    dataset: Dataset,
    *,
    precision: Literal["float32", "float64"] = "float64",
    generator: torch.Generator,
) -> Network:
    """A freshly drawn network that fits the data, on the CPU. Raises SpecError when the two do not fit."""
    return spec.build(dataset, Draw(DTYPES[precision], generator))


# --- in the units of the data -----------------------------------------------------------------------


def in_units_of_data(network: Network, data: Dataset, x: Tensor) -> Tensor:
    """The network's answers to rows as they stand in the data: targets, or of classes the probabilities.

    data   shape, names and scalings; no rows are looked at
    x      float64 numbers or int64 tokens; of a table whose columns are encoded, codes (data/encoding.py). Numbers are
           scaled at float64 and computed with at the network's precision, so that a column such as a date in seconds
           keeps its digits.
    Gives float64, of sequences the predicted steps only.
    """
    if data.encoding is not None:
        x = data.encoding.apply(x, torch)
    if data.tokens is None:
        x = _to(_standardised(x, data.input_scaling), next(network.parameters()).dtype)
    outputs = network(x)
    if data.predicted_positions is not None:
        outputs = outputs.index_select(1, _steps(data, outputs.shape[1]))
    if data.task == "classification":
        outputs = torch.softmax(outputs, -1)
    outputs = _to(outputs, torch.float64)
    if data.target_scaling is not None:
        mean, std = _tensors(data.target_scaling)
        outputs = outputs * std + mean
    if any(answer.median is not None for answer in data.answers):
        outputs = torch.stack([_undone(data, outputs, at) for at in range(data.targets)], -1)
    return outputs


def _undone(data: Dataset, outputs: Tensor, at: int) -> Tensor:
    """One output (N,) with the logarithm of its column undone, if it has one."""
    for answer, place in zip(data.answers, data.answer_places, strict=True):
        if answer.median is not None and place.start == at:
            return (torch.exp(outputs[:, at]) - torch.tensor(1.0, dtype=torch.float64)) * torch.tensor(
                answer.median, dtype=torch.float64
            )
    return outputs[:, at]


def _standardised(x: Tensor, scaling: Scaling | None) -> Tensor:
    if scaling is None:
        return x
    mean, std = _tensors(scaling)
    return (x - mean) / std


def _tensors(scaling: Scaling) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(scaling.mean), torch.from_numpy(scaling.std)


def _steps(data: Dataset, time: int) -> Tensor:
    """Which steps are predicted, counted from the first."""
    return torch.tensor([step % time for step in data.predicted_positions or ()])


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)
