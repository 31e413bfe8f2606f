"""What connections cost. Positions never move, so the cost of any network is one dot product: Σ price · |θ|.

A price vector is made once for each (wiring, cost, biases counted or not); steppers, relocation and baselines read it.
(arXiv 2305.08746, section 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.networks.wiring import WeightLayer, Wiring
from bimt_engine.spec import CostSpec
from bimt_engine.training.state import Layout, Place

Shapes = Mapping[str, Sequence[int]]


def connection_cost(theta: Float[Tensor, "*R P"], price: Float[Tensor, " P"]) -> Float[Tensor, "*R"]:
    """The cost before λ: Σ price · |θ|, one number per replica; differentiable in θ."""
    return (theta.abs() * price).sum(-1)


def prices(
    wiring: Wiring,
    shapes: Shapes,
    cost: CostSpec,
    *,
    bias_cost: bool,
    locality: float | None = None,
) -> dict[str, Tensor]:
    """The price of every entry of every parameter, float64: locality · length + layer spacing for a connection.

    shapes     parameter name -> shape; a parameter that no connection, bias or embedding claims is free.
    bias_cost  whether biases cost the layer spacing. Embeddings and offsets always do.
    locality   judge by this locality instead of the trained one; then length counts in every weight layer.
    """
    priced = {name: torch.zeros(tuple(shape), dtype=torch.float64) for name, shape in shapes.items()}
    for weights in wiring.weight_layers:
        share = entry_share(shapes[weights.parameter], cost)
        priced[weights.parameter] += cost.layer_spacing * share
        factor = length_factor(wiring, weights, shapes, cost, locality=locality)
        if factor:
            priced[weights.parameter] += factor * wiring.lengths(weights)
        if bias_cost and weights.bias is not None:
            priced[weights.bias] += cost.layer_spacing * entry_share(shapes[weights.bias], cost)
    for name in (*wiring.embeddings, *wiring.offsets):
        priced[name] += cost.layer_spacing * entry_share(shapes[name], cost)
    return priced


def entry_share(shape: Sequence[int], cost: CostSpec) -> float:
    """What one entry counts: 1 with `sum`; with `mean` the parameter's mean counts, so one over its size."""
    return 1.0 if cost.reduction == "sum" else 1.0 / prod(shape)


def length_factor(
    wiring: Wiring, weights: WeightLayer, shapes: Shapes, cost: CostSpec, *, locality: float | None = None
) -> float:
    """What one unit of length costs in this weight layer, for a weight of 1.

    locality   the published trial swaps were judged by flags of their own: their locality, and length in the last
               weight layer whatever the training says. None: as trained.
    """
    if not weights.pays_length:
        return 0.0
    if locality is None:
        last = weights is wiring.weight_layers[-1]
        locality = 0.0 if last and not cost.last_layer_locality else cost.locality
    return locality * entry_share(shapes[weights.parameter], cost)


def flat_prices(
    layout: Layout, priced: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Float[Tensor, " P"]:
    """The prices as one vector in the layout of θ."""
    return torch.cat([priced[place.name].reshape(-1) for place in layout]).to(device=device, dtype=dtype)


def shapes_of(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape."""
    return {place.name: place.shape for place in layout}


@dataclass(frozen=True)
class WeightView:
    """One weight layer by slots: its connections from neuron layer `source` into `target`, copies added up.

    source, target   numbers of neuron layers in the wiring.
    shape     target copies, targets, source copies, sources: the shape of the parameter taken apart.
    lengths   distance · what a unit of length costs, for a strength of 1.
    """

    place: Place
    source: int
    target: int
    shape: tuple[int, int, int, int]
    lengths: Float[np.ndarray, "target source"]

    @property
    def ends(self) -> tuple[int, int]:
        """Both neuron layers, source first."""
        return self.source, self.target

    def strengths(self, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, "target source"]:
        """Σ|w| over the copies, for each pair of slots."""
        strength = np.abs(theta[self.place.slice], dtype=np.float64).reshape(self.shape)
        if self.shape[0] == 1 and self.shape[2] == 1:
            return strength[0, :, 0]
        return strength.sum(axis=(0, 2))
