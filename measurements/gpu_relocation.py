"""Relocation with the weights on a CUDA device: decided there, against the way over the CPU that the engine takes.

`DevicePass` stands here and not in the engine: what it would gain is to be measured first. The clocks are those of
`measurements/gpu.py`, which this is a part of.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.attach import attach
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.recipes import load_recipe
from bimt_engine.training.connection_cost import connection_cost
from bimt_engine.training.loop import Training
from bimt_engine.training.relocation import REL_TOLERANCE, Relocation
from bimt_engine.training.state import TrainingState

Row = dict[str, Any]
EXACT_WIDTH = 400  # the best order of a wider layer takes seconds, wherever its table is made


# --- clocks and memory --------------------------------------------------------------------------


def timed(action: Callable[[], object], device: str) -> float:
    """Seconds until the device has done it."""
    synchronise(device)
    began = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: str) -> None:
    """Wait for all that the device was asked to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def repeated(
    action: Callable[[], object], device: str, seconds: float, *, before: Callable[[], object] = lambda: None
) -> Row:
    """Milliseconds of one call, over so many seconds of calls; of long ones there are fewer. The first is not counted.

    before   sets up what the action changes; not timed.
    """
    before()
    action()
    taken: list[float] = []
    while not taken or (sum(taken) < seconds * (1 if len(taken) >= 3 else 4) and len(taken) < 100):
        before()
        taken.append(timed(action, device))
    return spread([1e3 * each for each in taken])


def spread(values: Sequence[float]) -> Row:
    """Median, lowest and highest, to four digits."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()} | {"times": len(values)}


class Peak:
    """The most memory of the device that tensors made since then have taken at once."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    def bytes(self) -> int | None:
        """None where the device does not count it."""
        return torch.cuda.max_memory_allocated() - self._before if self.device == "cuda" else None


# --- relocation: on the device, against the way over the CPU ------------------------------------


class DevicePass:
    """The greedy pass of all replicas at once, decided and applied on their device: what it would take there.

    The same decisions as `Relocation` with `greedy`, for networks whose layers move freely and are not connected to
    themselves. Nothing is copied to the CPU and nothing waits for the device.
    """

    def __init__(self, plan: Relocation, state: TrainingState) -> None:
        self.plan, self.state = plan, state
        device = state.theta.device
        self.sides = [
            [(index, entering, torch.from_numpy(lengths).to(device)) for index, entering, lengths in sides]
            for sides in plan.sides
        ]
        self.rows = torch.arange(state.replicas, device=device)
        self.in_place = torch.arange(state.size, device=device)

    def strengths(self) -> list[Float[Tensor, "R target source"]]:
        """Σ|w| over the copies of every weight layer, float64."""
        theta, replicas = self.state.theta, self.state.replicas
        return [
            theta[:, view.place.slice].abs().double().reshape(replicas, *view.shape).sum(dim=(1, 3))
            for view in self.plan.views
        ]

    def table(self, layer: int, strengths: list[Tensor]) -> Float[Tensor, "R neurons slots"]:
        """What each neuron of a layer would cost in each slot."""
        parts = [
            (strengths[index] if entering else strengths[index].mT) @ lengths
            for index, entering, lengths in self.sides[layer]
        ]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def relocate(self) -> None:
        """One pass on every replica, in place."""
        state, plan = self.state, self.plan
        strengths = self.strengths()
        index = self.in_place.repeat(state.replicas, 1)
        for layer in plan.movable:
            importance = sum(
                strengths[number].sum(2 if plan.views[number].target == layer else 1) for number in plan.touching[layer]
            )
            assert isinstance(importance, Tensor)
            order = self._order(self.table(layer, strengths), importance)
            for number in plan.touching[layer]:
                axis = 1 if plan.views[number].target == layer else 2
                strengths[number] = _taken(strengths[number], order, axis)
            for port in plan.layers[layer].ports:
                place = state.place(port.parameter)
                view = index[:, place.slice].view(state.replicas, *place.shape)
                copies = torch.arange(port.copies, device=order.device)[:, None] * order.shape[1]
                view.copy_(_taken(view, (order[:, None, :] + copies).flatten(1), port.axis + 1))
            here = state.orders[plan.layers[layer].name]
            here.copy_(here.gather(1, order))
        with torch.no_grad():
            for flat in (state.theta, state.first_moment, state.second_moment):
                flat.copy_(flat.gather(1, index))
        state.orders_version += 1

    def _order(self, table: Tensor, importance: Tensor) -> Int64[Tensor, "R slots"]:
        """The order after the most important slots have taken their best exchanges in turn, the first of equals."""
        rows, neurons = self.rows, table.shape[1]
        chosen = importance.argsort(dim=1, stable=True).flip(1)[:, : self.plan.spec.relocation_candidates]
        occupant = torch.arange(neurons, device=table.device).repeat(len(rows), 1)
        rounding = REL_TOLERANCE * table.amax((1, 2))[:, None]
        here = table.clone()
        for slot in chosen.unbind(1):
            own = here.diagonal(dim1=1, dim2=2)
            change = here[rows, slot] + here[rows, :, slot] - own - own.gather(1, slot[:, None])
            best = (change <= change.amin(1, keepdim=True) + rounding).int().argmax(1)
            for of in (here, occupant):
                of[rows, slot], of[rows, best] = of[rows, best], of[rows, slot]
        return occupant


