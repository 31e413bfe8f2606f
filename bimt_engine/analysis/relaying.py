"""Wiring efficiency: how much longer the connections are than they would be if every neuron sat where it should.

A network that was trained without any locality may have short wiring that nobody has laid yet. So wiring is compared
only after relaying: the neurons trade places, what is computed does not change.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from bimt_engine.networks.network import Network
from bimt_engine.randomness import numpy_generator
from bimt_engine.spec import CostSpec, RelocationSpec
from bimt_engine.training.relocation import Relocation
from bimt_engine.training.state import TrainingState

RESTARTS = 16  # random layouts that the search also starts from
# The same yardstick for every method, whatever it was trained to shorten: a unit of length costs 1 in every layer.
YARDSTICK = CostSpec(locality=1.0, layer_spacing=0.0, reduction="sum", last_layer_locality=True)


@dataclass(frozen=True)
class Relaid:
    """Σ |w| · length as the network lies, and in the shortest layout found; unit: weight times layer width."""

    wiring: float
    relaid_wiring: float

    @property
    def wiring_efficiency(self) -> float | None:
        """wiring / relaid wiring: 1 where nothing can be gained, never below; None where no wiring is left."""
        return self.wiring / self.relaid_wiring if self.relaid_wiring > 0 else None

    def document(self) -> dict[str, float | None]:
        """The three numbers by name."""
        return {
            "wiring": self.wiring,
            "relaid_wiring": self.relaid_wiring,
            "wiring_efficiency": self.wiring_efficiency,
        }


def relay(network: Network, *, seed: int, restarts: int = RESTARTS) -> Relaid:
    """Optimal relocation of a copy, from where it lies and from random layouts; the network is not changed.

    The shortest layout found need not be the shortest there is: only one layer at a time is solved exactly.
    """
    state = TrainingState.of(copy.deepcopy(network).to("cpu").double())
    spec = RelocationSpec(method="optimal", carry_moments=False, final_restarts=restarts)
    relocation = Relocation(network.wiring, state.layout, YARDSTICK, spec)

    def wiring() -> float:
        return relocation.board(state.theta[0].detach().numpy()).cost()

    before = wiring()
    relocation.relocate_with_restarts(state, numpy_generator(seed, "relaying"))
    return Relaid(before, min(before, wiring()))
