"""A finished network as one safetensors file: nothing executable in it, and everything needed to build it again.

Tensors: each parameter of the pruned and refitted network under its own name, `mask.NAME` (what was kept),
`order.LAYER` (which neuron sits in which slot), and `trained.NAME`, the network as training left it.
Metadata: the spec, the seed, the shape and names of the data, SHA-256 of the data and of the engine's code, and the
format's name.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from bimt_engine.data.dataset import Answer, Dataset, Scaling
from bimt_engine.data.encoding import TableEncoding
from bimt_engine.errors import BimtError
from bimt_engine.fingerprint import code_hash, data_hash
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.uploaded import provided
from bimt_engine.spec import Spec

FORMAT = "bimt-network/1"


class WeightsError(BimtError):
    """These bytes are not a network that this version can read."""


@dataclass(frozen=True)
class SavedNetwork:
    """What a weights file holds.

    network   pruned and refitted, ready to call: `network(inputs)`.
    trained   as training left it, before anything was taken away.
    masks     parameter name -> which entries were kept.
    data      shape and names of the data, with no rows; its scalings turn raw columns into inputs and back.
    hashes    SHA-256 of the examples (`data`) and of the engine's source (`code`); empty in older files.
    """

    network: Network
    trained: Network
    masks: dict[str, Tensor]
    spec: Spec
    seed: int
    data: Dataset
    hashes: dict[str, str] = field(default_factory=dict)


def weights_file(trained: Network, pruned: Network, *, spec: Spec, seed: int, dataset: Dataset) -> bytes:
    """The file's bytes; the same networks give the same bytes."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in pruned.named_parameters():
        tensors[name] = parameter.detach().contiguous()
        tensors[f"mask.{name}"] = parameter.detach() != 0
    for name, parameter in trained.named_parameters():
        tensors[f"trained.{name}"] = parameter.detach().contiguous()
    for layer, order in pruned.orders.items():
        tensors[f"order.{layer}"] = order.contiguous()
    for layer, order in trained.orders.items():
        tensors[f"trained.order.{layer}"] = order.contiguous()
    said = {
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "seed": seed,
        "data": _shape(dataset),
        "hashes": {"code": code_hash(), **({"data": data_hash(dataset)} if len(dataset.train_inputs) else {})},
    }
    # One key only: the library writes several in an order that changes from call to call.
    return save({name: tensor.cpu().clone() for name, tensor in tensors.items()}, {"bimt": json.dumps(said)})


def load_weights(content: bytes) -> SavedNetwork:
    """The networks of a weights file, built from its spec. Raises WeightsError when the bytes are something else."""
    try:
        tensors, metadata = load(content), _metadata(content)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"This is not a safetensors file, or it is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        said = metadata.get("format", "no format at all")
        raise WeightsError(f"The file names {said}; this version reads {FORMAT}.")
    spec, data = Spec.from_stored(metadata["spec"]), _without_rows(metadata["data"])
    return SavedNetwork(
        network=_build(spec, data, tensors, prefix=""),
        trained=_build(spec, data, tensors, prefix="trained."),
        masks={name.removeprefix("mask."): kept for name, kept in tensors.items() if name.startswith("mask.")},
        spec=spec,
        seed=metadata["seed"],
        data=data,
        hashes=dict(metadata.get("hashes", {})),
    )


