"""A network that a user brings: an ONNX file, or weights as safetensors with a config that says what they are of.

Nothing in either is executed. Reading is `read_network`; what the service says about the file is `header_of`.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from bimt_engine.data.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.exports.weights import load_weights
from bimt_engine.networks.attach import Attached, attach
from bimt_engine.networks.attach.traced import network_of, parameter_names
from bimt_engine.networks.files.config_json import LAYOUTS
from bimt_engine.networks.files.onnx_file import NetworkFileError, before_probabilities, read_onnx
from bimt_engine.networks.files.onnx_network import OnnxNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.transformer import TransformerNetwork
from bimt_engine.spec import NetworkConfig


class DeclaredInputs(NamedTuple):
    """What an ONNX network reads: the shape of an example, None where it is free, and the number of tokens, or None."""

    shape: tuple[int | None, ...]
    tokens: int | None


MAX_TENSORS = 1_000  # named in a header
MAX_HEADER_BYTES = 16 << 20  # of a safetensors file
CONFIG_KEY = "config"  # of the metadata of a safetensors file


def read_network(
    content: bytes, form: str, config: dict[str, Any] | None = None, *, scores: bool = False
) -> OnnxNetwork | Network:
    """The network in a file, as a torch module.

    form     onnx or safetensors
    scores   an ONNX network that ends in probabilities ends in scores instead, as a loss of classes takes them
    config   of a safetensors file, as NetworkConfig has it; None: in the file's metadata under `config`, or the file is
             one of the service's own, whose metadata say it all
    Raises NetworkFileError, or another BimtError, for a file that cannot be used.
    """
    if form == "onnx":
        graph = read_onnx(content)
        return OnnxNetwork(before_probabilities(graph) if scores else graph)
    return _read_safetensors(content, config)


def header_of(network: OnnxNetwork | Network) -> dict[str, Any]:
    """What the header says of a network: its operators or kind, parameters, tensors, shapes. Plain data."""

    if isinstance(network, OnnxNetwork):
        return network.header()
    parameters = {name: list(value.shape) for name, value in network.named_parameters()}
    shape, tokens = network.declared_inputs
    times = [None] * (len(shape) > 1 and shape[0] is None)  # a sequence, which is answered at every step
    return {
        "kind": network.kind,
        "parameters": sum(value.numel() for value in network.parameters()),
        "tensors": [[name, shape] for name, shape in parameters.items()][:MAX_TENSORS],
        "input": {"name": "x", "type": "float64" if tokens is None else "int64", "shape": [None, *shape]},
        "output": {"name": "y", "shape": [None, *times, network.wiring.output_layer.neurons]},
        "layers": [[layer.name, layer.neurons] for layer in network.wiring.neuron_layers],
        "notes": [],
    }


def engine_network(content: bytes, form: str, config: dict[str, Any] | None, *, geometry: str = "line") -> Network:
    """The network in a file as one of the engine, with a wiring, at float64.

    That of an ONNX file is derived and proven; its `declared_inputs` are what the file says. Raises a BimtError for a
    file that cannot be used, and for a network whose wiring cannot be derived.
    """
    found = read_network(content, form, config, scores=True)
    if isinstance(found, Network):
        return found.double()
    attached = _attached(found, geometry)
    network = network_of(attached)
    names, fixed = (
        parameter_names(attached),
        dict(found.named_buffers()),
    )  # statistics, and tables of the file that are not trained
    for view in attached.views.views:
        if view.tensor in fixed:
            network.get_parameter(names[view.name]).requires_grad_(False)
    network.declared_inputs = DeclaredInputs(found.graph.shape[1:], found.vocabulary())  # type: ignore[assignment]
    return network


def with_numbers_of(
    network: Network, content: bytes, form: str, config: dict[str, Any] | None, *, geometry: str = "line"
) -> bytes:
    """The file with the numbers of a network that `engine_network` made of it, or of one like it."""
    found = read_network(content, form, config, scores=True)
    if isinstance(found, Network):
        said = {CONFIG_KEY: json.dumps(config)} if config is not None else _metadata(content)
        parsed = NetworkConfig.model_validate_json(said[CONFIG_KEY]) if CONFIG_KEY in said else None
        named = {name: value.detach().cpu().contiguous().clone() for name, value in network.named_parameters()}
        if parsed is not None and parsed.layout in LAYOUTS:
            named = LAYOUTS[parsed.layout][1](named, cast(TransformerNetwork, parsed.network))
        return save(named, said)
    attached = _attached(found, geometry)
    names = parameter_names(attached)
    tensors = dict(found.named_parameters()) | dict(found.named_buffers())
    with torch.no_grad():
        for view in attached.views.views:
            given = network.get_parameter(names[view.name]).detach().cpu()
            flat, there = tensors[view.tensor].view(-1), view.entries >= 0
            flat[view.entries[there]] = given[there].to(flat.dtype)
    return found.onnx(content)


def _attached(found: OnnxNetwork, geometry: str) -> Attached:
    return attach(found.eval(), (found.example(3),), geometry=geometry)


def _read_safetensors(content: bytes, config: dict[str, Any] | None) -> Network:

    metadata = _metadata(content)
    if "bimt" in metadata and config is None:
        try:
            saved = load_weights(content)
            return _declared(saved.network, saved.data)
        except (KeyError, TypeError, ValueError):
            raise NetworkFileError("The file's metadata do not say completely which network it is of.") from None
    try:
        said = config if config is not None else json.loads(metadata[CONFIG_KEY])
        parsed = NetworkConfig.model_validate(said)
        tensors = load(content)
    except KeyError:
        raise NetworkFileError(
            "Send a `config` with the weights, or put it into the file's metadata: which network they are of, with how "
            "many inputs and targets (of GPT-2 and Llama, their config.json)."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(str(step) for step in first["loc"])
        raise NetworkFileError(f"The config is wrong at `{place}`: {first['msg']}.") from None
    except (SafetensorError, ValueError):
        raise NetworkFileError("The file is not safetensors, or damaged.") from None
    try:
        built = build_network(
            parsed.network, _data_of(parsed), precision="float64", generator=torch.Generator().manual_seed(0)
        )
    except (SpecError, ValueError) as error:
        raise NetworkFileError(f"The config does not make a network: {error}") from None
    if parsed.layout in LAYOUTS:
        tensors = LAYOUTS[parsed.layout][0](tensors, cast(TransformerNetwork, parsed.network))
    parameters = dict(built.named_parameters())
    for what, names in (
        ("lacks", parameters.keys() - tensors.keys()),
        ("also holds", tensors.keys() - parameters.keys()),
    ):
        if names:
            shown = ", ".join(f"`{name[:60]}`" for name in sorted(names)[:5])
            raise NetworkFileError(f"The file {what} {shown}; this network has {', '.join(parameters)[:300]}.")
    for name, parameter in parameters.items():
        given = tensors[name]
        if given.shape != parameter.shape or not given.is_floating_point():
            shapes = f"{given.dtype} of the shape {list(given.shape)}, not numbers of {list(parameter.shape)}"
            raise NetworkFileError(f"`{name}` is {shapes} as its config calls for.")
        parameter.data = given.to(parameter.dtype)
    return _declared(built, _data_of(parsed))


def _declared(network: Network, data: Dataset) -> Network:
    """The network, which says what one example is: its input layer may hold channels, or vectors of tokens."""
    shape = data.train_inputs.shape[1:]
    if data.is_sequence:
        shape = (None, *shape[1:])
    network.declared_inputs = DeclaredInputs(shape, data.tokens)  # type: ignore[assignment]
    return network


def _data_of(config: NetworkConfig) -> Dataset:
    """A data set of this shape without rows, enough to build the network."""
    if config.tokens is not None and config.steps is not None:  # text: a label for each token
        windows = np.zeros((0, config.steps), np.int64)
        names = tuple(f"token{number}" for number in range(config.tokens))
        return Dataset(windows, windows, windows, windows, "classification", names, names, tokens=config.tokens)
    steps = () if config.steps is None else (config.steps,)
    inputs = np.zeros((0, *steps, config.inputs), np.float64 if config.tokens is None else np.int64)
    is_class = config.task == "classification"
    targets = np.zeros((0,) if is_class else (0, *steps, config.targets), np.int64 if is_class else np.float64)
    return Dataset(
        inputs,
        targets,
        inputs,
        targets,
        task=config.task,
        feature_names=tuple(f"x{number + 1}" for number in range(config.inputs)),
        target_names=tuple(f"y{number + 1}" for number in range(config.targets)),
        tokens=config.tokens,
    )


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file. Raises BimtError."""

    try:
        [length] = struct.unpack("<Q", content[:8])
        if not 0 < length <= min(MAX_HEADER_BYTES, len(content) - 8):
            raise ValueError(length)
        found = json.loads(content[8 : 8 + length].decode()).get("__metadata__", {})
        return {str(key): str(value) for key, value in found.items()}
    except (struct.error, ValueError, AttributeError, RecursionError):
        raise NetworkFileError("The file is not safetensors, or damaged.") from None
