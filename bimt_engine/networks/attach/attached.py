"""A user's own module with its wiring: what its connections cost, and neurons that are exchanged in it.

The module stays the user's: parameters, training loop and optimiser are theirs. `attach` finds the wiring, proves it,
and gives an `Attached`, which computes the connection cost of the module's present parameters and moves neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from bimt_engine.networks.attach.derive import Derived, derive
from bimt_engine.networks.attach.proof import Proof, prove
from bimt_engine.networks.attach.views import View, Views, permuted, views_by_hand, views_of
from bimt_engine.networks.attach.walk import AttachError, tensors_of
from bimt_engine.networks.wiring import Wiring
from bimt_engine.spec import CostSpec, RelocationSpec
from bimt_engine.training.connection_cost import prices
from bimt_engine.training.relocation import Relocation
from bimt_engine.training.state import Layout, Place

EXACT_UP_TO = 256  # neurons: the best order of one such layer takes 0.04 s, of one of 1024 1.5 s


@dataclass(frozen=True)
class Pinned:
    """Entries that stay where they are.

    what    a neuron layer, or an axis of a parameter.
    reason  which operator, in which module, along which axis.
    """

    what: str
    reason: str


@dataclass
class Attached:
    """A module, its wiring, and which neuron is in which slot.

    wiring    neuron layers, weight layers and ports. Its parameters are views of the module's tensors: a kernel is a
              matrix whose taps are copies of one connection, which costs the sum of |w| over them.
    pinned    what does not move, with the reason.
    orders    neuron layer -> order[slot] = the neuron's identity when the module was attached.
    notes     what the proof could not try.
    derived   the exported graph; None where the wiring was given by hand.
    geometry  how the neurons of a layer lie.
    """

    model: nn.Module
    wiring: Wiring
    pinned: tuple[Pinned, ...]
    orders: dict[str, Int64[Tensor, " neurons"]]
    views: Views
    cost_spec: CostSpec
    notes: tuple[str, ...] = ()
    derived: Derived | None = None
    geometry: str = "line"
    _prices: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _plan: Relocation | None = field(default=None, repr=False)

    # --- cost -------------------------------------------------------------------------------------

    def cost(self) -> Float[Tensor, ""]:
        """The connection cost of the module as it is now, before λ; differentiable in its parameters.

        Σ |w| · (locality · length + layer_spacing) over all connections, + layer_spacing · Σ |b| over biases and
        token embeddings; a connection with several taps has the cost of each of them. (arXiv 2305.08746, section 2)
        """
        total: Tensor | None = None
        for name, tensor in self._weights().items():
            part = (tensor.abs() * self._price(name, tensor)).sum()
            total = part if total is None else total + part
        assert total is not None  # a wiring has a weight layer
        return total

    def _price(self, name: str, tensor: Tensor) -> Tensor:
        """What each entry of a tensor costs, on the tensor's device."""
        if not self._prices:
            shapes = self.views.shapes
            priced = prices(self.wiring, shapes, self.cost_spec, bias_cost=self.cost_spec.bias_cost_from is not None)
            for view in self.views.views:
                if bool(priced[view.name].any()):
                    flat = self._prices.setdefault(view.tensor, torch.zeros(self._numel(view), dtype=torch.float64))
                    there = view.entries >= 0
                    flat.index_add_(0, view.entries[there], priced[view.name][there])
        found = self._prices[name]
        if (found.device, found.dtype, found.shape) != (tensor.device, tensor.dtype, tensor.shape):
            found = self._prices[name] = found.to(tensor.device, tensor.dtype).view(tensor.shape)
        return found

    def _numel(self, view: View) -> int:
        if view.weight is not None:
            return prod(int(size) for size in view.weight.meta["val"].shape)
        return tensors_of(self.model)[view.tensor].numel()

    def _weights(self) -> dict[str, Tensor]:
        """The tensors that have a cost, by name; those that are computed (weight norm) are computed here."""
        tensors = tensors_of(self.model)
        weights = self.wiring.weight_layers
        paying = {w.parameter for w in weights} | {w.bias for w in weights} | set(self.wiring.embeddings)
        found: dict[str, Tensor] = {}
        for view in self.views.views:
            if view.name in paying and view.tensor not in found:
                found[view.tensor] = self._value(view, tensors)
        return found

    def _value(self, view: View, tensors: Mapping[str, Tensor]) -> Tensor:
        if view.weight is None:
            return tensors[view.tensor]
        assert self.derived is not None
        return computed(view.weight, self.derived.names, tensors)

    def matrices(self) -> dict[str, Tensor]:
        """Every parameter of the wiring with its present values: matrices and vectors, as the engine knows them."""
        tensors = tensors_of(self.model)
        with torch.no_grad():
            return {view.name: view.of(self._value(view, tensors).detach()) for view in self.views.views}

    # --- relocation -------------------------------------------------------------------------------

    def relocate(self, optimizer: Optimizer | None = None, *, exact_up_to: int = EXACT_UP_TO) -> float:
        """Exchanges neurons wherever that lowers the connection cost; what the module computes does not change.

        optimizer  its state moves with the neurons: every state tensor that is shaped like its parameter (moments of
                   AdamW, momentum of SGD). Raises AttachError before anything moves where it holds another tensor.
        exact_up_to   neurons of the widest layer whose best order is computed, which costs n³. Wider ones take
                   exchanges: 95 to 99 % of the gain in a small part of the time.

        Parameters, their gradients and buffers move in place. Returns the cost saved, before λ; never negative.
        """
        following = list(self._following(optimizer))
        plan, theta = self._relocation()
        orders, before, after = plan.decide(theta, plan.unmoved, greedy=False, exact_up_to=exact_up_to)
        if not after < before:
            return 0.0
        moved = {
            layer.name: torch.from_numpy(order.astype(np.int64))
            for layer, order in zip(self.wiring.neuron_layers, orders, strict=True)
            if (order != np.arange(order.size)).any()
        }
        axes = self.views.axis_orders(moved, {name: t.shape for name, t in tensors_of(self.model).items()})
        with torch.no_grad():
            for name, tensor in following:
                if name in axes:
                    tensor.copy_(permuted(tensor, axes[name]))
        for name, order in moved.items():
            self.orders[name] = self.orders[name][order]
        return before - after

    def _following(self, optimizer: Optimizer | None) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that moves with a tensor of the module: itself, its gradient, the optimiser's state of it."""
        names: dict[int, str] = {}
        for name, tensor in tensors_of(self.model).items():
            names[id(tensor)] = name
            yield name, tensor
            if tensor.grad is not None:
                yield name, tensor.grad
        for parameter, state in optimizer.state.items() if optimizer is not None else ():
            name = names.get(id(parameter), "")
            for what, value in state.items():
                if not isinstance(value, Tensor) or value.numel() == 1:
                    continue
                if name and value.shape == parameter.shape:
                    yield name, value
                elif name and any(name == along.tensor for layer in self.views.along.values() for along in layer):
                    raise AttachError(
                        f"The optimiser keeps {what!r} of {name!r} with the shape {tuple(value.shape)}, which cannot "
                        f"follow neurons of a parameter of the shape {tuple(parameter.shape)}: use an optimiser whose "
                        "state is shaped like its parameters (AdamW, SGD), or start a new one after `relocate()`."
                    )

    def _relocation(self) -> tuple[Relocation, Float[np.ndarray, " P"]]:
        """What decides, and |w| of all connections as it reads them."""
        values = {}
        tensors = tensors_of(self.model)
        names = {w.parameter for w in self.wiring.weight_layers}
        views = [view for view in self.views.views if view.name in names]
        with torch.no_grad():
            for view in views:
                values[view.name] = view.of(self._value(view, tensors).detach()).double().cpu().numpy().reshape(-1)
        if self._plan is None:
            places, offset = [], 0
            for view in views:
                places.append(Place(view.name, offset, tuple(view.entries.shape)))
                offset += view.entries.numel()
            layout: Layout = tuple(places)
            self._plan = Relocation(_connections(self.wiring, names), layout, self.cost_spec, RelocationSpec())
        return self._plan, np.concatenate([values[view.name] for view in views])

    # --- to read ----------------------------------------------------------------------------------

    def summary(self) -> str:
        """Neuron layers, weight layers and what is pinned, as a table to read."""
        rows = [("neuron layer", "neurons", "moves", "lies on")]
        for layer in self.wiring.neuron_layers:
            on = ", ".join(
                f"{along.tensor}[{along.axis}]" + (f" ×{along.at.shape[0]}" if along.at.shape[0] > 1 else "")
                for along in self.views.along[layer.name]
            )
            rows.append((layer.name, str(layer.neurons), _moving(layer.movable, layer.moves, layer.blocks), on))
        weights = [("weight layer", "from", "to", "shape")]
        shapes = self.views.shapes
        for w in self.wiring.weight_layers:
            copies = [
                f"{count} {kind}"
                for count, kind in ((w.target_copies, "rows"), (w.source_copies, "copies"))
                if count > 1
            ]
            shape = "×".join(map(str, shapes[w.parameter])) + (f" ({', '.join(copies)} of each)" if copies else "")
            weights.append((w.parameter, w.source, w.target, shape))
        pinned = [("pinned", "reason"), *((each.what, each.reason) for each in self.pinned)]
        parts = [_table(rows), _table(weights), _table(pinned) if self.pinned else "pinned: nothing"]
        return "\n\n".join([*parts, *self.notes])


