"""The proof: every layer in a random order, and the module computes what it did, in training and in evaluation.

Outputs, gradients of all parameters and buffers after the pass are compared at float64. Dropout is drawn by position
and would hit other neurons after an exchange; in the proof it is seeded and drawn for each entry of the first axis, so
that it is there and does not depend on the order. A layer that does not pass stays where it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from bimt_engine.networks.attach.views import Orders, Views, permuted
from bimt_engine.networks.attach.walk import doubled, tensors_of, trained
from bimt_engine.networks.wiring import NeuronLayer

TOLERANCE = 1e-10  # of the largest entry of what is compared, at float64


class Proof:
    """A module on some inputs at float64, ready to be compared with itself after exchanges."""

    def __init__(self, model: nn.Module, example: tuple[Any, ...], views: Views, *, seed: int = 0) -> None:
        self.model = copy.deepcopy(model).cpu().double()
        trained(self.model)
        self.start = {name: tensor.detach().clone() for name, tensor in tensors_of(self.model).items()}
        self.views, self.seed = views, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.notes: list[str] = []
        given = tree_map(doubled, example)
        self.cases = [(training, inputs) for training in (False, True) for inputs in self._inputs(given)]
        self.expected = [self._run(training, inputs) for training, inputs in self.cases]
        if not self.expected or self.expected[0] is None:
            raise ValueError("the network does not run on its example inputs")
        for (training, _), found in zip(self.cases, self.expected, strict=True):
            if found is None:
                self.notes.append(
                    f"in {'training' if training else 'evaluation'} mode the network does not run on one of the two "
                    "shapes that it was to be proven on"
                )

    def _inputs(self, given: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield given

        def longer(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.dim():
                return value
            more = torch.cat((value.flip(0), value))
            if more.is_floating_point():
                more = more + 0.1 * torch.randn(more.shape, dtype=more.dtype, generator=self.generator)
            return more

        yield tree_map(longer, given)

    def _run(self, training: bool, inputs: tuple[Any, ...]) -> dict[str, Tensor] | None:
        """Everything that is compared, by name; None where the module does not run like this."""
        self.model.train(training)
        self.model.zero_grad(set_to_none=True)
        try:
            with (
                torch.random.fork_rng(devices=[]),
                EvenDropout(),
                torch.enable_grad(),
                _without_inner_dropout(self.model),
            ):
                torch.manual_seed(self.seed)
                inputs = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs)
                made = [out for out in tree_leaves(self.model(*inputs)) if isinstance(out, Tensor)]
                smooth = [out for out in made if out.is_floating_point()]
                weigh = torch.Generator().manual_seed(self.seed)
                if any(out.requires_grad for out in smooth):
                    drawn = [torch.randn(out.shape, dtype=out.dtype, generator=weigh) for out in smooth]
                    sum((out * by).sum() for out, by in zip(smooth, drawn, strict=True)).backward()  # type: ignore[union-attr]
        except Exception:
            self._restore()
            return None
        found = {f"output {number}": out.detach().double() for number, out in enumerate(made)}
        for name, tensor in tensors_of(self.model).items():
            if tensor.grad is not None:
                found[f"gradient of {name}"] = tensor.grad.clone()
            elif not isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
                found[f"buffer {name}"] = tensor.detach().clone()
        self._restore()
        return found

    def _restore(self) -> None:
        with torch.no_grad():
            for name, tensor in tensors_of(self.model).items():
                tensor.copy_(self.start[name])

    def failure(self, orders: Orders) -> str | None:
        """What differs after these exchanges; None where nothing does."""
        axes = self.views.axis_orders(orders, {name: tensor.shape for name, tensor in self.start.items()})
        unmoved = self.start
        self.start = {name: permuted(tensor, axes.get(name, {})) for name, tensor in unmoved.items()}
        try:
            self._restore()
            for (training, inputs), expected in zip(self.cases, self.expected, strict=True):
                if expected is None:
                    continue
                found = self._run(training, inputs)
                mode = "training" if training else "evaluation"
                if found is None or found.keys() != expected.keys():
                    return f"after an exchange the network does not run in {mode} mode"
                for what, before in expected.items():
                    wanted = permuted(before, axes.get(what.removeprefix("gradient of ").removeprefix("buffer "), {}))
                    if not _equal(wanted, found[what]):
                        return f"after an exchange, {what} differs in {mode} mode"
            return None
        finally:
            self.start = unmoved
            self._restore()

    def order(self, layers: Sequence[NeuronLayer]) -> Orders:
        """A random order of layers whose blocks are tied to one another, as they may move."""
        runs: Tensor | None = None
        orders: Orders = {}
        for layer in layers:
            size = layer.neurons // layer.blocks
            slots = torch.arange(layer.neurons).view(layer.blocks, size)
            if layer.moves != "blocks":
                slots = torch.stack([run[torch.randperm(size, generator=self.generator)] for run in slots])
            if layer.moves != "within" and layer.blocks > 1:
                if runs is None:
                    runs = torch.randperm(layer.blocks, generator=self.generator)
                slots = slots[runs]
            orders[layer.name] = slots.reshape(-1)
        return orders


def prove(proof: Proof) -> dict[str, str]:
    """Every movable layer in a random order, all at once; layers that may not move, with what differed."""
    groups = list(groups_of(proof.views.wiring.neuron_layers))
    orders = [proof.order(group) for group in groups]
    together: Orders = {name: order for each in orders for name, order in each.items()}
    if not together or proof.failure(together) is None:
        return {}
    failed: dict[str, str] = {}
    kept: Orders = {}
    for each in orders:
        reason = proof.failure(kept | each)
        if reason is None:
            kept |= each
        else:
            failed |= dict.fromkeys(each, reason)
    return failed


def groups_of(layers: Sequence[NeuronLayer]) -> Iterator[list[NeuronLayer]]:
    """Movable layers, those whose blocks are tied together."""
    seen: set[str] = set()
    by_name = {layer.name: layer for layer in layers}
    for layer in layers:
        if layer.movable and layer.neurons > 1 and layer.name not in seen:
            group = [layer, *(by_name[name] for name in layer.tied)]
            seen |= {each.name for each in group}
            yield group


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = max(1.0, float(one.abs().nan_to_num(posinf=0.0, neginf=0.0).max())) if one.numel() else 1.0
    return torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True)


class EvenDropout(TorchFunctionMode):
    """Dropout that is drawn for each entry of the first axis, and the same whatever the order of neurons."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace dropout; attention's own is left out."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in DROPOUTS and args:
            share = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            if not kwargs.get("training", args[2] if len(args) > 2 else True) or not share:
                return args[0]
            kept = torch.rand(args[0].shape[0], dtype=torch.float64) >= share
            return args[0] * (kept / (1 - share)).view(-1, *[1] * (args[0].dim() - 1))
        if name == "scaled_dot_product_attention":
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {**kwargs, "dropout_p": 0.0} if len(args) <= 4 else kwargs
        return func(*args, **kwargs)


DROPOUTS = frozenset(
    {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"}
    | {"feature_alpha_dropout"}
)


@contextmanager
def _without_inner_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout inside recurrent layers and attention is in one operator, where it cannot be replaced: it is left out."""
    kinds = (nn.RNNBase, nn.MultiheadAttention)
    found: Mapping[Any, float] = {m: m.dropout for m in model.modules() if isinstance(m, kinds)}
    for module in found:
        module.dropout = 0.0
    try:
        yield
    finally:
        for module, share in found.items():
            module.dropout = share
