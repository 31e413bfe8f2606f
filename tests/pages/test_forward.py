"""The forward pass of the page against torch: every architecture, and what interventions do to it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import playwright
import pytest
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.hooked_network import as_tensor
from bimt_engine.analysis.modules.interventions import run_interventions
from bimt_engine.exports.weights import SavedNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.transformer import TransformerNetwork
from tests.engine.makers import ARCHITECTURES, build, spec_for
from worker.predicting import probe_document

SCRIPT = Path(__file__).parent / "forward.mjs"


def in_node(tmp_path: Path, probe: dict[str, Any], requests: list[dict[str, Any]]) -> Any:
    """What the scripts of the page compute, in the node that comes with playwright, which the lock pins."""
    node = Path(playwright.__file__).parent / "driver" / "node"
    paths = [tmp_path / "probe.json", tmp_path / "requests.json"]
    for path, document in zip(paths, (probe, requests), strict=True):
        path.write_text(json.dumps(document))
    done = subprocess.run([node, SCRIPT, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pruned(network: Network) -> Network:
    """Two of three connections, neurons in other slots than at birth, running statistics that are not 0 and 1."""
    draw = torch.Generator().manual_seed(1)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for weights in network.wiring.weight_layers:
            parameters[weights.parameter] *= torch.rand(parameters[weights.parameter].shape, generator=draw) < 0.67
        for name in network.wiring.buffers:
            parameters[name] += 0.3 * torch.rand(parameters[name].shape, generator=draw).to(parameters[name])
    shuffled = {
        layer.name: torch.randperm(layer.neurons, generator=draw)
        for layer in (network.wiring.input_layer, network.wiring.output_layer)
    }
    network.adopt_orders(network.orders | shuffled)
    return network


# What a transformer may have, one at a time; `llama` has all of them together.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "rotary": {"rotary": 50.0},
    "shared": {"heads": 4, "key_value_heads": 2},
    "one key": {"heads": 4, "key_value_heads": 1, "rotary": 10_000.0},
    "gated": {"gated": True, "hidden": 5, "activation": "gelu"},
    "no biases": {"biases": False},
    "epsilon": {"layer_norm": True, "norm_epsilon": 1e-3},
}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *TRANSFORMERS])
def test_the_page_computes_what_torch_computes_and_switches_off_what_the_service_does(
    name: str, tmp_path: Path
) -> None:
    if name in TRANSFORMERS:
        spec, data = spec_for("transformer")
        architecture = TransformerNetwork(**{"width": 8, "blocks": 2, "heads": 2} | TRANSFORMERS[name])
        spec = spec.model_copy(update={"network": architecture})
        draw = torch.Generator().manual_seed(0)
        network = pruned(build_network(architecture, data, precision="float64", generator=draw))
    else:
        network, data = build(name)
        network = pruned(network)
        spec, _ = spec_for(name)
    probe = json.loads(json.dumps(probe_document(SavedNetwork(network, network, {}, spec, 0, data), data)))
    hidden = network.wiring.neuron_layers[-2].name
    matrix = network.wiring.weight_layers[0].parameter
    row, column = (int(i) for i in torch.nonzero(dict(network.named_parameters())[matrix])[0])
    first = network.wiring.input_layer.name
    trials = [
        ([f"{hidden}:1"], [], "mean"),
        ([f"{hidden}:0", f"{hidden}:2", f"{first}:0"], [], "mean"),
        ([f"{hidden}:0"], [], "zero"),
        ([f"{layer.name}:1" for layer in network.wiring.hidden_layers], [], "mean"),
        ([], [f"{matrix}[{row},{column}]"], "mean"),
        ([f"{hidden}:1"], [f"{matrix}[{row},{column}]"], "mean"),
    ]
    requests = [{"neurons": n, "connections": c, "how": how} for n, c, how in trials]
    found = in_node(tmp_path, probe, requests)

    context = AnalysisContext.of(network, data, balance_outputs=bool(spec.balances_outputs))
    inputs = np.concatenate([part[0] for part in (data.part("validation"), data.part("train"))])
    with torch.no_grad():
        outputs = context.general.rows(context.network(as_tensor(inputs)))
    np.testing.assert_allclose(found["outputs"], outputs.ravel(), rtol=0, atol=1e-5)

    changes = [
        [{"kind": "neuron", "id": i, "do": how} for i in neurons]
        + [{"kind": "connection", "id": key, "do": "zero"} for key in connections]
        for neurons, connections, how in trials
    ]
    told = run_interventions(network, data, {"trials": changes}, balance_outputs=bool(spec.balances_outputs))
    for metric, value in found["before"].items():
        assert value == pytest.approx(told["before"][metric], abs=1e-5), metric
    for ours, theirs in zip(found["under"], told["trials"], strict=True):
        for metric, value in ours["metrics"].items():
            assert value == pytest.approx(theirs["metrics"][metric], abs=1e-5), metric
        assert ours["effects"] == pytest.approx(theirs["effects"], abs=1e-5)
