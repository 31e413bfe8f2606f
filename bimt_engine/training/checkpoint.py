"""A checkpoint: everything a training needs to resume, bit for bit as if it had never stopped. Never a pickle.

Random draws depend on seed and step alone (bimt_engine/random.py), so no generator's state has to be kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from bimt_engine.errors import CheckpointError
from bimt_engine.spec import Spec
from bimt_engine.training.snapshot import ORDER, read_safetensors
from bimt_engine.training.state import TrainingState

FORMAT = 1


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
            free["dataset"] = {"split_version", "validation_fraction"}
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
    return save(arrays, metadata={"bimt": json.dumps({"format": FORMAT, **vars(header)})})


def read_header(content: bytes) -> CheckpointHeader:
    """A checkpoint's header. Raises CheckpointError when the bytes are damaged or of another format."""
    metadata, _ = read_safetensors(content)
    if metadata.pop("format", None) != FORMAT:
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
