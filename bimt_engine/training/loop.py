"""The training loop: stepper, schedule, relocation and pruning in turn, reported as a stream of updates.

Pruning during training removes the weakest connections for good, fewer and fewer at a time. The network adapts between
two removals, so that fewer connections are needed than when they are cut at the end. What is removed stays at zero
through the mask, which steppers, relocation and checkpoints honour. Pruning after training (bimt_engine/analysis) is
another question: how few connections keep the loss.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.data.dataset import Dataset
from bimt_engine.errors import SpecError, TrainingDiverged
from bimt_engine.networks.network import Network, build_network
from bimt_engine.random import numpy_generator, torch_generator
from bimt_engine.spec import PruningSpec, Spec
from bimt_engine.training.backends import alike, choose_stepper, resolve_device
from bimt_engine.training.batches import LOGGED_EXAMPLES, TensorData, widened
from bimt_engine.training.connection_cost import connection_cost, flat_prices, prices, shapes_of
from bimt_engine.training.relocation import Relocation
from bimt_engine.training.schedule import Due, Schedule, Stage
from bimt_engine.training.state import (
    CheckpointHeader,
    Snapshot,
    TrainingState,
    fingerprint,
    read_checkpoint,
    read_header,
    write_checkpoint,
)

MAX_UPDATE_INTERVAL = 0.5  # seconds between two updates at most, so that a caller can renew a lease or cancel in time
Row = dict[str, float | int]


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


@dataclass(frozen=True)
class TrainingUpdate:
    """The training after `step` steps.

    rows, snapshots   of each replica that still trains, where they are due; else empty.
    diverged          replica -> a sentence, for those found to have diverged since the update before.
    checkpoint_due    now is the time to call `Training.checkpoint()`.
    Some updates carry nothing: one is sent at least every MAX_UPDATE_INTERVAL seconds.
    """

    step: int
    fraction: float
    rows: Mapping[int, Row] = field(default_factory=dict)
    snapshots: Mapping[int, Snapshot] = field(default_factory=dict)
    diverged: Mapping[int, str] = field(default_factory=dict)
    checkpoint_due: bool = False

    @property
    def row(self) -> Row | None:
        """The row of the only, or first, replica."""
        return self.rows.get(0)

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot of the only, or first, replica."""
        return self.snapshots.get(0)


