"""A table with a category through a network of one's own: the column is one neuron; a bundle is enough to reload."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bimt_engine.analysis.evidence import Evidence, gather_evidence
from bimt_engine.analysis.verification import verify
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.uploaded import NO_FILE, UploadedData, uploaded_dataset
from bimt_engine.data.preview import understand
from bimt_engine.data.roles import resolve_roles
from bimt_engine.exports.weights import WeightsError, load_bundle, load_weights, weights_file
from bimt_engine.networks.network import build_network
from bimt_engine.networks.uploaded import in_its_format, provide_files, provided, sha256_of
from bimt_engine.spec import Spec
from tests.engine.networks.files.makers import exported

ROWS = 200


def content() -> bytes:
    """y is the sum of size and a number for each port; age, which has gaps, decides nothing."""
    draw = np.random.default_rng(100)
    size, age = draw.normal(size=(2, ROWS))
    port = draw.integers(3, size=ROWS)
    cells = ["" if draw.random() < 0.2 else f"{value:.3f}" for value in age]
    y = size + np.array([-1.0, 0.0, 1.5])[port]
    rows = zip(size, cells, np.array(["C", "Q", "S"])[port], y, strict=True)
    return "\n".join(["size,age,port,y", *(",".join(map(str, row)) for row in rows), ""]).encode()


class Residual(nn.Module):
    """No plain perceptron: a step around a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        here = torch.relu(self.first(x))
        return self.last(here + torch.relu(self.inner(here)))


NETWORKS = {
    "a perceptron": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)),
    "a residual network": Residual,
}


@pytest.fixture(scope="module", params=NETWORKS)
def analysed(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[tuple[Spec, Dataset, Evidence, Path]]:
    roles = {"targets": ["y"]}
    resolved = resolve_roles(understand(content(), "csv", roles), roles)
    data = uploaded_dataset(
        UploadedData.model_validate(NO_FILE | {"format": "csv"} | resolved), seed=100, content=content()
    )
    torch.manual_seed(100)
    module = NETWORKS[request.param]()
    x, y = torch.from_numpy(data.train_inputs).float(), torch.from_numpy(data.train_targets).float()
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(300):
        loss = ((module(x) - y) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    file = tmp_path_factory.mktemp("network") / "network.onnx"
    file.write_bytes(exported(module, x[:2]))
    network = {"kind": "uploaded", "network": f"net_{'0' * 26}", "sha256": sha256_of(file), "format": "onnx"}
    spec = Spec.model_validate(
        {
            "dataset": NO_FILE | {"kind": "uploaded", "format": "csv"} | resolved,
            "network": network,
            "training": {"steps": 0},
            "evidence": {"tolerance": 0.05, "random_groups": 10, "refit_evaluations": 20, "formula_searches": 0},
        }
    )
    with provided({sha256_of(file): file}):
        built = build_network(spec.network, data, generator=torch.Generator())
        assert built(torch.from_numpy(data.test_inputs)).detach().numpy() == pytest.approx(
            module(torch.from_numpy(data.test_inputs).float()).detach().numpy(), abs=1e-5
        )
        yield spec, data, gather_evidence(built, data, spec, seed=100, nulls=2), file
    provide_files({})


def test_a_column_is_one_neuron_of_an_uploaded_network(analysed) -> None:
    _, data, evidence, _ = analysed
    assert data.column_widths == (1, 2, 3)
    assert evidence.trained.wiring.input_layer.runs == (1, 2, 3)
    inputs = [neuron for neuron in evidence.graph.neurons if neuron.layer == "input"]
    assert {neuron.name for neuron in inputs} == {"size", "age", "port"}
    assert len(inputs) == 3
    [module] = evidence.modules
    assert sorted(set(module["inputs"])) == ["port", "size"]


def bundle(path: Path, analysed, *, spoilt: bool = False) -> Path:
    """The parts of a bundle that its networks are built from, as `api.bundles` lists them."""
    spec, data, evidence, _ = analysed
    parts = {
        "spec.json": json.dumps(spec.model_dump(mode="json")).encode(),
        "weights.safetensors": weights_file(evidence.trained, evidence.network, spec=spec, seed=100, dataset=data),
        "network.onnx": in_its_format(spec.network, evidence.network),
    }
    files = {name: {"sha256": hashlib.sha256(held).hexdigest(), "bytes": len(held)} for name, held in parts.items()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps({"format": "bimt-bundle/1", "files": files}))
        for name, held in parts.items():
            archive.writestr(name, held + b" " * (spoilt and name == "network.onnx"))
    return path


def test_a_bundle_reloads_without_the_service(analysed, tmp_path: Path) -> None:
    _, data, evidence, file = analysed
    packed = bundle(tmp_path / "run.zip", analysed)
    x = torch.from_numpy(data.test_inputs)
    expected = evidence.network(x).detach(), evidence.trained(x).detach()
    provide_files({})
    saved = load_bundle(packed)
    provide_files({sha256_of(file): file})
    assert torch.equal(saved.network(x), expected[0])
    assert torch.equal(saved.trained(x), expected[1])
    assert saved.data.encoding == data.encoding


def test_a_spoilt_bundle_is_refused_with_a_sentence(analysed, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"`network.onnx` in the bundle has other bytes"):
        load_bundle(bundle(tmp_path / "run.zip", analysed, spoilt=True))
    (tmp_path / "no.zip").write_bytes(b"PK no")
    with pytest.raises(WeightsError, match="not the bundle of a run"):
        load_bundle(tmp_path / "no.zip")


@pytest.mark.parametrize("before", [False, True])
def test_a_run_is_verified_as_it_was_made(analysed: tuple[Spec, Dataset, Evidence, Path], before: bool) -> None:
    """`before`: by a version for which each input was a neuron, though it came from one column."""
    spec, data, evidence, file = analysed
    with provided({sha256_of(file): file}):
        if before:
            trained = deepcopy(evidence.trained)
            first, *others = trained.wiring.neuron_layers
            assert first.runs
            trained.wiring = replace(trained.wiring, neuron_layers=(replace(first, runs=()), *others))
            evidence = gather_evidence(trained, data, spec, seed=100, nulls=0)
        claims = json.loads(json.dumps(evidence.document()))
        assert ("columns" in claims["graph"]["graph"]) is not before
        content = weights_file(evidence.trained, evidence.network, spec=spec, seed=100, dataset=data)
        found = verify(load_weights(content), data, claims)
    assert found["agrees"], [check for check in found["checks"] if not check["agrees"]]
    assert found["pruned_again"]
