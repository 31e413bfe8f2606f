"""How many connections a trained network really uses, by one rule for every recipe that is too large to prune.

The rule: weights no larger than a threshold are set to zero, and the threshold is the largest of a fixed ladder at
which the network is still as good on its training examples: accuracy lower by no more than 0.001, or, for numbers,
a prediction loss higher by no more than 1 %. Held-out examples have no say in it. What is kept is counted.
"""

from __future__ import annotations

import numpy as np
import torch

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.spec import TrainingSpec
from bimt_engine.training.batches import TensorData

LADDER = np.geomspace(1e-3, 1.0, 31)  # AdamW leaves about 1e-3 where nothing is needed
ACCURACY = 0.001  # may be lost
LOSS = 0.01  # of the loss may be added


def kept_connections(network: Network, dataset: Dataset, training: TrainingSpec) -> dict[str, float | int]:
    """{connections, threshold, nonzero}: kept by the rule, the threshold, and weights that are not exactly 0.

    The network is left as it was.
    """
    data = TensorData.of(dataset, training.model_copy(update={"device": "cpu"}), seeds=[0])
    names = [weights.parameter for weights in network.wiring.weight_layers]
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for name in names]
    trained = [weight.detach().clone() for weight in weights]
    strengths = torch.cat([weight.abs().flatten() for weight in trained])
    before = data.evaluate(network)
    found = {"connections": strengths.numel(), "threshold": 0.0, "nonzero": int(torch.count_nonzero(strengths))}
    for threshold in LADDER.tolist():
        with torch.no_grad():
            for weight, whole in zip(weights, trained, strict=True):
                weight.copy_(whole * (whole.abs() > threshold))
        if _as_good(data.evaluate(network), before):
            found |= {"connections": int((strengths > threshold).sum()), "threshold": threshold}
    with torch.no_grad():
        for weight, whole in zip(weights, trained, strict=True):
            weight.copy_(whole)
    return found


def _as_good(after: dict[str, float], before: dict[str, float]) -> bool:
    if "train_accuracy" in before:
        return after["train_accuracy"] >= before["train_accuracy"] - ACCURACY
    return after["prediction_loss"] <= before["prediction_loss"] * (1 + LOSS)