class Training:
    """The training of one network, or of several of one shape side by side, from drawn weights to the final layout.

    network        of the first replica; always up to date.
    stepper_name   autograd, batched or kernel; to be recorded with the run.
    device         the device of θ.
    diverged       replica -> a sentence, for those whose weights or loss are no longer finite. Replicas are
                   independent, so the others go on, with the same bits; these are left as they are. After a resume
                   they are found again at the next step at which anything is due.
    """

    def __init__(
        self, specs: Sequence[Spec], datasets: Sequence[Dataset], seeds: Sequence[int], *, stepper: str | None = None
    ) -> None:
        if not len(specs) == len(datasets) == len(seeds) > 0:
            raise SpecError(
                f"{len(specs)} specs, {len(datasets)} data sets and {len(seeds)} seeds: give one of each per replica."
            )
        self.specs = tuple(spec.expanded() for spec in specs)
        self.seeds = tuple(seeds)
        training = self.specs[0].training
        if len({alike(spec) for spec in self.specs}) > 1:
            raise SpecError("Replicas side by side may differ in seed and cost strengths only: train these apart.")
        torch.set_num_threads(1)  # two threads on a busy machine are many times slower, and change the bits
        networks = [
            build_network(
                spec.network, dataset, precision=training.precision, generator=torch_generator(seed, "network")
            )
            for spec, dataset, seed in zip(self.specs, datasets, seeds, strict=True)
        ]
        self.device = resolve_device(training, networks[0], datasets[0], replicas=len(networks))
        training = training.model_copy(update={"device": self.device, **({"stepper": stepper} if stepper else {})})
        self.training = training
        self.schedule = Schedule.of(training)
        self._schedules = [Schedule.of(spec.training) for spec in self.specs]
        self.state = TrainingState.of([network.to(self.device) for network in networks])
        shared = all(dataset is datasets[0] for dataset in datasets)
        self.data = TensorData.of(datasets[0] if shared else datasets, training, seeds=self.seeds, device=self.device)
        self.relocation = Relocation(self.network.wiring, self.state.layout, training.cost, training.relocation)
        shapes = shapes_of(self.state.layout)
        dtype = self.state.theta.dtype
        self._prices = {
            bias_cost: flat_prices(
                self.state.layout,
                prices(self.network.wiring, shapes, training.cost, bias_cost=bias_cost),
                dtype=dtype,
                device=self.device,
            )
            for bias_cost in (False, True)
        }
        self.pruning = Pruning(self.state, self.data, training.pruning) if training.pruning else None
        self._stepper_class = choose_stepper(networks[0], datasets[0], training)
        self._learning_rate = training.optimiser.learning_rate
        self.stepper = self._stepper_class(self.state, self.data, training)
        self.finished = False
        self.diverged: dict[int, str] = {}
        self._seconds = 0.0
        self._priced: tuple[Stage, Tensor] | None = None

    @classmethod
    def begin(cls, spec: Spec, dataset: Dataset, *, seed: int) -> Training:
        """A training that has not taken a step. Raises SpecError when spec and data do not fit each other."""
        return cls([spec], [dataset], [seed])

    @classmethod
    def begin_replicas(cls, specs: Sequence[Spec], datasets: Sequence[Dataset], *, seeds: Sequence[int]) -> Training:
        """Several trainings side by side: one spec, data set and seed for each. They share everything but λ."""
        return cls(specs, datasets, seeds)

    @classmethod
    def resume(cls, spec: Spec, dataset: Dataset, checkpoint: bytes, *, seed: int | None = None) -> Training:
        """The training that wrote this checkpoint, at that step. Raises CheckpointError when it is of another one."""
        return cls.resume_replicas([spec], [dataset], checkpoint, seeds=None if seed is None else [seed])

    @classmethod
    def resume_replicas(
        cls,
        specs: Sequence[Spec],
        datasets: Sequence[Dataset],
        checkpoint: bytes,
        *,
        seeds: Sequence[int] | None = None,
    ) -> Training:
        """The same for several side by side."""
        saved = read_header(checkpoint)
        training = cls(specs, datasets, saved.seeds if seeds is None else seeds, stepper=saved.stepper)
        read_checkpoint(checkpoint, training.state, training._fingerprint())
        training.finished, training._seconds = saved.finished, saved.seconds
        return training

    @property
    def network(self) -> Network:
        """The network of the first replica."""
        return self.state.network

    @property
    def active(self) -> list[int]:
        """The replicas that have not diverged."""
        return [replica for replica in range(self.state.replicas) if replica not in self.diverged]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds spent on its steps so far, those before a resume included."""
        return self._seconds

    @property
    def stepper_name(self) -> str:
        """Which stepper trains: autograd, batched or kernel."""
        return self.stepper.name

    def updates(self) -> Iterator[TrainingUpdate]:
        """Train to the end, the final layout included, and yield an update at least every MAX_UPDATE_INTERVAL.

        Raises TrainingDiverged when every replica has diverged.
        """
        steps = self.schedule.steps
        if self.state.step == 0:
            yield self._update(0, self.schedule.due(0))
            self._require_active()
        step_seconds = 0.0  # as last measured; 0: not yet
        while not self.finished:
            started = time.perf_counter()
            step = self.state.step
            stop = self.schedule.next_stop(step) if step < steps else steps
            if step_seconds:
                stop = min(stop, step + max(1, int(MAX_UPDATE_INTERVAL / step_seconds)))
            elif stop - step > 32:
                stop = step + 32
            if stop > step:
                self._advance(stop - step, self.schedule.stage(step))
                self._synchronise()
                step_seconds = (time.perf_counter() - started) / (stop - step)
            due, known = self.schedule.due(stop), len(self.diverged)
            if due.anything:
                self._mark_diverged(self._not_finite(), stop)
            if due.prune and self.pruning is not None:
                self.pruning.prune(self.schedule.prunings[stop])
            if due.relocate:
                for replica in self.active:
                    self.relocation.relocate(self.state, replica)
            if stop == steps and self.active:
                self._lay_out()
            self._seconds += time.perf_counter() - started
            yield self._update(stop, due, known)
            self._require_active()

    def moments(self) -> Iterator[TrainingUpdate]:
        """Deprecated name of `updates`."""
        warnings.warn("Training.moments() is now called updates()", DeprecationWarning, stacklevel=2)
        return self.updates()

    def checkpoint(self) -> bytes:
        """Everything needed to resume from here, bit for bit."""
        return write_checkpoint(
            self.state,
            CheckpointHeader(
                step=self.state.step,
                seeds=self.seeds,
                stepper=self.stepper_name,
                device=self.device,
                finished=self.finished,
                seconds=self._seconds,
                fingerprint=self._fingerprint(),
            ),
        )

    def _lay_out(self) -> None:
        """The final layout: relocation from many starts, for methods that relocate at all."""
        spec = self.training.relocation
        if spec.relocate_every is not None and spec.final_restarts:
            for replica in self.active:
                generator = numpy_generator(self.seeds[replica], "final layout")
                self.relocation.relocate_with_restarts(self.state, generator, replica)
        self.finished = True

    def _advance(self, steps: int, stage: Stage) -> None:
        """So many steps at the learning rate of this stage. A stepper holds no state, so a new one is made."""
        if stage.learning_rate != self._learning_rate:
            self._learning_rate = stage.learning_rate
            optimiser = self.training.optimiser.model_copy(update={"learning_rate": stage.learning_rate})
            training = self.training.model_copy(update={"optimiser": optimiser})
            self.stepper = self._stepper_class(self.state, self.data, training)
        self.stepper.advance(steps, price=self._price(stage))

    def _price(self, stage: Stage) -> Tensor:
        """λ · price over this stage: (P,), or (R, P) where replicas differ in λ. Kept until the stage changes."""
        if self._priced is None or self._priced[0] is not stage:
            price = self._prices[stage.bias_cost]
            strengths = [schedule.stage(stage.first).cost_strength for schedule in self._schedules]
            if len(set(strengths)) == 1:
                priced = price * strengths[0]
            else:
                priced = price * torch.tensor(strengths, dtype=price.dtype, device=price.device)[:, None]
            self._priced = (stage, priced)
        return self._priced[1]

    def _update(self, step: int, due: Due, known: int = 0) -> TrainingUpdate:
        """The update after this step. known: how many divergences earlier updates have reported."""
        rows = self._rows(step) if due.log else {}
        return TrainingUpdate(
            step,
            step / self.schedule.steps if self.schedule.steps else 1.0,
            rows=rows,
            snapshots={r: Snapshot.of(self.state, r) for r in self.active} if due.snapshot else {},
            diverged=dict(list(self.diverged.items())[known:]),
            checkpoint_due=due.checkpoint,
        )

    def _rows(self, step: int) -> dict[int, Row]:
        """A row of each active replica. One whose loss is no longer finite is marked as diverged and has none."""
        stage = self.schedule.stage(step)
        costs = connection_cost(self.state.theta, self._prices[stage.bias_cost]).tolist()
        losses = self.stepper.losses(everything=step == self.schedule.steps)
        finite = [math.isfinite(loss["prediction_loss"] + cost) for loss, cost in zip(losses, costs, strict=True)]
        self._mark_diverged([replica for replica in self.active if not finite[replica]], step)
        rows = {}
        for replica in self.active:
            strength = self._schedules[replica].stage(step).cost_strength
            rows[replica] = {
                "step": step,
                "cost_strength": strength,
                **losses[replica],
                "connection_cost": costs[replica],
                "total_loss": losses[replica]["prediction_loss"] + strength * costs[replica],
                "seconds": round(self._seconds, 3),
            }
        return rows

    def _not_finite(self) -> list[int]:
        """The active replicas whose weights are no longer finite."""
        if math.isfinite(float(self.state.theta.sum())):
            return []
        finite = self.state.theta.sum(dim=1).isfinite().tolist()
        return [replica for replica in self.active if not finite[replica]]

    def _mark_diverged(self, replicas: Iterable[int], step: int) -> None:
        """Leave these replicas as they are from now on."""
        for replica in replicas:
            self.diverged[replica] = (
                f"After {step} steps the weights or the loss are not numbers any more (seed {self.seeds[replica]}): "
                "lower `learning_rate` or the cost strengths."
            )

    def _require_active(self) -> None:
        if not self.active:
            raise TrainingDiverged(" ".join(self.diverged.values()))

    def _fingerprint(self) -> str:
        return fingerprint(self.specs, self.seeds)

    def _synchronise(self) -> None:
        """Wait for the device, so that the time measured is that of the steps."""
        if self.device == "cuda":
            torch.cuda.synchronize()