def _connections(wiring: Wiring, names: set[str]) -> Wiring:
    """The wiring with its weight matrices alone: all that decides where neurons go."""
    layers = tuple(
        replace(layer, ports=tuple(port for port in layer.ports if port.parameter in names))
        for layer in wiring.neuron_layers
    )
    return Wiring(layers, tuple(replace(weights, bias=None) for weights in wiring.weight_layers))


def _moving(movable: bool, moves: str, blocks: int) -> str:
    if not movable:
        return "no"
    if blocks == 1:
        return "yes"
    return {"all": f"{blocks} blocks, and inside", "blocks": f"{blocks} blocks", "within": f"inside {blocks} blocks"}[
        moves
    ]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def computed(node: fx.Node, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Tensor:
    """The value of a node that depends on parameters alone, from their present values."""
    known: dict[fx.Node, Any] = {}

    def value(of: fx.Node) -> Any:
        if of not in known:
            if of.op == "placeholder":
                known[of] = tensors[names[of.name]]
            else:
                args, kwargs = fx.map_arg((of.args, of.kwargs), value)
                known[of] = of.target(*args, **kwargs)  # type: ignore[operator]
        return known[of]

    return value(node)


# --- attach ---------------------------------------------------------------------------------------


def attach(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | Tensor,
    *,
    wiring: Wiring | None = None,
    cost: CostSpec | None = None,
    geometry: str = "line",
    seed: int = 0,
) -> Attached:
    """The wiring of any module, derived from its exported graph and proven by exchanging neurons.

    example_inputs  what the module is called with; axis 0 of each tensor holds the examples.
    wiring          given by hand, for a module that cannot be exported. Its ports name the module's parameters and
                    buffers as they are; axis 0 of a weight is its targets, axis 1 its sources. The proof is the same.
    cost            locality, layer spacing and so on; None: as by default in a spec.
    geometry        how the neurons of every layer lie: line, hemispheres, grid, ring or box.
    seed            of the random orders in the proof.

    Raises AttachError where the module cannot be exported, has no weight layer, or does not run on its inputs. What is
    not understood is never guessed: it is pinned, with the reason in `pinned`. The module itself is not changed.
    """
    example = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    tensors = tensors_of(model)
    with _copied(model):
        derived = derive(model, example) if wiring is None else None
        if derived is not None:
            shapes = {name: tuple(t.shape) for name, t in tensors.items() if t.is_floating_point()}
            views = views_of(derived, shapes, geometry=geometry)
        else:
            assert wiring is not None
            views = views_by_hand(wiring, tensors)
        try:
            proof = Proof(model, example, views, seed=seed)
        except ValueError as error:
            raise AttachError(f"{error}: call `model(*example_inputs)` and see why.") from None
        failed = prove(proof)
    reasons = [Pinned(layer.name, why) for layer in (derived.layers if derived else ()) for why in layer.reasons]
    reasons += [Pinned(what, why[0]) for what, why in (derived.pinned if derived else ()) if not _told(what, derived)]
    reasons += [Pinned(name, f"the proof failed: {why}") for name, why in failed.items()]
    if failed:
        kept = tuple(
            replace(layer, movable=False) if layer.name in failed else layer for layer in views.wiring.neuron_layers
        )
        views = replace(views, wiring=replace(views.wiring, neuron_layers=kept))
    return Attached(
        model=model,
        wiring=views.wiring,
        pinned=tuple(reasons),
        orders={layer.name: torch.arange(layer.neurons) for layer in views.wiring.neuron_layers},
        views=views,
        cost_spec=cost or CostSpec(),
        notes=tuple(dict.fromkeys(proof.notes)),
        derived=derived,
        geometry=geometry,
    )


def _told(what: str, derived: Derived | None) -> bool:
    """Whether a pinned axis belongs to a neuron layer, whose reasons are reported already."""
    assert derived is not None
    return any(f"{along.tensor} axis {along.axis}" == what for layer in derived.layers for along in layer.along)


class _copied:
    """Says what to do where a module cannot be copied."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError) and "deepcopy protocol" in str(error):
            raise AttachError(
                "The network cannot be copied, because one of its tensors is computed and stored (as by the old "
                "`nn.utils.weight_norm`): use `nn.utils.parametrizations.weight_norm`."
            ) from error
