"""All that changes while a network is trained: one flat vector for each replica, and the neuron in each slot.

`theta[r]` is every parameter of replica r, one after another. The network's own parameters are views of row 0,
so that a stepper works on flat memory and all else on named parameters, without a copy.

Also how it becomes bytes, never a pickle: checkpoints, to resume a training bit for bit as if it had never stopped, and
snapshots, to look at. Random draws depend on seed and step alone (bimt_engine/random.py), so no generator's state has
to be kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from safetensors.numpy import load, save
from torch import Tensor

from bimt_engine.errors import CheckpointError
from bimt_engine.networks.network import Network
from bimt_engine.networks.wiring import Wiring
from bimt_engine.spec import Spec

CHECKPOINT_FORMAT = 1


class Place(NamedTuple):
    """The range of one parameter in the flat vector."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return prod(self.shape)

    @property
    def slice(self) -> slice:
        """Its entries in the flat vector."""
        return slice(self.offset, self.offset + self.size)


Layout = tuple[Place, ...]


def layout_of(network: Network) -> Layout:
    """The parameters in the order of `network.named_parameters()`, end to end."""
    places, offset = [], 0
    for name, parameter in network.named_parameters():
        places.append(Place(name, offset, tuple(parameter.shape)))
        offset += parameter.numel()
    return tuple(places)


@dataclass
class TrainingState:
    """Weights, moments, mask and orders of R replicas of one network after `step` optimiser steps.

    theta          (R, P); the parameters of `network` are views of row 0.
    first_moment   (R, P) as Adam keeps it; second_moment the same.
    mask           (R, P) or None; False entries are 0 and stay exactly 0.
    orders         neuron layer name -> (R, neurons); order[slot] = the initial slot of the neuron in it.
                   The orders of `network` are views of row 0.
    orders_version rises whenever an order changes, so that a stepper knows when to gather its inputs again.
    """

    network: Network
    layout: Layout
    theta: Float[Tensor, "R P"]
    first_moment: Float[Tensor, "R P"]
    second_moment: Float[Tensor, "R P"]
    orders: dict[str, Int64[Tensor, "R _"]]
    mask: Bool[Tensor, "R P"] | None = None
    step: int = 0
    orders_version: int = field(default=0, compare=False)

    @classmethod
    def of(cls, networks: Network | Sequence[Network]) -> TrainingState:
        """The state of networks of one shape as replicas; the first one's parameters become views of `theta`."""
        replicas = [networks] if isinstance(networks, Network) else list(networks)
        layout = layout_of(replicas[0])
        with torch.no_grad():
            theta = torch.stack(
                [torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]) for net in replicas]
            )
        orders = {name: torch.stack([net.orders[name] for net in replicas]) for name in replicas[0].orders}
        state = cls(replicas[0], layout, theta, torch.zeros_like(theta), torch.zeros_like(theta), orders)
        state.bind()
        return state

    @cached_property
    def geometry(self) -> dict[str, Any]:
        """Where the slots are and which are connected; training changes neither."""
        return geometry_of(self.network.wiring)

    @property
    def replicas(self) -> int:
        """How many replicas there are."""
        return self.theta.shape[0]

    @property
    def size(self) -> int:
        """How many numbers one replica's parameters are."""
        return self.theta.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of the layout."""
        return tuple(place.name for place in self.layout)

    def bind(self, replica: int = 0) -> None:
        """Make the network's parameters and orders views of one row, row 0 by default."""
        parameters = dict(self.network.named_parameters())
        for place in self.layout:
            parameters[place.name].data = self.theta[replica, place.slice].view(place.shape)
        self.network.adopt_orders({name: order[replica] for name, order in self.orders.items()})

    @contextmanager
    def showing(self, replica: int) -> Iterator[Network]:
        """The network with the weights and orders of one replica within the block; afterwards it is row 0 again."""
        if replica:
            self.bind(replica)
        try:
            yield self.network
        finally:
            if replica:
                self.bind()

    def place(self, name: str) -> Place:
        """The range of a parameter. Raises KeyError that lists the names."""
        for place in self.layout:
            if place.name == name:
                return place
        raise KeyError(f"no parameter {name!r}; there are {', '.join(self.names)}")

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat tensor (P,) or (R, P); a leading replica axis is kept."""
        lead = flat.shape[:-1]
        return {place.name: flat[..., place.slice].view(*lead, *place.shape) for place in self.layout}

    def apply_mask(self) -> None:
        """Set masked weights and their moments to 0."""
        if self.mask is not None:
            for flat in (self.theta, self.first_moment, self.second_moment):
                flat.masked_fill_(~self.mask, 0.0)


# --- checkpoints ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint holds beside the tensors.

    stepper    the one that was used; another one would not give the bits of an undisturbed run.
    finished   the last step and the final layout are done.
    seconds    of training so far.
    """

    step: int
    seeds: tuple[int, ...]
    stepper: str
    device: str
    finished: bool
    seconds: float
    fingerprint: str


