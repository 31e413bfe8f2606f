"""Single-connection ablation: what the loss gains when one kept connection alone is set to zero."""

from __future__ import annotations

import numpy as np
import torch

from bimt_engine.analysis.paths import Masks
from bimt_engine.analysis.plain_mlp import PlainMlp, Values, forward, split
from bimt_engine.analysis.subject import Subject

PASS_NUMBERS = 4e6  # activations held at once


def ablation_effects(subject: Subject, values: Values, masks: Masks) -> dict[tuple[str, int, int], float]:
    """What the training loss gains when one kept connection alone is set to zero, nothing refitted: exact, each."""
    kept = [
        (w.parameter, int(r), int(c))
        for w in subject.wiring.weight_layers
        for r, c in zip(*np.nonzero(masks[w.parameter]), strict=True)
    ]
    base = float(subject.losses(subject.outputs(values, subject.train), subject.train).mean())
    if subject.plain is not None:
        return _plain_ablations(subject, subject.plain, values, kept, base)
    effects = {}
    network = subject.with_values(values)
    parameters = dict(network.named_parameters())
    for name, row, column in kept:
        with torch.no_grad():
            parameters[name][row, column] = 0.0
            outputs = subject.network_outputs(network, subject.train.inputs)
            parameters[name][row, column] = float(values[name][row, column])
        effects[name, row, column] = float(subject.losses(outputs, subject.train).mean()) - base
    return effects


def _plain_ablations(
    subject: Subject, plain: PlainMlp, values: Values, kept: list[tuple[str, int, int]], base: float
) -> dict[tuple[str, int, int], float]:
    """All ablations of a perceptron in few passes: only the layers behind the cut are computed anew."""
    weights, biases = split(values)
    inputs = plain.inputs_in_slots(subject.train.inputs)
    seen, _ = forward(weights, biases, inputs, plain.activation)
    to_data = np.argsort(plain.output_order)
    effects: dict[tuple[str, int, int], float] = {}
    per_pass = max(1, int(PASS_NUMBERS / (len(inputs) * max(w.shape[0] for w in weights))))
    for start in range(0, len(kept), per_pass):
        for number in range(len(weights)):
            here = [k for k in kept[start : start + per_pass] if k[0] == f"weights.{number}"]
            if not here:
                continue
            changed = np.repeat(weights[number][None], len(here), axis=0)
            for i, (_, row, column) in enumerate(here):
                changed[i, row, column] = 0.0
            after, _ = forward([changed, *weights[number + 1 :]], biases[number:], seen[number], plain.activation)
            losses = subject.losses(after[-1][..., to_data], subject.train).mean(axis=-1)
            effects.update({k: float(loss) - base for k, loss in zip(here, losses, strict=True)})
    return effects
