"""A number, the logarithm of one and a category, predicted by one network."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch

from bimt.networks import load_network as load_with_client
from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import Evidence, gather_evidence
from bimt_engine.analysis.verification import verify
from bimt_engine.data.dataset import Answer, Dataset, answers_in_units, output_weights
from bimt_engine.data.kinds.uploaded import NO_FILE, UploadedData, uploaded_dataset
from bimt_engine.data.preview import understand
from bimt_engine.data.readers import RefusedData
from bimt_engine.data.roles import resolve_roles
from bimt_engine.exports.module_alone import group_alone, module_alone
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import load_weights, weights_file
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from worker.predicting import predict

ROWS = 300
ROLES = {
    "targets": ["sum", "price", "kind"],
    "columns": {"price": {"transform": "log"}, "kind": {"type": "category"}},
}


def content() -> bytes:
    """sum = a + b, price = 1000 · exp(2c), and a kind by d: low, mid (rare) or top."""
    draw = np.random.default_rng(100)
    a, b, c, d = draw.uniform(-1, 1, (4, ROWS))
    kind = np.where(d < -0.2, "low", np.where(d > 0.8, "mid", "top"))
    rows = zip(a, b, c, d, a + b, 1000 * np.exp(2 * c), kind, strict=True)
    return "\n".join(["a,b,c,d,sum,price,kind", *(",".join(map(str, row)) for row in rows), ""]).encode()


def data_spec(**more: object) -> UploadedData:
    roles = ROLES | more
    resolved = resolve_roles(understand(content(), "csv", roles), roles)
    return UploadedData.model_validate(NO_FILE | {"format": "csv"} | resolved)


@pytest.fixture(scope="module")
def trained() -> tuple[Spec, Dataset, Evidence]:
    spec = Spec.model_validate(
        {
            "dataset": data_spec(),
            "network": {"kind": "mlp", "hidden": [12]},
            "training": {"steps": 3000, "optimiser": {"learning_rate": 5e-3}, "snapshot_every": None},
            "evidence": {"tolerance": 0.02, "random_groups": 20, "formula_searches": 0},
        }
    )
    data = uploaded_dataset(spec.dataset, seed=100, content=content())
    training = Training.begin(spec, data, seed=100)
    for _ in training.updates():
        pass
    return spec, data, gather_evidence(training.network, data, spec, seed=100, nulls=2)


def test_each_target_becomes_outputs_of_its_kind() -> None:
    data = uploaded_dataset(data_spec(), seed=100, content=content())
    assert data.target_names == ("sum", "price[log]", "kind[low]", "kind[mid]", "kind[top]")
    assert data.predicted_names == ("sum", "price", "kind[low]", "kind[mid]", "kind[top]")
    assert (data.task, data.label_groups) == ("regression", ((2, 3, 4),))
    assert data.train_targets[:, :2].std(axis=0) == pytest.approx([1, 1])
    assert set(np.unique(data.train_targets[:, 2:])) == {0.0, 1.0}
    raw = answers_in_units(data, data.train_targets.copy())
    inputs = data.input_scaling.undo(data.train_inputs)
    assert raw[:, 0] == pytest.approx(inputs[:, 0] + inputs[:, 1])
    assert raw[:, 1] == pytest.approx(1000 * np.exp(2 * inputs[:, 2]))


def test_each_target_counts_alike() -> None:
    data = uploaded_dataset(data_spec(), seed=100, content=content())
    constant = (data.train_targets - data.train_targets.mean(axis=0)) ** 2 * output_weights(data)
    lost = constant.mean(axis=0)
    assert [lost[0], lost[1], lost[2:].sum()] == pytest.approx([1, 1, 1])
    assert data_spec().several_own_targets  # so that they are balanced by default


def test_the_evidence_tells_each_target_by_its_own_measure(trained: tuple[Spec, Dataset, Evidence]) -> None:
    _, _, evidence = trained
    told = {row["target"]: row["test"] for row in evidence.metrics["targets"]}
    assert list(told) == ["sum", "price", "kind"]
    assert told["sum"]["r2"] > 0.95
    assert told["price"]["r2"] > 0.8
    assert told["price"]["r2_log"] > 0.9
    assert told["kind"]["accuracy"] > 0.85
    measures = [(row["output"], row["measure"], row["learnt"]) for row in evidence.metrics["outputs"]]
    assert measures[:2] == [("sum", "r2", True), ("price[log]", "r2", True)]
    assert [measure for _, measure, _ in measures[2:]] == ["recall"] * 3
    reads = [set(module["inputs"]) for module in evidence.modules]
    assert {"a", "b"} in reads
    assert {"c"} in reads or any("c" in read and "a" not in read for read in reads)


def test_predict_onnx_and_client_agree_in_the_units_of_the_file(trained: tuple[Spec, Dataset, Evidence]) -> None:
    spec, data, evidence = trained
    file = weights_file(evidence.trained, evidence.network, spec=spec, seed=100, dataset=data)
    saved = load_weights(file)
    assert saved.data.answers == data.answers == (
        Answer("sum"), Answer("price", median=data.answers[1].median), Answer("kind", levels=("low", "mid", "top")),
    )  # fmt: skip
    rows = [[0.5, 0.2, -0.5, -0.9], [-0.1, 0.4, 0.9, 0.5]]
    told = predict(saved.network, saved.data, rows)
    assert told["targets"] == list(data.predicted_names)
    assert told["levels"] == {"kind": ["low", "top"]}
    said = np.array(told["outputs"])
    assert said[:, 0] == pytest.approx([0.7, 0.3], abs=0.2)
    assert said[:, 1] == pytest.approx(1000 * np.exp([-1.0, 1.8]), rel=0.5)
    by_client = load_with_client(file).predict(rows).numpy()
    assert by_client == pytest.approx(said, rel=1e-9)
    session = onnxruntime.InferenceSession(onnx_file(saved.network, saved.data))
    [by_onnx] = session.run(None, {"x": np.array(rows)})
    assert by_onnx == pytest.approx(said, rel=1e-5, abs=1e-5)


def test_the_loss_of_the_training_is_that_of_the_evidence(trained: tuple[Spec, Dataset, Evidence]) -> None:
    spec, data, evidence = trained
    context = AnalysisContext.of(evidence.trained, data, balance_outputs=spec.balances_outputs)
    outputs = evidence.trained(torch.from_numpy(data.test_inputs)).detach().numpy()
    share = ((outputs - data.test_targets) ** 2 * output_weights(data)).mean()
    assert context.losses(outputs, context.test).mean() == pytest.approx(share)


def test_a_negative_number_has_no_logarithm() -> None:
    with pytest.raises(RefusedData, match="'sum' is negative in some row"):
        understand(content(), "csv", ROLES | {"columns": {"sum": {"transform": "log"}, "kind": {"type": "category"}}})


def test_one_target_that_is_a_category_is_a_classification() -> None:
    assert data_spec(targets=["kind"], columns={}).task == "classification"


def test_what_was_found_is_verified(trained: tuple[Spec, Dataset, Evidence]) -> None:
    spec, data, evidence = trained
    saved = load_weights(weights_file(evidence.trained, evidence.network, spec=spec, seed=100, dataset=data))
    claims = json.loads(json.dumps(evidence.document()))
    found = verify(saved, data, claims)
    assert found["agrees"], [check for check in found["checks"] if not check["agrees"]]
    assert found["pruned_again"]
    claims["metrics"]["test_prediction_loss"] *= 1.01
    assert not verify(saved, data, claims, again=False)["agrees"]


def test_a_module_alone_predicts_its_targets_in_the_units_of_the_file(trained: tuple[Spec, Dataset, Evidence]) -> None:
    spec, data, evidence = trained
    whole = load_weights(weights_file(evidence.trained, evidence.network, spec=spec, seed=100, dataset=data))
    rows = np.array([[0.5, 0.2, -0.5, -0.9], [-0.1, 0.4, 0.9, 0.5]])
    said = np.array(predict(whole.network, whole.data, rows.tolist())["outputs"])
    assert len(evidence.modules) > 1
    for module in evidence.modules:
        alone = module_alone(evidence.network, data, spec, module["neurons"], trained=evidence.trained)
        decided = [data.target_names.index(name) for name in alone.data.target_names]
        assert [data.target_names[i] for i in decided] == module["outputs"]
        read = np.ascontiguousarray(rows[:, [data.feature_names.index(name) for name in alone.data.feature_names]])
        told = {
            "service": np.array(predict(alone.network, alone.data, read.tolist())["outputs"]),
            "client": load_with_client(alone.weights(seed=100)).predict(read).numpy(),
            "onnx": onnxruntime.InferenceSession(alone.onnx()).run(None, {"x": read})[0],
        }
        for name, answer in told.items():
            assert answer == pytest.approx(said[:, decided], rel=1e-5, abs=1e-5), name


def test_groups_alone_give_parts_of_a_sum_and_a_logarithm_stays_one(trained: tuple[Spec, Dataset, Evidence]) -> None:
    spec, data, evidence = trained
    network = evidence.network
    kept = [n.id for n in evidence.graph.neurons if n.layer == "hidden1"]
    parts = [kept[::2], kept[1::2]]
    x = torch.from_numpy(data.test_inputs)
    total = network.biases[1].detach()[network.output_order.argsort()].expand(len(x), -1).clone()
    for part in parts:
        alone = group_alone(network, data, spec, part, trained=evidence.trained)
        assert all(answer.median is None for answer in alone.data.answers)
        columns = [data.feature_names.index(name) for name in alone.data.feature_names]
        targets = [data.target_names.index(name) for name in alone.data.target_names]
        with torch.no_grad():
            given = alone.network(x[:, columns])
            total[:, targets] += given
        scaling = alone.data.target_scaling
        assert not scaling.mean.any()
        rows = alone.data.input_scaling.undo(x[:, columns].numpy())
        for told in (
            np.array(predict(alone.network, alone.data, rows.tolist())["outputs"]),
            load_with_client(alone.weights(seed=100)).predict(rows).numpy(),
            onnxruntime.InferenceSession(alone.onnx()).run(None, {"x": rows})[0],
        ):
            assert told == pytest.approx(given.numpy() * scaling.std, rel=1e-5, abs=1e-5)
        assert torch.equal(load_weights(alone.weights(seed=100)).network(x[:, columns]), given)
    with torch.no_grad():
        torch.testing.assert_close(total, network(x), rtol=0, atol=1e-12)