def fingerprint(specs: Sequence[Spec], seeds: Sequence[int]) -> str:
    """SHA-256 of a training: its networks, data, schedule and seeds; not its stepper, device or reporting intervals."""
    intervals = {"log_every", "snapshot_every", "checkpoint_every"}

    def identity_of(spec: Spec) -> dict[str, Any]:
        free: dict[str, Any] = {"training": {"stepper", "device", *intervals}, "evidence": True}
        if spec.dataset.split_version == 1:  # what the versions before knew nothing of, so that their checkpoints fit
            free["dataset"] = {"split_version", "validation_fraction", "split"}
        document = spec.model_dump(mode="json", exclude=free)
        if document["training"]["balance_outputs"] is False:
            del document["training"]["balance_outputs"]
        return document

    identity = [[identity_of(spec), seed] for spec, seed in zip(specs, seeds, strict=True)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def write_checkpoint(state: TrainingState, header: CheckpointHeader) -> bytes:
    """safetensors: θ, both moments, mask and orders, with the header as JSON metadata."""
    tensors = {
        "theta": state.theta,
        "first_moment": state.first_moment,
        "second_moment": state.second_moment,
        **{ORDER + name: order for name, order in state.orders.items()},
    }
    if state.mask is not None:
        tensors["mask"] = state.mask
    arrays = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
    return save(arrays, metadata={"bimt": json.dumps({"format": CHECKPOINT_FORMAT, **vars(header)})})


def read_header(content: bytes) -> CheckpointHeader:
    """A checkpoint's header. Raises CheckpointError when the bytes are damaged or of another format."""
    metadata, _ = read_safetensors(content)
    if metadata.pop("format", None) != CHECKPOINT_FORMAT:
        raise CheckpointError("This checkpoint was written by another version: start the run again from its beginning.")
    try:
        return CheckpointHeader(**{**metadata, "seeds": tuple(metadata["seeds"])})
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"This checkpoint's description is incomplete ({error}): start the run anew.") from error


def read_checkpoint(content: bytes, state: TrainingState, expected: str) -> CheckpointHeader:
    """Put a checkpoint into a fresh state of the same network, in place.

    expected   the fingerprint of the training that is resumed.
    Raises CheckpointError when the bytes are damaged, of another format or of another training.
    """
    header = read_header(content)
    if header.fingerprint != expected:
        raise CheckpointError("This checkpoint belongs to another spec or seed: resume it with the spec that wrote it.")
    _, arrays = read_safetensors(content)
    wanted = {"theta": state.theta, "first_moment": state.first_moment, "second_moment": state.second_moment}
    wanted.update({ORDER + name: order for name, order in state.orders.items()})
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name not in arrays or arrays[name].shape != tuple(tensor.shape):
                raise CheckpointError(f"This checkpoint has no fitting {name!r}: it is of another network.")
            tensor.copy_(torch.from_numpy(arrays[name]))
        if "mask" in arrays:
            state.mask = torch.from_numpy(arrays["mask"]).to(state.theta.device)
    state.step = header.step
    state.orders_version += 1
    return header


# --- snapshots --------------------------------------------------------------------------------------


ORDER = "order."  # tensor names: parameters as in the network, and `order.<neuron layer>`


@dataclass(frozen=True)
class Snapshot:
    """Weights in slot order, and the neuron in each slot, so that a film can show two neurons exchanging slots.

    weights   parameter name -> float32.
    orders    neuron layer name -> order[slot] = identity.
    geometry  JSON values, so that it can be drawn without the network: `layers` [{name, neurons, copies, positions}]
              and `connections` [{parameter, source, target}]; None in snapshots of older versions.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    orders: Mapping[str, np.ndarray]
    geometry: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, state: TrainingState, replica: int = 0) -> Snapshot:
        """The present snapshot of one replica, copied."""
        flat = state.theta[replica].detach().to("cpu").float().numpy().copy()
        weights = {place.name: flat[place.slice].reshape(place.shape) for place in state.layout}
        orders = {name: order[replica].cpu().numpy().copy() for name, order in state.orders.items()}
        return cls(state.step, weights, orders, state.geometry)

    def to_bytes(self) -> bytes:
        """safetensors; the same snapshot gives the same bytes."""
        tensors = {name: np.ascontiguousarray(weight) for name, weight in self.weights.items()}
        tensors.update({ORDER + name: order for name, order in self.orders.items()})
        metadata = {"step": self.step} | ({} if self.geometry is None else {"geometry": self.geometry})
        return save(tensors, metadata={"bimt": json.dumps(metadata)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Snapshot:
        """The snapshot that `to_bytes` wrote. Raises CheckpointError when the bytes are damaged."""
        metadata, tensors = read_safetensors(content)
        return cls(
            int(metadata["step"]),
            {name: tensor for name, tensor in tensors.items() if not name.startswith(ORDER)},
            {name.removeprefix(ORDER): tensor for name, tensor in tensors.items() if name.startswith(ORDER)},
            metadata.get("geometry"),
        )


def geometry_of(wiring: Wiring) -> dict[str, Any]:
    """What a picture needs to know of a wiring, as JSON values; positions to six digits."""
    return {
        "layers": [
            {
                "name": layer.name,
                "neurons": layer.neurons,
                "copies": layer.copies,
                "positions": [[round(x, 6) for x in place] for place in layer.positions.tolist()],
            }
            for layer in wiring.neuron_layers
        ],
        "connections": [
            {"parameter": one.parameter, "source": one.source, "target": one.target} for one in wiring.weight_layers
        ],
    }


def read_safetensors(content: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The `bimt` metadata and the tensors. Raises CheckpointError when the bytes are damaged or not the engine's."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = json.loads(header["__metadata__"]["bimt"])
        return metadata, load(content)
    except Exception as error:  # safetensors raises several kinds; all mean damaged bytes
        raise CheckpointError(f"These {len(content)} bytes are no snapshot or checkpoint ({error}).") from error
