"""All that changes while a network is trained: one flat vector for each replica, and the neuron in each slot.

`theta[r]` is every parameter of replica r, one after another. The network's own parameters are views of row 0,
so that a stepper works on flat memory and all else on named parameters, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bimt_engine.networks.network import Network


class Place(NamedTuple):
    """The range of one parameter in the flat vector."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return prod(self.shape)

    @property
    def slice(self) -> slice:
        """Its entries in the flat vector."""
        return slice(self.offset, self.offset + self.size)


Layout = tuple[Place, ...]


def layout_of(network: Network) -> Layout:
    """The parameters in the order of `network.named_parameters()`, end to end."""
    places, offset = [], 0
    for name, parameter in network.named_parameters():
        places.append(Place(name, offset, tuple(parameter.shape)))
        offset += parameter.numel()
    return tuple(places)


@dataclass
class TrainingState:
    """Weights, moments, mask and orders of R replicas of one network after `step` optimiser steps.

    theta          (R, P); the parameters of `network` are views of row 0.
    first_moment   (R, P) as Adam keeps it; second_moment the same.
    mask           (R, P) or None; False entries are 0 and stay exactly 0.
    orders         neuron layer name -> (R, neurons); order[slot] = the neuron's identity from birth.
                   The orders of `network` are views of row 0.
    orders_version rises whenever an order changes, so that a stepper knows when to gather its inputs again.
    """

    network: Network
    layout: Layout
    theta: Float[Tensor, "R P"]
    first_moment: Float[Tensor, "R P"]
    second_moment: Float[Tensor, "R P"]
    orders: dict[str, Int64[Tensor, "R _"]]
    mask: Bool[Tensor, "R P"] | None = None
    step: int = 0
    orders_version: int = field(default=0, compare=False)

    @classmethod
    def of(cls, networks: Network | Sequence[Network]) -> TrainingState:
        """The state of networks of one shape as replicas; the first one's parameters become views of `theta`."""
        replicas = [networks] if isinstance(networks, Network) else list(networks)
        layout = layout_of(replicas[0])
        with torch.no_grad():
            theta = torch.stack(
                [torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]) for net in replicas]
            )
        orders = {name: torch.stack([net.orders[name] for net in replicas]) for name in replicas[0].orders}
        state = cls(replicas[0], layout, theta, torch.zeros_like(theta), torch.zeros_like(theta), orders)
        state.bind()
        return state

    @property
    def replicas(self) -> int:
        """How many replicas there are."""
        return self.theta.shape[0]

    @property
    def size(self) -> int:
        """How many numbers one replica's parameters are."""
        return self.theta.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of the layout."""
        return tuple(place.name for place in self.layout)

    def bind(self, replica: int = 0) -> None:
        """Make the network's parameters and orders views of one row, row 0 by default."""
        parameters = dict(self.network.named_parameters())
        for place in self.layout:
            parameters[place.name].data = self.theta[replica, place.slice].view(place.shape)
        self.network.adopt_orders({name: order[replica] for name, order in self.orders.items()})

    @contextmanager
    def showing(self, replica: int) -> Iterator[Network]:
        """The network with the weights and orders of one replica within the block; afterwards it is row 0 again."""
        if replica:
            self.bind(replica)
        try:
            yield self.network
        finally:
            if replica:
                self.bind()

    def place(self, name: str) -> Place:
        """The range of a parameter. Raises KeyError that lists the names."""
        for place in self.layout:
            if place.name == name:
                return place
        raise KeyError(f"no parameter {name!r}; there are {', '.join(self.names)}")

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat tensor (P,) or (R, P); a leading replica axis is kept."""
        lead = flat.shape[:-1]
        return {place.name: flat[..., place.slice].view(*lead, *place.shape) for place in self.layout}

    def apply_mask(self) -> None:
        """Set masked weights and their moments to 0."""
        if self.mask is not None:
            for flat in (self.theta, self.first_moment, self.second_moment):
                flat.masked_fill_(~self.mask, 0.0)
