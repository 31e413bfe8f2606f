"""A table with a category, gaps and a date, from training to export: all speaks of columns, in the file's units."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import sympy

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.modules.effects import Ablator, upstream_effects
from bimt_engine.analysis.modules.interventions import InterventionError, run_interventions
from bimt_engine.analysis.report import Evidence
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.uploaded import UploadedData, dataset_of
from bimt_engine.data.readers import Column, Table
from bimt_engine.exports.module_alone import module_alone
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import load_weights, weights_file
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from worker.predicting import predict

COLUMNS = {
    "fare": {"transform": "log"},
    "port": {"type": "category", "missing": "category"},
    "idle": {"type": "category"},
    "age": {"missing": "median"},
    "day": {"type": "date"},
    "y": {},
    "z": {},
}
ROWS: list[Any] = [
    [3.5, "S", "u", None, "2024-03-01"],
    {"fare": 80, "port": None, "idle": "w", "age": 41.5, "day": "2024-01-31"},
    [0, "Q", "v", 12, "2025-01-01T12:00"],
]


@dataclass(frozen=True)
class Trained:
    """A run of that table."""

    data: Dataset
    spec: Spec
    evidence: Evidence
    weights: bytes


def table(rows: int = 240) -> Table:
    """y is decided by the port and the fare, z by age and day; `idle` decides nothing."""
    draw = np.random.default_rng(7)
    port = draw.choice(np.array(["C", "Q", "S", None], object), rows)
    idle = draw.choice(np.array(["u", "v", "w"], object), rows)
    fare, age = np.exp(draw.normal(2, 1, rows)), draw.normal(30, 10, rows)
    day = np.datetime64("2024-01-01", "us") + draw.integers(0, 365, rows).astype("timedelta64[D]")
    y = np.array([{"C": 1.0, "Q": -1.0, "S": 0.0, None: 2.0}[p] for p in port]) + np.log(fare)
    z = age / 10 + (day - day.min()).astype(np.int64) / 8.64e10 / 200
    gone = draw.random(rows) < 0.1
    values = {"fare": fare, "port": port, "idle": idle, "age": np.where(gone, np.nan, age), "day": day, "y": y, "z": z}
    return Table(tuple(Column(name, of, found="date" if name == "day" else None) for name, of in values.items()))


@cache
def trained() -> Trained:
    """Trained in a second, pruned and examined."""
    said = {"dataset_id": f"dataset_{0:026d}", "sha256": "0" * 64, "format": "csv", "task": "regression"}
    roles = {"inputs": ["fare", "port", "idle", "age", "day"], "targets": ["y", "z"], "columns": COLUMNS}
    spec = load_recipe("table").spec_for(UploadedData.model_validate(said | roles)).model_dump(mode="json")
    spec["training"]["steps"] = 4000
    spec["evidence"]["formula_searches"] = 0
    whole = Spec.model_validate(spec).expanded()
    assert isinstance(whole.dataset, UploadedData)
    data = dataset_of(table(), whole.dataset, seed=0)
    training = Training.begin(whole, data, seed=0)
    for _ in training.updates():
        pass
    evidence = gather_evidence(training.network, data, whole, seed=0, nulls=2)
    weights = weights_file(training.network, evidence.network, spec=whole, seed=0, dataset=data)
    return Trained(data, whole, evidence, weights)


def codes(data: Dataset, rows: list[Any]) -> np.ndarray:
    """Rows as ONNX takes them."""
    assert data.encoding is not None
    return np.array([data.encoding.code_row(list(r.values()) if isinstance(r, dict) else r) for r in rows])


def test_the_graph_has_a_neuron_for_each_column() -> None:
    graph = trained().evidence.graph
    assert [n.name for n in graph.neurons if n.layer == "input"].count("port") == 1
    assert sorted(n.name for n in graph.neurons if n.layer == "input") == ["age", "day", "fare", "idle", "port"]
    assert graph.meta["inputs"] == ["fare", "port", "idle", "age", "day"]
    assert "port[missing]" in graph.meta["columns"]
    assert {c.source for c in graph.connections} <= {n.id for n in graph.neurons}


def test_modules_and_their_effects_speak_of_columns() -> None:
    evidence = trained().evidence
    found = {module["outputs"][0]: set(module["inputs"]) for module in evidence.modules}
    assert found == {"y": {"fare", "port"}, "z": {"age", "day"}}
    assert evidence.effects["upstream"]["inputs"] == ["fare", "port", "idle", "age", "day"]
    for output in evidence.readout["outputs"]:
        assert set(output["symmetry"]["reads"]) <= {"fare", "port", "age", "day"}


def test_a_column_is_permuted_with_all_its_inputs() -> None:
    data, evidence = trained().data, trained().evidence
    context = AnalysisContext.of(evidence.network, data)
    ablator = Ablator(context, evidence.network, seed=0)
    layer = evidence.network.wiring.input_layer
    seen: list[np.ndarray] = []
    real = ablator.network.forward_with_hooks

    def record(x: Any, hook: Any = None) -> Any:
        seen.append(x.numpy())
        return real(x, hook)

    ablator.network.forward_with_hooks = record  # type: ignore[method-assign]
    upstream_effects(ablator, [{"hidden1": np.ones(12, bool)}])
    port = np.flatnonzero(data.column_of == 1)
    real_rows = {tuple(row) for row in ablator.inputs.numpy()[:, port].round(9)}
    assert len(real_rows) == 4
    assert {tuple(row) for row in seen[1][:, port].round(9)} == real_rows  # no row is of two ports at once
    changed = [set(np.flatnonzero((x != ablator.inputs.numpy()).any(axis=0))) for x in seen]
    assert changed[1] == set(port.tolist())
    group = {"input": np.arange(layer.neurons) == int(layer.first_of_run[port[0]])}
    ablator.network.forward_with_hooks = real  # type: ignore[method-assign]
    _, after = ablator.network.forward_with_hooks(ablator.inputs, ablator.hook([group], "resample"))
    resampled = after["input"].numpy()
    assert (resampled != ablator.activations["input"].numpy()).any(axis=0).sum() == len(port)


def test_an_intervention_replaces_a_whole_column() -> None:
    run = trained()
    port = next(n.id for n in run.evidence.graph.neurons if n.name == "port")
    age = next(n.id for n in run.evidence.graph.neurons if n.name == "age")
    ask: dict[str, Any] = {"trials": [[{"kind": "neuron", "id": port, "do": "resample"}]]}
    effects = run_interventions(run.evidence.network, run.data, ask)["trials"][0]["effects"]
    assert effects["y"] > 0.05
    assert effects["z"] < 1e-12
    with pytest.raises(InterventionError, match="several inputs"):
        run_interventions(
            run.evidence.network, run.data, {"trials": [[{"kind": "neuron", "id": age, "do": "set", "value": 1}]]}
        )


def test_prediction_onnx_and_formula_agree_on_raw_rows() -> None:
    run = trained()
    saved = load_weights(run.weights)
    assert saved.data.encoding == run.data.encoding
    predicted = np.array(predict(saved.network, saved.data, ROWS)["outputs"])
    file = onnx_file(saved.network, saved.data)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    raw = codes(saved.data, ROWS)
    [answered] = session.run(["y"], {"x": raw})
    assert answered == pytest.approx(predicted, rel=1e-5, abs=1e-5)
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["columns"])[1]["levels"] == ["C", "Q", "S"]
    assert saved.data.encoding is not None
    inputs = saved.data.encoding.apply(raw)
    symbols = sympy.symbols([f"v{number}" for number in range(inputs.shape[1])])
    names = dict(zip(run.data.feature_names, symbols, strict=True))
    for number, output in enumerate(run.evidence.readout["outputs"]):
        text = output["expression"]
        for name in sorted(names, key=len, reverse=True):
            text = text.replace(name, str(names[name]))
        computed = sympy.lambdify(symbols, sympy.sympify(text))
        assert [computed(*row) for row in inputs] == pytest.approx(predicted[:, number].tolist(), rel=1e-5, abs=1e-5)


def test_a_module_alone_reads_its_columns() -> None:
    run = trained()
    saved = load_weights(run.weights)
    whole = np.array(predict(saved.network, saved.data, ROWS)["outputs"])
    for module in run.evidence.modules:
        alone = module_alone(saved.network, saved.data, saved.spec, module["neurons"], trained=saved.trained)
        assert set(alone.data.column_names) == set(module["inputs"])
        again = load_weights(alone.weights(seed=0))
        named = [dict(zip(run.data.column_names, r, strict=True)) if isinstance(r, list) else r for r in ROWS]
        rows = [{name: row[name] for name in alone.data.column_names} for row in named]
        told = predict(again.network, again.data, rows)
        column = run.data.target_names.index(module["outputs"][0])
        assert np.array(told["outputs"])[:, 0] == pytest.approx(whole[:, column])


def test_both_baselines_stand_beside_the_run() -> None:
    found = trained().evidence.metrics["baselines"]
    assert found["measure"] == "r2"
    assert found["linear"]["test"] > 0.9
    assert found["better"] in ("linear", "boosted")
    assert found["gap"] == pytest.approx(found[found["better"]]["test"] - found["network"]["test"])
    assert found["network"]["test"] == pytest.approx(trained().evidence.metrics["test_r2"])
    assert "least squares" in found["reading"]
