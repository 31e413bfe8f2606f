"""`client.networks` and `bimt networks`: files and torch modules go up, are checked, and come back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bimt import InvalidFields, UploadedNetwork
from bimt.command import cli
from tests.engine.networks.files.makers import NETWORKS, said_by

CONFIG = {"network": {"kind": "mlp", "hidden": [3]}, "inputs": 2, "targets": 1}


def test_a_module_is_exported_here_and_comes_back_as_the_same_function(client, tmp_path):
    module, x = NETWORKS["residual cnn"]()
    network = client.networks.upload(module.train(), example=x)
    assert module.training, "it is as it was"
    assert (network.name, network.state, network.format) == ("Sequential", "ready", "onnx")
    assert network.operators["Conv"] == 5
    assert "parameters" in repr(network)
    back = network.download(tmp_path / "back.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(said_by(back.read_bytes(), x), module.eval()(x).numpy(), rtol=0, atol=1e-5)
    assert network.id in [each.id for each in client.networks.search("sequential")]
    network.delete()
    assert network.id not in [each.id for each in client.networks.search()]
    with pytest.raises(ValueError, match="Give `example=`"):
        client.networks.upload(module)


def test_weights_come_with_their_config(client, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"weights.0": (3, 2), "biases.0": (3,), "weights.1": (1, 3), "biases.1": (1,)}
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, path)
    network = client.networks.upload(path, config=CONFIG)
    assert (network.kind, network.parameters, network.config["inputs"]) == ("mlp", 13, 2)
    with pytest.raises(InvalidFields, match="Send a `config`"):
        client.networks.upload(path)


def test_a_large_network_goes_in_parts_and_its_fault_is_named(client, tmp_path, monkeypatch):
    monkeypatch.setattr("bimt.uploaded_networks.IN_PARTS_FROM", 100)
    path = tmp_path / "own.onnx"
    path.write_bytes(b"no network" * 100)
    with pytest.raises(InvalidFields, match="damaged"):
        client.networks.upload(path)


def test_the_command_uploads_lists_and_deletes(service, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIMT_URL", service.address)
    monkeypatch.setenv("BIMT_TOKEN", service.token)
    path, config = tmp_path / "w.safetensors", tmp_path / "config.json"
    tensors = {"weights.0": (3, 2), "biases.0": (3,), "weights.1": (1, 3), "biases.1": (1,)}
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, path)
    config.write_text(json.dumps(CONFIG))

    def bimt(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["networks", *words], prog_name="bimt")
        assert ended.value.code == 0, capsys.readouterr().err
        return capsys.readouterr().out

    made = json.loads(bimt("upload", str(path), "--config", str(config), "--name", "three", "--json"))
    assert "13 parameters" in bimt("upload", str(path), "--config", str(config))
    assert made["id"] in bimt("list", "three")
    bimt("rm", made["id"])
    assert made["id"] not in bimt("list")
    assert isinstance(UploadedNetwork.of(made, None), UploadedNetwork)
