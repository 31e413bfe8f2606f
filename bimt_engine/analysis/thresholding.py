"""The published way to prune, kept as a baseline: what is smaller than one absolute cut is dropped, nothing refitted.

Weights and biases alike; no loss is asked. What it gives is told in the words of the evidence, so that the same claims
can be held against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.modules import find_modules
from bimt_engine.analysis.subject import Subject
from bimt_engine.analysis.symmetry import symmetry_report
from bimt_engine.analysis.workbench import Workbench

CUTS = (0.001, 0.01, 0.05, 0.1)


def threshold(subject: Subject, cut: float) -> dict[str, Any]:
    """Graph, modules, symmetries and losses of the trained network without what is smaller than the cut; JSON-able."""
    bench = Workbench(subject, refit_steps=0)
    values = {name: np.where(np.abs(value) >= cut, value, 0.0) for name, value in subject.values().items()}
    masks = {w.parameter: values[w.parameter] != 0 for w in subject.wiring.weight_layers}
    values, masks = bench.settled(values, masks)
    state = bench.state(values, masks)
    names = subject.dataset.feature_names
    symmetries = symmetry_report(subject, values, seed=0)
    return {
        "cut": cut,
        "metrics": {
            "prediction_loss": state.step.train_loss,
            "test_prediction_loss": state.step.held_out_loss,
            "connections": state.step.connections,
        },
        "graph": extract_graph(subject, values, masks).to_json(),
        "modules": [
            {
                "inputs": [names[i] for i in module.inputs],
                "outputs": [subject.dataset.target_names[o] for o in module.outputs],
                "supported": False,
            }
            for module in find_modules(subject, masks)
        ],
        "readout": {"outputs": [{"symmetry": symmetry} for symmetry in symmetries]},
    }
