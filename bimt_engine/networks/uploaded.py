"""A network that a user has uploaded, as one that a spec may name: its weights are those of the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bimt_engine.data.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.architecture import Architecture, Draw, Geometry, Network
from bimt_engine.networks.mlp import input_runs

SHA256 = r"^[0-9a-f]{64}$"

_files: dict[str, Path] = {}


def provide_files(files: Mapping[str, Path]) -> None:
    """From now on these are the files of uploaded networks, by the SHA-256 that a spec names; others are forgotten.

    A file of a run stands in for the one that was uploaded: it has the same network with other numbers.
    """
    _files.clear()
    _files.update(files)


@contextmanager
def provided(files: Mapping[str, Path]) -> Iterator[None]:
    """Inside, these files are there besides the others."""
    before = dict(_files)
    _files.update(files)
    try:
        yield
    finally:
        provide_files(before)


class UploadedNetwork(Architecture):
    """A network of your own, an uploaded file: trained on from its weights, or only analysed."""

    kind: Literal["uploaded"] = "uploaded"
    network: Annotated[str, Field(pattern=r"^[a-z]+_[0-9a-z]{26}$", description="Id of the uploaded network.")]
    sha256: Annotated[str, Field(pattern=SHA256)] | None = Field(
        default=None, description="Of its file; the service fills it in, with all that follows."
    )
    format: Literal["onnx", "safetensors"] | None = None
    config: dict[str, Any] | None = Field(default=None, description="Which network the weights of a file are of.")
    geometry: Geometry = "line"

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The network of the file. Nothing is drawn."""
        path = _files.get(self.sha256 or "")
        if path is None:
            raise SpecError(f"The file of the network `{self.network}` is not here: submit the job to the service.")
        found = sha256_of(path)
        network = deepcopy(_built(path, found, str(self.format), json.dumps(self.config), self.geometry))
        _check(network, data)
        join_columns(network, data, self.geometry)
        return network.to(draw.dtype)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_its_format(spec: UploadedNetwork, network: Network) -> bytes:
    """The file of an uploaded network with the numbers of this one, which was built from it.

    ONNX: all else in the file is as it was. safetensors: parameters by name, the config in the metadata.
    Raises SpecError where the file is not here.
    """
    from bimt_engine.networks.files.reading import with_numbers_of

    path = _files.get(spec.sha256 or "")
    if path is None:
        raise SpecError(f"The file of the network `{spec.network}` is not here.")
    return with_numbers_of(network, path.read_bytes(), spec.format or "onnx", spec.config, geometry=spec.geometry)


@lru_cache(maxsize=2)
def _built(path: Path, sha256: str, form: str, config: str, geometry: str) -> Network:
    """The network of a file at float64. It is derived once: the proof of its wiring takes seconds."""
    from bimt_engine.networks.files.reading import engine_network

    return engine_network(path.read_bytes(), form, json.loads(config), geometry=geometry)


def join_columns(network: Network, data: Dataset, geometry: str) -> None:
    """What a column of a table became (the levels of a category, a number and its gaps) is one neuron of the inputs.

    Inputs that the network reads by copies, or that lie in another order than the data's, stay each for itself.
    """
    from bimt_engine.networks.geometry import place_layers

    layer, runs = network.wiring.input_layer, input_runs(data)
    in_order = network.input_order.tolist() == list(range(layer.neurons))
    if not runs or layer.runs or layer.copies > 1 or layer.blocks > 1 or sum(runs) != layer.neurons or not in_order:
        return
    [positions] = place_layers([layer.neurons], [geometry], runs=runs)
    if positions.shape == layer.positions.shape:
        joined = replace(layer, positions=positions.to(layer.positions), runs=runs)
        network.wiring = replace(network.wiring, neuron_layers=(joined, *network.wiring.neuron_layers[1:]))


def _check(network: Network, data: Dataset) -> None:
    """Raises SpecError where the data do not fit the network."""
    shape, tokens = network.declared_inputs
    example = data.train_inputs.shape[1:]
    if (tokens is not None) != (data.tokens is not None):
        kinds = ("tokens", "numbers")
        raise SpecError(f"The network reads {kinds[tokens is None]}, and the data are {kinds[data.tokens is None]}.")
    if tokens is not None and data.tokens is not None and data.tokens > tokens:
        raise SpecError(f"The network knows {tokens} tokens, and the data have {data.tokens}.")
    fixed = [length for length in shape if length is not None]
    free = len(shape) - len(fixed)  # the time of a sequence
    if (prod(shape) != prod(example)) if not free else (len(shape) != len(example) or fixed != list(example[1:])):
        read = " × ".join("any" if length is None else str(length) for length in shape)
        raise SpecError(f"The network reads {read} numbers of an example, and one of the data has {prod(example)}.")
    places = getattr(network, "positions", None)
    if data.is_text and places is not None and data.steps > len(places):
        raise SpecError(
            f"The network has positions for {len(places)} tokens, and an example of the data has {data.steps}: ask for "
            "a shorter `context`."
        )
    outputs = network.wiring.output_layer.neurons
    if outputs != data.targets:
        raise SpecError(f"The network has {outputs} outputs, and the data have {data.targets} targets or classes.")