def _taken(values: Tensor, order: Int64[Tensor, "R entries"], axis: int) -> Tensor:
    """Each replica's entries along an axis, in that replica's order."""
    shape = [len(order), *(1 for _ in values.shape[1:])]
    shape[axis] = order.shape[1]
    return values.gather(axis, order.view(shape).expand(values.shape))


def measure_relocation(widths: tuple[int, ...], replicas: int, *, device: str, seconds: float) -> Row:
    """One pass on every replica from drawn weights, in milliseconds, and the parts that it is made of.

    over_cpu   as the engine does it: θ to the CPU, decided there, entries moved on the device.
    on_cpu     the same with θ on the CPU: what the decisions take.
    on_device  DevicePass; `cost_difference` is between its cost and that of `greedy_over_cpu`, as a share.
    """
    spec = load_recipe("independence").spec
    spec = spec.model_copy(update={"network": MlpNetwork(hidden=list(widths))})
    data = make_dataset(spec.dataset, seed=0)

    def drawn(where: str) -> Training:
        training = spec.training.model_copy(update={"device": where, "stepper": "batched"})
        own = spec.model_copy(update={"training": training})
        return Training.begin_replicas([own] * replicas, [data] * replicas, seeds=range(replicas))

    training = drawn(device)
    here, there = training.state, drawn("cpu").state
    start = {id(state): state.theta.clone() for state in (here, there)}
    rule, wiring, cost = spec.training.relocation, here.network.wiring, spec.training.cost
    plans = {
        method: Relocation(wiring, here.layout, cost, rule.model_copy(update={"method": method}))
        for method in ("greedy", "optimal")
    }
    took = partial(repeated, device=device, seconds=seconds)

    def fresh(state: TrainingState) -> None:
        with torch.no_grad():
            state.theta.copy_(start[id(state)])

    def each(plan: Relocation, state: TrainingState) -> None:
        for replica in range(replicas):
            plan.relocate(state, replica)

    row: Row = {"parameters": here.size, "replicas": replicas}
    for method, plan in plans.items():
        if method == "optimal" and max(widths) > EXACT_WIDTH:
            continue
        for name, state in (("over_cpu", here), ("on_cpu", there)):
            row[f"{method}_{name}_ms"] = took(partial(each, plan, state), before=partial(fresh, state))
    device_pass = DevicePass(plans["greedy"], here)
    row["greedy_on_device_ms"] = took(device_pass.relocate, before=partial(fresh, here))
    ways: list[Callable[[], object]] = [partial(each, plans["greedy"], here), device_pass.relocate]
    row["cost_difference"] = _difference(here, ways, partial(fresh, here), training._prices[True])
    row["theta_to_cpu_ms"] = {
        "row by row": took(lambda: [here.theta[r].cpu() for r in range(replicas)]),
        "all at once": took(here.theta.cpu),
    }
    movable = plans["greedy"].movable
    row["tables_to_cpu_ms"] = took(lambda: _tables(device_pass, movable))
    orders = [np.roll(order, 1) if layer in movable else order for layer, order in enumerate(plans["greedy"].unmoved)]
    row["apply_ms"] = {
        "on the device": took(lambda: plans["greedy"].apply(here, 0, orders)),
        "over the CPU": took(lambda: _apply_over_cpu(plans["greedy"], here, orders)),
    }
    over, on = row["greedy_over_cpu_ms"]["median"], row["greedy_on_device_ms"]["median"]
    return row | {"said": f"greedy {over:.3g} ms over the CPU, {on:.3g} ms on the device: {over / on:.2g}×"}


