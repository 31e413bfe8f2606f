"""What every architecture is: named parameters, a wiring, and who sits in which slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimt_engine.networks.wiring import Wiring

Edit = Callable[[str, Tensor], Tensor]
"""`edit(neuron layer, activation in slot order)` returns the activation that flows on in its place."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


class Network(nn.Module):
    """A network that knows its wiring.

    orders   neuron layer name -> int64 buffer, order[slot] = the neuron's identity from birth. For inputs and
             outputs the identity is the number of the feature or target. Integers: no optimiser ever sees them.
    A subclass computes `_compute(x, edit, seen)`; its parameters lie in slot order throughout, and its inputs and
    outputs are in the order of the data.
    """

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring
        for layer in wiring.neuron_layers:
            self.register_buffer(f"order_{layer.name}", torch.arange(layer.neurons))

    @property
    def orders(self) -> dict[str, Tensor]:
        return {layer.name: getattr(self, f"order_{layer.name}") for layer in self.wiring.neuron_layers}

    @property
    def input_order(self) -> Tensor:
        """Who sits in which slot of the first neuron layer."""
        return getattr(self, f"order_{self.wiring.neuron_layers[0].name}")

    @property
    def output_order(self) -> Tensor:
        """Who sits in which slot of the last neuron layer."""
        return getattr(self, f"order_{self.wiring.neuron_layers[-1].name}")

    def adopt_orders(self, orders: Mapping[str, Tensor]) -> None:
        """From now on these tensors are the orders; they are not copied."""
        for name, order in orders.items():
            setattr(self, f"order_{name}", order)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the order of the data's targets."""
        return self._compute(x, None, None)

    def run(self, x: Tensor, edit: Edit | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs in the order of the data's targets, and the activation of every neuron layer in slot order.

        The last axis of an activation runs over the slots; a folded layer has its copies on the axis before.
        """
        seen: dict[str, Tensor] = {}
        outputs = self._compute(x, edit, seen)
        return outputs, seen

    def _compute(self, x: Tensor, edit: Edit | None, seen: dict[str, Tensor] | None) -> Tensor:
        raise NotImplementedError

    def _enter(self, x: Tensor) -> Tensor:
        """Inputs in the order of the data -> in slot order."""
        return x.index_select(-1, self.input_order)

    def _leave(self, y: Tensor) -> Tensor:
        """Outputs in slot order -> in the order of the data."""
        return y.index_select(-1, torch.argsort(self.output_order))


def note(name: str, activation: Tensor, edit: Edit | None, seen: dict[str, Tensor] | None) -> Tensor:
    """Let an activation be edited and remembered on its way."""
    if edit is not None:
        activation = edit(name, activation)
    if seen is not None:
        seen[name] = activation
    return activation


def new_weight(rows: int, columns: int, *, dtype: torch.dtype, generator: torch.Generator) -> nn.Parameter:
    """A weight matrix as `nn.Linear` draws it: uniform within ±1/√columns."""
    return _uniform((rows, columns), columns, dtype, generator)


def new_bias(rows: int, columns: int, *, dtype: torch.dtype, generator: torch.Generator) -> nn.Parameter:
    """The bias beside such a matrix, drawn from the same range."""
    return _uniform((rows,), columns, dtype, generator)


def _uniform(shape: tuple[int, ...], fan_in: int, dtype: torch.dtype, generator: torch.Generator) -> nn.Parameter:
    # Drawn at float64 whatever the precision, so that a float32 run starts where its float64 twin does.
    drawn = torch.rand(shape, dtype=torch.float64, generator=generator)
    return nn.Parameter(((2 * drawn - 1) / math.sqrt(fan_in)).to(dtype))
