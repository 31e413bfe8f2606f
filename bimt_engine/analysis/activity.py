"""What each neuron does over the training examples: mean and standard deviation of its activation."""

from __future__ import annotations

import torch

from bimt_engine.analysis.paths import copies
from bimt_engine.analysis.plain_mlp import Array, Values, forward, split
from bimt_engine.analysis.subject import Subject


def activation_statistics(subject: Subject, values: Values) -> dict[str, tuple[Array, Array]]:
    """Mean and standard deviation of each place's activation, copies of a folded layer one after another."""
    names = [layer.name for layer in subject.wiring.neuron_layers]
    if subject.plain is not None:
        weights, biases = split(values)
        inputs = subject.plain.inputs_in_slots(subject.train.inputs)
        seen = forward(weights, biases, inputs, subject.plain.activation)[0]
        return {name: (a.mean(axis=0), a.std(axis=0)) for name, a in zip(names, seen, strict=True)}
    with torch.no_grad():
        _, activations = subject.with_values(values).run(subject.tensor(subject.train.inputs))
    found = {}
    for name, activation in activations.items():
        flat = activation.numpy()
        layer = subject.wiring.layer(name)
        places = layer.neurons * copies(subject.wiring, name)
        flat = flat.reshape(-1, places)
        found[name] = (flat.mean(axis=0), flat.std(axis=0))
    return found
