"""Which runs of a job are trained side by side, as replicas of one training.

Who belongs together follows from the specs and the shape of the data alone. It may not depend on the machine's free
memory or on who has ended: the last bits of a replica depend on how many there are, and a training that is cut goes on
as the one that it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import ceil

from bimt_engine.datasets.catalogue import differs_by_seed
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.build import DTYPES, build_network
from bimt_engine.networks.network import Network
from bimt_engine.randomness import torch_generator
from bimt_engine.spec import Spec
from bimt_engine.training.steppers import choose_stepper, resolve_device

MOST = 64  # replicas: beyond, one accident costs too much of a job, and even a GPU gains little
ROOM = 1 << 29  # bytes of data, parameters and activations, all replicas together


def alike(spec: Spec) -> str:
    """What the specs of replicas must have in common: everything but the cost strengths."""
    said = spec.expanded().model_dump(mode="json")
    for phase in said["training"]["phases"]:
        del phase["cost_strength"]
    return json.dumps(said, sort_keys=True)


def most_side_by_side(spec: Spec, dataset: Dataset) -> int:
    """How many replicas of such a spec are trained side by side at most. Raises SpecError when none can be built."""
    data, rest = _bytes_of_one(_drawn(spec, dataset), dataset, spec)
    most = ROOM // (data + rest) if differs_by_seed(spec.dataset) else (ROOM - data) // rest
    return max(1, min(MOST, most))


def gains_by_replicas(spec: Spec, dataset: Dataset, *, replicas: int) -> bool:
    """Whether the stepper that would train so many replicas on this machine takes them all in one go."""
    network = _drawn(spec, dataset)
    device = resolve_device(spec.training, network, dataset, replicas=replicas)
    training = spec.training.model_copy(update={"device": device})
    return bool(choose_stepper(network, dataset, training, say_why=False).side_by_side)


def pieces(number: int, most: int) -> Iterator[slice]:
    """Cut so many runs into the fewest pieces of at most so many, which differ by one at most."""
    count = ceil(number / most)
    for piece in range(count):
        yield slice(number * piece // count, number * (piece + 1) // count)


def _drawn(spec: Spec, dataset: Dataset) -> Network:
    generator = torch_generator(0, "network")
    return build_network(spec.network, dataset, precision=spec.training.precision, generator=generator)


def _bytes_of_one(network: Network, dataset: Dataset, spec: Spec) -> tuple[int, int]:
    """What one replica takes on the device: its data; and θ with gradient and moments, and three numbers a neuron."""
    examples, itemsize = len(dataset.train_inputs), DTYPES[spec.training.precision].itemsize
    at_once = min(spec.training.batch_size or examples, examples)
    neurons = sum(layer.neurons for layer in network.wiring.neuron_layers)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    inputs = dataset.train_inputs.size + dataset.test_inputs.size
    targets = (examples + len(dataset.test_inputs)) * dataset.targets
    return itemsize * (inputs + targets), itemsize * (5 * parameters + 3 * at_once * neurons)