def load_bundle(path: Path) -> SavedNetwork:
    """The networks of a run or version from its bundle, the zip file that the service gives; no service is asked.

    That of an uploaded network holds the network's own file, from which it is built. Raises WeightsError where the file
    is no bundle, or a part of it is missing or has other bytes than its list says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = json.loads(archive.read("manifest.json"))["files"]

            def part(name: str) -> bytes:
                content = archive.read(name)
                if hashlib.sha256(content).hexdigest() != listed[name]["sha256"]:
                    raise WeightsError(f"`{name}` in the bundle has other bytes than its list says; load it again.")
                return content

            weights = part("weights.safetensors")
            network = json.loads(part("spec.json")).get("network") or {}
            if network.get("kind") != "uploaded":
                return load_weights(weights)
            with TemporaryDirectory() as folder:
                file = Path(folder) / "network"
                file.write_bytes(part(f"network.{network['format']}"))
                with provided({network["sha256"]: file}):
                    return load_weights(weights)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError) as error:
        raise WeightsError(f"This is not the bundle of a run, or it is damaged: {error}") from error


def _metadata(content: bytes) -> dict[str, Any]:
    """What stands in the file's header beside the tensors. The library reads metadata from files only."""
    with NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        with safe_open(file.name, framework="pt") as opened:
            return dict(json.loads((opened.metadata() or {}).get("bimt", "{}")))


def _build(spec: Spec, data: Dataset, tensors: dict[str, Tensor], *, prefix: str) -> Network:
    network = build_network(spec.network, data, precision="float64", generator=torch.Generator().manual_seed(0))
    parameters = dict(network.named_parameters())
    named = [*parameters, *(f"order.{layer}" for layer in network.orders)]
    missing = [f"{prefix}{name}" for name in named if f"{prefix}{name}" not in tensors]
    if missing:
        raise WeightsError(f"The file lacks {', '.join(missing)}, which its spec calls for.")
    for name, parameter in parameters.items():
        saved = tensors[f"{prefix}{name}"]
        if parameter.shape != saved.shape:
            shapes = f"{tuple(saved.shape)}, not {tuple(parameter.shape)}"
            raise WeightsError(f"`{name}` has shape {shapes} as its spec calls for.")
        parameter.data = saved.clone()
    network.adopt_orders({layer: tensors[f"{prefix}order.{layer}"] for layer in network.orders})
    return network


def _shape(dataset: Dataset) -> dict[str, Any]:
    """Everything of a data set but its rows, as `_without_rows` reads it."""
    return {
        "example": list(dataset.train_inputs.shape[1:]),
        "target": list(dataset.train_targets.shape[1:]),
        "task": dataset.task,
        "feature_names": list(dataset.feature_names),
        "target_names": list(dataset.target_names),
        "tokens": dataset.tokens,
        "input_scaling": dataset.input_scaling and dataset.input_scaling.to_json(),
        "target_scaling": dataset.target_scaling and dataset.target_scaling.to_json(),
        "predicted_positions": dataset.predicted_positions,
        **({"answers": [answer.to_json() for answer in dataset.answers]} if dataset.answers else {}),
        **({"encoding": dataset.encoding.to_json()} if dataset.encoding else {}),
        **({"origin": dict(dataset.origin)} if dataset.origin else {}),
    }


def _without_rows(shape: dict[str, Any]) -> Dataset:
    """A data set of this shape with no examples: enough to build a network and to scale what comes in."""
    inputs = np.zeros((0, *shape["example"]), np.int64 if shape["tokens"] else np.float64)
    targets = np.zeros((0, *shape["target"]), np.int64 if shape["task"] == "classification" else np.float64)
    positions = shape["predicted_positions"]
    return Dataset(
        train_inputs=inputs,
        train_targets=targets,
        test_inputs=inputs,
        test_targets=targets,
        task=shape["task"],
        feature_names=tuple(shape["feature_names"]),
        target_names=tuple(shape["target_names"]),
        tokens=shape["tokens"],
        input_scaling=shape["input_scaling"] and Scaling.from_json(shape["input_scaling"]),
        target_scaling=shape["target_scaling"] and Scaling.from_json(shape["target_scaling"]),
        predicted_positions=tuple(positions) if positions is not None else None,
        origin=shape.get("origin"),
        answers=tuple(
            Answer(one["name"], tuple(one.get("levels", ())), one.get("median")) for one in shape.get("answers", ())
        ),
        encoding=TableEncoding.from_json(shape["encoding"]) if shape.get("encoding") else None,
    )
