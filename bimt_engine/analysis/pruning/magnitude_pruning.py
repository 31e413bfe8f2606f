"""Magnitude pruning as in the published notebooks, kept as a baseline: one absolute cut, nothing refitted.

Weights and biases alike, whatever that does to the loss. (arXiv 2305.08746, section 3) The result has the form of the
evidence, so that the same claims can be checked against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.modules.find import find_modules
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.analysis.readout.symmetry import symmetry_report

CUTS = (0.001, 0.01, 0.05, 0.1)


def prune_by_magnitude(context: AnalysisContext, cut: float) -> dict[str, Any]:
    """Graph, modules, symmetries and losses of the trained network without what is smaller than the cut; JSON-able."""
    engine = PruningEngine(context, refit_evaluations=0)
    values = {name: np.where(np.abs(value) >= cut, value, 0.0) for name, value in context.values().items()}
    masks = {w.parameter: values[w.parameter] != 0 for w in context.wiring.weight_layers}
    values, masks = engine.without_dead_ends(values, masks)
    state = engine.state(values, masks)
    names = context.dataset.feature_names
    tested = context.losses(context.outputs(values, context.test), context.test)
    symmetries = symmetry_report(context, values, seed=0)
    return {
        "cut": cut,
        "metrics": {
            "prediction_loss": state.step.train_loss,
            "validation_prediction_loss": state.step.validation_loss,
            "test_prediction_loss": float(tested.mean()),
            "connections": state.step.connections,
        },
        "graph": extract_graph(context, values, masks).to_json(),
        "modules": [
            {
                "inputs": [names[i] for i in module.inputs],
                "outputs": [context.dataset.target_names[o] for o in module.outputs],
                "supported": False,
            }
            for module in find_modules(context, masks)
        ],
        "readout": {"outputs": [{"symmetry": symmetry} for symmetry in symmetries]},
    }
