"""Weights by name with a config become the network that the config says, or are refused with a sentence."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from bimt_engine.errors import SpecError
from bimt_engine.exports.weights import weights_file
from bimt_engine.networks.files.onnx_file import NetworkFileError
from bimt_engine.networks.files.reading import header_of, read_network
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.uploaded import UploadedNetwork, provided, sha256_of
from tests.engine.makers import ARCHITECTURES, build, spec_for, table_data, token_data


def content_of(name: str) -> tuple[bytes, dict[str, Any], Network]:
    """The weights of a network, with the config that says what they are of."""
    network, data = build(name, seed=3)
    spec, _ = ARCHITECTURES[name]()
    tensors = {key: value.detach().contiguous() for key, value in network.named_parameters()}
    config = {
        "network": spec.model_dump(mode="json"),
        "inputs": data.inputs,
        "targets": data.targets,
        "task": data.task,
        "tokens": data.tokens,
        "steps": data.train_inputs.shape[1] if data.is_sequence else None,
    }
    return save(tensors), config, network


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_read_with_its_config(name: str) -> None:
    content, config, network = content_of(name)
    _, data = build(name)
    x = torch.from_numpy(data.test_inputs[:5])
    found = read_network(content, "safetensors", config)
    torch.testing.assert_close(found(x), network(x), rtol=0, atol=0)
    in_the_file = save(load(content), {"config": json.dumps(config)})
    torch.testing.assert_close(read_network(in_the_file, "safetensors")(x), network(x), rtol=0, atol=0)
    header = header_of(found)
    assert header["kind"] == network.kind
    assert header["parameters"] == sum(value.numel() for value in network.parameters())
    json.dumps(header)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_the_data_that_it_was_made_for_and_no_others(name: str, tmp_path: Path) -> None:
    content, config, network = content_of(name)
    _, data = build(name)
    file = tmp_path / "network"
    file.write_bytes(content)
    spec = UploadedNetwork(
        network=f"net_{26 * '0'}", sha256=sha256_of(file), format="safetensors", config=config, geometry="line"
    )
    with provided({sha256_of(file): file}):
        x = torch.from_numpy(data.test_inputs[:5])
        built = build_network(spec, data, generator=torch.Generator())
        torch.testing.assert_close(built(x), network(x), rtol=0, atol=0)
        others = [token_data(data.tokens + 1) if data.tokens else table_data(data.inputs + 1, data.targets)]
        others += [table_data() if data.tokens else token_data()]
        for other in others:
            with pytest.raises(SpecError, match="The network"):
                build_network(spec, other, generator=torch.Generator())


def test_a_weights_file_of_the_service_needs_no_config() -> None:
    network, data = build("mlp", seed=3)
    spec, _ = spec_for("mlp")
    found = read_network(weights_file(network, network, spec=spec, seed=0, dataset=data), "safetensors")
    x = torch.from_numpy(data.test_inputs[:5])
    torch.testing.assert_close(found(x), network(x), rtol=0, atol=0)


CHANGES: dict[str, tuple[Callable[[bytes, dict[str, Any]], tuple[bytes, dict[str, Any] | None]], str]] = {
    "no config": (lambda content, config: (content, None), "Send a `config`"),
    "no network in it": (lambda content, config: (content, {"inputs": 3, "targets": 2}), "wrong at `network`"),
    "an unknown kind": (lambda content, config: (content, config | {"network": {"kind": "own"}}), "wrong at `network`"),
    "another width": (lambda content, config: (content, config | {"inputs": 9}), "not numbers of"),
    "another depth": (
        lambda content, config: (content, config | {"network": {"kind": "mlp", "hidden": [7]}}),
        "also holds",
    ),
    "tokens and steps": (lambda content, config: (content, config | {"tokens": 3, "steps": 3}), "does not make a"),
    "whole numbers": (
        lambda content, config: (save({name: value.long() for name, value in load(content).items()}), config),
        "not numbers of",
    ),
    "noise": (lambda content, config: (b"\x80\x02not a pickle either" * 9, config), "not safetensors"),
    "cut off": (lambda content, config: (content[:-8], config), "not safetensors"),
    "nothing": (lambda content, config: (b"", config), "not safetensors"),
    "10⁹ parameters": (
        lambda content, config: (_declares(10**9), config),
        "not safetensors",
    ),
    "half of the service's own metadata": (
        lambda content, config: (save(load(content), {"bimt": json.dumps({"format": "bimt-network/1"})}), None),
        "do not say completely",
    ),
}


def _declares(numbers: int) -> bytes:
    header = json.dumps({"w": {"dtype": "F64", "shape": [numbers], "data_offsets": [0, 8 * numbers]}}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_is_refused_with_a_sentence(name: str) -> None:
    content, config, _ = content_of("mlp")
    change, sentence = CHANGES[name]
    with pytest.raises(NetworkFileError, match=sentence):
        read_network(*_in_order(*change(content, config)))


def _in_order(content: bytes, config: dict[str, Any] | None) -> tuple[Any, ...]:
    return content, "safetensors", config


def test_the_check_is_a_process_that_limits_itself(tmp_path: Path) -> None:
    content, config, _ = content_of("mlp")
    path = tmp_path / "weights"
    path.write_bytes(content)

    def said(*more: str) -> dict[str, Any]:
        command = [
            sys.executable,
            "-m",
            "bimt_engine.check",
            "network",
            "--format",
            "safetensors",
            *more,
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    assert said("--config", json.dumps(config))["header"]["kind"] == "mlp"
    assert "Send a `config`" in said()["errors"][0]["detail"]
    wide = {"network": {"kind": "mlp", "hidden": [4096] * 8}, "inputs": 4096, "targets": 4096}
    small = said("--config", json.dumps(wide), "--memory-bytes", str(1 << 30))
    assert "more memory" in small["errors"][0]["detail"]
