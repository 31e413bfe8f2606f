"""Wiring efficiency: how much longer the connections are than in the shortest layout of the same network.

A network that was trained without any locality may have short wiring that its layout does not show. So wirings are
compared only after a new layout: the neurons exchange slots, what is computed does not change.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from bimt_engine.networks.network import Network
from bimt_engine.random import numpy_generator
from bimt_engine.spec import CostSpec, RelocationSpec
from bimt_engine.training.relocation import Relocation
from bimt_engine.training.state import TrainingState

RESTARTS = 16  # random layouts that the search also starts from
# One assignment problem of n neurons costs about n³ operations. All starts together may cost so many: minutes.
MAX_WORK = 2e11
# The same measure for every method, whatever it was trained to shorten: a unit of length costs 1 in every layer.
WIRING_LENGTH = CostSpec(locality=1.0, layer_spacing=0.0, reduction="sum", last_layer_locality=True)


@dataclass(frozen=True)
class WiringEfficiency:
    """Σ |w| · length of the network's own layout and of the shortest one found; unit: weight times layer width.

    relaid_wiring   None where the layers are too large to search; both are None where no layout could be computed.
    """

    wiring: float | None
    relaid_wiring: float | None

    @property
    def wiring_efficiency(self) -> float | None:
        """wiring / shortest wiring: 1 where nothing can be gained, never below; None without wiring or shortest."""
        return self.wiring / self.relaid_wiring if self.wiring is not None and self.relaid_wiring else None

    def document(self) -> dict[str, float | None]:
        """The three numbers by name."""
        return {
            "wiring": self.wiring,
            "relaid_wiring": self.relaid_wiring,
            "wiring_efficiency": self.wiring_efficiency,
        }


def relayout(network: Network, *, seed: int, restarts: int = RESTARTS) -> WiringEfficiency:
    """Optimal relocation of a copy, from its own layout and from random ones; the network is not changed.

    The shortest layout found need not be the shortest there is: only one layer at a time is solved exactly. Of large
    networks fewer random layouts are tried, or none, so that the work stays below MAX_WORK.
    """
    once = float(sum(layer.neurons**3 for layer in network.wiring.neuron_layers))
    restarts = min(restarts, int(MAX_WORK // once) - 1)
    state = TrainingState.of(copy.deepcopy(network).to("cpu").double())
    spec = RelocationSpec(method="optimal", carry_moments=False, final_restarts=max(restarts, 0))
    relocation = Relocation(network.wiring, state.layout, WIRING_LENGTH, spec)

    def wiring() -> float:
        return relocation.arrangement(state.theta[0].detach().numpy()).cost()

    before = wiring()
    if restarts < 0:
        return WiringEfficiency(before, None)
    relocation.relocate_with_restarts(state, numpy_generator(seed, "relaying"))
    return WiringEfficiency(before, min(before, wiring()))
