"""A snapshot: the weights and orders of a training at one step, for display. (Checkpoints are for resuming.)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from bimt_engine.errors import CheckpointError
from bimt_engine.training.state import TrainingState

ORDER = "order."  # tensor names: parameters as in the network, and `order.<neuron layer>`


@dataclass(frozen=True)
class Snapshot:
    """Weights in slot order, and the neuron in each slot, so that a film can show two neurons exchanging slots.

    weights   parameter name -> float32.
    orders    neuron layer name -> order[slot] = identity.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    orders: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, state: TrainingState, replica: int = 0) -> Snapshot:
        """The present snapshot of one replica, copied."""
        flat = state.theta[replica].detach().to("cpu").float().numpy().copy()
        weights = {place.name: flat[place.slice].reshape(place.shape) for place in state.layout}
        orders = {name: order[replica].cpu().numpy().copy() for name, order in state.orders.items()}
        return cls(state.step, weights, orders)

    def to_bytes(self) -> bytes:
        """safetensors; the same snapshot gives the same bytes."""
        tensors = {name: np.ascontiguousarray(weight) for name, weight in self.weights.items()}
        tensors.update({ORDER + name: order for name, order in self.orders.items()})
        return save(tensors, metadata={"bimt": json.dumps({"step": self.step})})

    @classmethod
    def from_bytes(cls, content: bytes) -> Snapshot:
        """The snapshot that `to_bytes` wrote. Raises CheckpointError when the bytes are damaged."""
        metadata, tensors = read_safetensors(content)
        return cls(
            int(metadata["step"]),
            {name: tensor for name, tensor in tensors.items() if not name.startswith(ORDER)},
            {name.removeprefix(ORDER): tensor for name, tensor in tensors.items() if name.startswith(ORDER)},
        )


def read_safetensors(content: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The `bimt` metadata and the tensors. Raises CheckpointError when the bytes are damaged or not the engine's."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = json.loads(header["__metadata__"]["bimt"])
        return metadata, load(content)
    except Exception as error:  # safetensors raises several kinds; all mean damaged bytes
        raise CheckpointError(f"These {len(content)} bytes are no snapshot or checkpoint ({error}).") from error