def _tables(device_pass: DevicePass, layers: Sequence[int]) -> list[Tensor]:
    strengths = device_pass.strengths()
    return [device_pass.table(layer, strengths).cpu() for layer in layers]


def _apply_over_cpu(plan: Relocation, state: TrainingState, orders: list[np.ndarray]) -> None:
    """θ and both moments of the first replica to the CPU, permuted there, and back."""
    index = plan.exchange_index(orders)
    assert index is not None
    with torch.no_grad():
        for flat in (state.theta, state.first_moment, state.second_moment):
            flat[0].copy_(torch.from_numpy(flat[0].detach().cpu().numpy().take(index)))


def _difference(
    state: TrainingState, ways: Sequence[Callable[[], object]], fresh: Callable[[], None], price: Tensor
) -> float:
    """Between the costs that two ways lead to, as a share: the largest over the replicas."""
    costs = []
    for way in ways:
        fresh()
        way()
        costs.append(connection_cost(state.theta.double(), price.double()))
    return float(((costs[0] - costs[1]).abs() / costs[0]).max())


# --- modules that are attached ------------------------------------------------------------------


def convolutions(width: int) -> tuple[nn.Module, Tensor]:
    """Two convolutions with batch norm, flattened; and images."""
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width // 2 * 16, 10)), torch.rand(8, 3, 8, 8)


def encoder_layer(width: int) -> tuple[nn.Module, Tensor]:
    """One layer of torch's own transformer; and sequences."""
    return nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True), torch.rand(4, 6, width)


MODULES = {"convolutions": convolutions, "encoder layer": encoder_layer}
ROUNDS = 3  # of steps and a relocation


def measure_attached(name: str, width: int, *, device: str) -> Row:
    """One of MODULES attached, trained with the cost, and relocated with its optimiser, on the device and the CPU.

    cost_saved      by the first relocation, as a share.
    output_change   the largest of all relocations, at float64.
    """
    torch.manual_seed(0)
    model, example = MODULES[name](width)
    row: Row = {}
    for where in dict.fromkeys((device, "cpu")):
        peak = Peak(where)
        own, x = copy.deepcopy(model).to(where, torch.float64), example.to(where, torch.float64)
        began = time.perf_counter()
        attached = attach(own, x)
        seconds = time.perf_counter() - began
        optimiser = torch.optim.AdamW(own.parameters())
        taken, changes, saved = [], [], []
        for _ in range(ROUNDS):
            own.train()
            for _ in range(3):
                optimiser.zero_grad()
                (own(x).square().mean() + 1e-3 * attached.cost()).backward()
                optimiser.step()
            own.eval()
            with torch.no_grad():
                before, cost = own(x), float(attached.cost())
                taken.append(1e3 * timed(partial(attached.relocate, optimiser), where))
                changes.append(float((own(x) - before).abs().max()))
                saved.append(1 - float(attached.cost()) / cost)
        row[where] = {
            "attach_seconds": round(seconds, 3),
            "relocate_ms": spread(taken),
            "cost_saved": saved[0],
            "output_change": max(changes),
            "pinned": [pinned.what for pinned in attached.pinned],
            "peak_bytes": peak.bytes(),
        }
    here, cpu = (row[where]["relocate_ms"]["median"] for where in (device, "cpu"))
    change = row[device]["output_change"]
    return row | {"said": f"relocated in {here:.3g} ms, {cpu:.3g} ms on the CPU; outputs change by {change:.0e}"}
