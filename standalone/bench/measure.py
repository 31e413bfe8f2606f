"""How much faster the engine is than the oracle, side by side in one run: CPU time of one thread, medians.

The engine's whole job is run from drawn weights to the final layout. The oracle would take hours, so a slice of it is
run between every two slices of ours, on the same busy machine in the same minutes, and its whole job is
steps · (median step) + relocations · (median pass). A pass that takes long is timed on a few neurons of each layer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

import torch

from bimt_engine.datasets.catalogue import make_dataset
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.build import Network, build_network
from bimt_engine.randomness import torch_generator
from bimt_engine.recipes.shelf import load_recipe
from bimt_engine.spec import Spec
from bimt_engine.training.kernel_build import load_kernel
from bimt_engine.training.loop import Training
from bimt_engine.training.relocation import Relocation
from standalone.bench.oracle import Oracle

SLICES = 24  # of our job, with a slice of the oracle's after each
ORACLE_SLICE_SECONDS = 0.25  # of CPU; enough for tens of small steps
FULL_PASS_SECONDS = 2.0  # an oracle's relocation pass expected to take longer is timed on some neurons of each layer
NEURONS_OF_A_LAYER = 2


@dataclass(frozen=True)
class Measured:
    """One task. Ratios are oracle / engine; times are CPU time of one thread.

    relocate_ratio   the same exchanges, decided by the oracle's trials and from the engine's table (`greedy`).
    optimal_ratio    the oracle's pass against the engine's default pass, which ends lower.
    oracle_seconds_cpu   extrapolated from the medians, see above.
    """

    stepper: str
    step_ratio: float
    relocate_ratio: float
    job_ratio: float
    seconds_cpu: float
    oracle_seconds_cpu: float
    optimal_ratio: float
    step_ms: float
    oracle_step_ms: float
    relocate_ms: float
    optimal_ms: float
    oracle_relocate_ms: float
    steps: int
    relocations: int
    oracle_extrapolated: bool = True

    def to_json(self) -> dict[str, str | float | int | bool]:
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


@contextmanager
def no_compiler() -> Iterator[None]:
    """As on a machine without a C++ compiler: no kernel is found, neither for steps nor for relocation."""
    before = os.environ.get("CXX")
    os.environ["CXX"] = "no-such-compiler"
    load_kernel.cache_clear()
    try:
        yield
    finally:
        del os.environ["CXX"]
        if before is not None:
            os.environ["CXX"] = before
        load_kernel.cache_clear()


def measure(recipe: str, *, steps: int | None = None, stepper: str = "auto") -> Measured:
    """One recipe, seed 0. steps: train for fewer than the recipe says, on the same schedule."""
    torch.set_num_threads(1)
    spec = load_recipe(recipe).spec.expanded()
    changed = {"device": "cpu", "stepper": stepper, "steps": steps or spec.training.steps}
    training = spec.training.model_copy(update=changed)
    spec = spec.model_copy(update={"training": training})
    dataset = make_dataset(spec.dataset, seed=0)
    oracle = Oracle(_drawn(spec, dataset), dataset, training)
    _warm(spec, dataset, oracle)

    ours, oracle_steps, oracle_passes = 0.0, [], []
    passes = _passes(oracle)
    expected = next(passes)  # the first pass of a process is slow: it sets the manner, and is not counted
    sliced = 0
    watch = time.process_time()
    job = Training.begin(spec, dataset, seed=0)
    for moment in job.moments():
        if moment.checkpoint_due:
            job.checkpoint()
        ours += time.process_time() - watch
        if moment.fraction * SLICES >= sliced:
            sliced += 1
            oracle_steps += _oracle_steps(oracle, job.schedule.stage(moment.step).cost_strength)
            if sliced % 4 == 1 or expected < ORACLE_SLICE_SECONDS:
                oracle_passes.append(next(passes))
        watch = time.process_time()
    ours += time.process_time() - watch

    step, greedy, optimal = _our_step(job), _our_pass(spec, job, "greedy"), _our_pass(spec, job, "optimal")
    oracle_step, oracle_pass = median(oracle_steps), median(oracle_passes)
    every = training.relocation.relocate_every
    relocations = training.steps // every if every else 0
    whole = training.steps * oracle_step + relocations * oracle_pass
    return Measured(
        stepper=job.stepper_name,
        step_ratio=oracle_step / step,
        relocate_ratio=oracle_pass / greedy,
        job_ratio=whole / ours,
        seconds_cpu=ours,
        oracle_seconds_cpu=whole,
        optimal_ratio=oracle_pass / optimal,
        step_ms=step * 1e3,
        oracle_step_ms=oracle_step * 1e3,
        relocate_ms=greedy * 1e3,
        optimal_ms=optimal * 1e3,
        oracle_relocate_ms=oracle_pass * 1e3,
        steps=training.steps,
        relocations=relocations,
    )


def _drawn(spec: Spec, dataset: Dataset) -> Network:
    generator = torch_generator(0, "network")
    return build_network(spec.network, dataset, precision=spec.training.precision, generator=generator)


def _warm(spec: Spec, dataset: Dataset, oracle: Oracle) -> None:
    """What happens once in a process, such as building the kernel, belongs to nobody's time."""
    job = Training.begin(spec, dataset, seed=0)
    job.stepper.advance(2, price=job._price(job.schedule.stage(0)))
    job.stepper.losses()
    for _ in range(3):
        oracle.step(0.0)


def _timed(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def _oracle_steps(oracle: Oracle, cost_strength: float) -> list[float]:
    """Seconds of some steps."""
    taken: list[float] = []
    while sum(taken) < ORACLE_SLICE_SECONDS or len(taken) < 3:
        taken.append(_timed(lambda: oracle.step(cost_strength)))
    return taken


def _passes(oracle: Oracle) -> Iterator[float]:
    """Seconds of a relocation pass, again and again: timed whole, or on some neurons of each layer where it is long."""
    candidates = oracle.training.relocation.relocation_candidates
    layers = [layer for layer in oracle.network.wiring.neuron_layers if layer.movable]
    only = 1  # the first answer is a guess from one neuron of each layer
    while True:
        seconds = 0.0
        for layer in layers:
            whole = min(candidates, layer.neurons)
            some = min(only, whole)
            start = time.process_time()
            oracle.relocate_layer(layer, candidates, only=some)
            seconds += (time.process_time() - start) * whole / some
        yield seconds
        only = candidates if seconds < FULL_PASS_SECONDS else NEURONS_OF_A_LAYER


def _our_step(job: Training) -> float:
    """Seconds of one step, the median of nine calls of some steps each."""
    price = job._price(job.schedule.stage(job.schedule.steps))

    def seconds(steps: int) -> float:
        return _timed(lambda: job.stepper.advance(steps, price=price))

    steps = 1
    while seconds(steps) < 0.1:
        steps *= 2
    return median(seconds(steps) / steps for _ in range(9))


def _our_pass(spec: Spec, job: Training, method: str) -> float:
    """Seconds of one relocation pass from a fresh network after some steps of training, the median of nine."""
    fresh = Training.begin(spec, make_dataset(spec.dataset, seed=0), seed=0)
    rule = spec.training.relocation.model_copy(update={"method": method})
    relocation = Relocation(fresh.network.wiring, fresh.state.layout, fresh.training.cost, rule)
    price = fresh._price(fresh.schedule.stage(0))
    taken = []
    for _ in range(9):
        fresh.stepper.advance(10, price=price)
        taken.append(_timed(lambda: relocation.relocate(fresh.state)))
    return median(taken)
