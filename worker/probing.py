"""A network as one JSON document that a browser can run, and what it has learned to know of its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.exports.weights import SavedNetwork
from worker.predicting import Refusal

MOST_EXAMPLES = 2_000
MOST_NUMBERS = 4_000_000  # of weights and examples together; a browser takes no more at once


def probe_document(saved: SavedNetwork, dataset: Dataset) -> dict[str, Any]:
    """Weights of the pruned network in slot order, who sits where, and held-out examples as the network reads them.

    Arrays are {"shape", "values"}: flat, the last axis running fastest, nine digits. Where the held-out examples are
    few, training examples follow them. Raises Refusal for a network that is too large for a browser.
    """
    network = saved.network
    parameters = {name: p.detach().numpy() for name, p in network.named_parameters()}
    inputs = np.concatenate([dataset.test_inputs, dataset.train_inputs])
    targets = np.concatenate([dataset.test_targets, dataset.train_targets])
    of_weights = sum(p.size for p in parameters.values())
    each = inputs[0].size + targets[0].size if len(inputs) else 1
    count = min(MOST_EXAMPLES, len(inputs), (MOST_NUMBERS - of_weights) // each)
    if of_weights > MOST_NUMBERS:
        raise Refusal(f"This network has {of_weights} weights; a browser gets at most {MOST_NUMBERS} numbers.")
    return {
        "format": "bimt-probe/1",
        "network": saved.spec.network.model_dump(mode="json"),
        "task": dataset.task,
        "loss": saved.spec.training.loss or dataset.default_loss,
        "features": list(dataset.feature_names),
        "targets": list(dataset.target_names),
        "tokens": dataset.tokens,
        "input_scaling": dataset.input_scaling and dataset.input_scaling.to_json(),
        "target_scaling": dataset.target_scaling and dataset.target_scaling.to_json(),
        "layers": [
            {"name": layer.name, "neurons": layer.neurons, "positions": np.asarray(layer.positions).tolist()}
            for layer in network.wiring.neuron_layers
        ],
        "connections": [
            {"parameter": one.parameter, "source": one.source, "target": one.target, "bias": one.bias}
            for one in network.wiring.weight_layers
        ],
        "parameters": {name: _array(p) for name, p in parameters.items()},
        "orders": {name: order.tolist() for name, order in network.orders.items()},
        "examples": {
            "count": count,
            "held_out": min(count, len(dataset.test_inputs)),
            "inputs": _array(inputs[:count]),
            "targets": _array(targets[:count]),
        },
    }


def embedding_document(saved: SavedNetwork) -> dict[str, Any]:
    """The vector of each token, which of its dimensions the network still reads, and the frequencies in them.

    Raises Refusal where the network has no embedding.
    """
    from bimt_engine.figures.embedding import frequency_planes  # brings matplotlib, which few errands need

    parameters = {name: p.detach().numpy() for name, p in saved.network.named_parameters()}
    if saved.data.tokens is None or "embedding" not in parameters or "weights.0" not in saved.masks:
        raise Refusal("This network reads numbers, not tokens: it has no embedding.")
    embedding = parameters["embedding"]
    kept = saved.masks["weights.0"].any(dim=0)
    read = kept.reshape(-1, embedding.shape[1]).any(dim=0).numpy()
    planes = frequency_planes(embedding[:, read]) if read.any() else []
    names = saved.data.target_names if saved.data.tokens == saved.data.targets else range(saved.data.tokens)
    order = saved.network.input_order.tolist()
    return {
        "tokens": [str(name) for name in names],
        "dimensions": [
            {"slot": slot, "neuron": neuron, "read": bool(used)}
            for slot, (neuron, used) in enumerate(zip(order, read.tolist(), strict=True))
        ],
        "vectors": embedding.tolist(),
        "planes": [
            {"name": plane.name, "frequency": plane.frequency, "share": plane.share, "points": plane.points.tolist()}
            for plane in planes
        ],
    }


def _array(values: np.ndarray) -> dict[str, Any]:
    flat = values.ravel().tolist()
    if values.dtype.kind == "f":
        flat = [float(f"{value:.9g}") for value in flat]
    return {"shape": list(values.shape), "values": flat}
