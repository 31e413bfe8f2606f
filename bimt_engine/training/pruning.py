"""Pruning during training: the weakest connections are removed for good, fewer and fewer at a time.

The network adapts between two removals, so that fewer connections are needed than when they are cut at the end. What is
removed stays at zero through the mask, which steppers, relocation and checkpoints honour. Pruning after training
(bimt_engine/analysis) is another question: how few connections keep the loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.errors import SpecError
from bimt_engine.networks.network import Network
from bimt_engine.spec import PruningSpec
from bimt_engine.training.batches import LOGGED_EXAMPLES, TensorData, widened
from bimt_engine.training.state import TrainingState


class Pruning:
    """Which entries of θ are connections, and how many of them are left at which step."""

    def __init__(self, state: TrainingState, data: TensorData, spec: PruningSpec) -> None:
        """Raises SpecError when the network has no more connections than are to be left."""
        self.state, self.data, self.spec = state, data, spec
        places = [state.place(weights.parameter) for weights in state.network.wiring.weight_layers]
        entries = [torch.arange(place.offset, place.offset + place.size) for place in places]
        self.entries = torch.cat(entries).to(state.theta.device)
        if spec.connections >= self.entries.numel():
            raise SpecError(
                f"`pruning.connections` is {spec.connections}, but the network has {self.entries.numel()} connections: "
                "ask for fewer, or leave `pruning` out."
            )

    def left(self, share: float) -> int:
        """How many connections are left when this share of the way is over."""
        more = self.entries.numel() - self.spec.connections
        return self.spec.connections + round(more * (1 - share) ** 3)

    def prune(self, share: float) -> None:
        """Remove the weakest connections of every replica, down to as many as are left at this share of the way."""
        state = self.state
        if state.mask is None:
            state.mask = torch.ones_like(state.theta, dtype=torch.bool)
        for replica in range(state.replicas):
            with state.showing(replica) as network:
                some = self.data.train_inputs[replica, : max(1, LOGGED_EXAMPLES // self.data.steps)]
                strength = strengths(network, widened(some))
            strength[~state.mask[replica, self.entries]] = -1.0  # removed before
            weakest = torch.argsort(strength, stable=True)[: self.entries.numel() - self.left(share)]
            state.mask[replica, self.entries[weakest]] = False
        state.apply_mask()


def strengths(network: Network, inputs: Tensor) -> Float[Tensor, " connections"]:
    """|w| · standard deviation of what the connection carries, over these examples; one weight layer after another."""
    parameters = dict(network.named_parameters())
    found = []
    with torch.no_grad():
        _, activations = network.forward_with_hooks(inputs)
        for weights in network.wiring.weight_layers:
            weight = parameters[weights.parameter]
            places = network.wiring.layer(weights.source).to_places(activations[weights.source])
            std = places.flatten(0, -2).std(dim=0, correction=0)
            found.append((weight.abs() * std.tile(weight.shape[1] // std.numel())).reshape(-1))
    return torch.cat(found)
