"""What is made when somebody first asks for it: made once, kept, and told where it cannot be."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sqlalchemy import update

from bimt_engine.analysis.statements.interior import cut_statement, partition_statement
from bimt_engine.analysis.statements.representations import module_representations, representations_statement
from bimt_engine.exports.weights import load_weights
from bimt_engine.spec import Spec
from bimt_engine.training.state import Snapshot
from store import runs
from store.tables import Run, RunBody
from store.tables import Snapshot as SnapshotRow
from tests.answering import untrained_weights
from tests.api.makers import House, independence_spec, interior_document, now, publish_runs, submit_job

ADDITION = Spec.model_validate(
    {
        "dataset": {"kind": "modular_addition", "modulus": 11},
        "network": {"kind": "mlp", "hidden": [8], "embedding_width": 6},
        "training": {"steps": 20},
    }
)


def get(house: House, path: str, role: str = "reader"):
    return house.client().get(f"/api/v1{path}", headers=house.headers(role))


def test_a_module_alone_is_made_once_and_kept(house: House, asked: str) -> None:
    first = get(house, f"/runs/{asked}/modules/A/weights.safetensors?wait=30")
    assert first.status_code == 200, first.json
    alone = load_weights(first.data)
    assert (alone.data.feature_names, alone.data.target_names) == (("x1", "x2"), ("y1",))
    told = len(house.announced)
    again = get(house, f"/runs/{asked}/modules/A/weights.safetensors")
    assert (again.data, len(house.announced)) == (first.data, told)
    onnx = get(house, f"/runs/{asked}/modules/A/model.onnx")
    assert (onnx.status_code, len(house.announced)) == (200, told)
    assert "module-A.onnx" in onnx.headers["Content-Disposition"]


def test_a_group_inside_a_module_is_made_like_a_module(house: House, asked: str) -> None:
    document = interior_document()
    document["partitions"][0]["groups"][1]["neurons"] = ["hidden1:0", "hidden2:1"]
    with house.database.write() as rows:
        runs.add_body(rows, asked, "interior", document)
    alone = load_weights(get(house, f"/runs/{asked}/modules/A2/weights.safetensors?wait=30").data)
    assert [layer.neurons for layer in alone.network.wiring.hidden_layers] == [1, 1]
    assert alone.data.feature_names == ("x1", "x2", "x3", "x4")  # its network is untrained: it reads all
    assert get(house, f"/runs/{asked}/modules/A2/model.onnx").status_code == 200
    answer = get(house, f"/runs/{asked}/modules/A9/model.onnx?wait=30")
    assert "this network has A, B, A1, A2" in answer.json["detail"]


def test_a_module_that_is_not_there_is_a_conflict_that_names_those_that_are(house: House, asked: str) -> None:
    answer = get(house, f"/runs/{asked}/modules/Z/model.onnx?wait=30")
    assert answer.status_code == 409
    assert "this network has A, B" in answer.json["detail"]


def test_a_probe_is_enough_to_run_the_network_elsewhere(house: House, asked: str) -> None:
    probe = get(house, f"/runs/{asked}/probe?wait=30").json

    def array(told):
        return np.array(told["values"]).reshape(told["shape"])

    inputs, p, orders = array(probe["examples"]["inputs"]), probe["parameters"], probe["orders"]
    here = inputs[:, orders["input"]]
    for layer in range(3):
        here = here @ array(p[f"weights.{layer}"]).T + array(p[f"biases.{layer}"])
        if layer < 2:
            here = here / (1 + np.exp(-here))  # silu
    ours = np.empty_like(here)
    ours[:, orders["output"]] = here
    sent = house.client().post(
        f"/api/v1/runs/{asked}/predict?wait=30", json={"inputs": inputs[:50].tolist()}, headers=house.headers()
    )
    np.testing.assert_allclose(ours[:50], sent.json["outputs"], rtol=1e-6, atol=1e-8)
    assert probe["examples"]["count"] <= 2000


def test_numbers_have_no_embedding(house: House, asked: str) -> None:
    answer = get(house, f"/runs/{asked}/embedding?wait=30")
    assert (answer.status_code, answer.json["type"]) == (409, "/problems/conflict")


def test_a_run_on_a_group_tells_its_representations_and_any_other_run_has_none(house: House) -> None:
    [run_id, other] = publish_runs(house, submit_job(house, seeds=(0, 1)))
    part = {"shares": [0.0, 0.02, 0.98], "variance": 1.0}
    document = {
        "group": {"order": 6, "abelian": False, "cyclic": False, "classes": []},
        "names": ["trivial", "sign", "2-dimensional"],
        "dimensions": [1, 1, 2],
        "types": ["real"] * 3,
        "kernels": [6, 3, 1],
        "subspaces": [1, 1, 4],
        "characters": [],
        "embedding": {"slots": [0], "dimensions": [part], "together": part},
    }
    with house.database.write() as rows:
        hidden = next(n for n in runs.modules(rows, run_id)[0].body["neurons"] if n.startswith("hidden"))
        document["neurons"] = {hidden: {"variance": 4.0, "product": part, "a": part, "b": part}}
        runs.add_body(rows, run_id, "representations", document)
    assert get(house, f"/runs/{run_id}/representations").json == {"representations": document}
    assert get(house, f"/runs/{other}/representations").json == {"representations": None}
    said = representations_statement(document)
    assert said.embedding is not None
    assert said.embedding in get(house, f"/runs/{run_id}/card.md").text.replace("\\", "")
    page = house.client().get(f"/runs/{run_id}", headers=house.headers("reader")).text
    assert all(sentence in page for sentence in (said.group, said.embedding, *said.layers))
    assert f"Module A: {module_representations(document, [hidden])}." in page
    assert "of the group" not in house.client().get(f"/runs/{other}", headers=house.headers("reader")).text


def test_a_run_tells_what_is_inside_its_modules_and_an_older_run_has_nothing(house: House) -> None:
    [run_id, other] = publish_runs(house, submit_job(house, seeds=(0, 1)))
    document = interior_document()
    with house.database.write() as rows:
        runs.add_body(rows, run_id, "interior", document)
    assert get(house, f"/runs/{run_id}/interior").json == {"interior": document}
    assert get(house, f"/runs/{other}/interior").json == {"interior": None}
    said, cut = partition_statement(document["partitions"][0]), cut_statement(document["cuts"][0])
    sentences = (said.what, *said.evidence, *said.groups, cut)
    card = get(house, f"/runs/{run_id}/card.md").text.replace("\\", "")
    assert all(sentence in card for sentence in sentences)
    assert "## Inside the modules" not in get(house, f"/runs/{other}/card.md").text


def test_tokens_have_one_vector_each(house: House, asked: str) -> None:
    sha256 = house.files.put_bytes(untrained_weights(ADDITION.model_dump_json()))
    with house.database.write() as rows:
        runs.add_file(rows, asked, "weights.safetensors", sha256, now=now())
        rows.execute(update(Run).where(Run.id == asked).values(spec=ADDITION.model_dump(mode="json")))
    answer = get(house, f"/runs/{asked}/embedding?wait=30").json
    assert (len(answer["tokens"]), len(answer["vectors"]), len(answer["vectors"][0])) == (11, 11, 6)
    sent = (
        house.client()
        .post(f"/api/v1/runs/{asked}/predict?wait=30", json={"inputs": [[3, 4], ["3", "4"]]}, headers=house.headers())
        .json
    )
    assert sent["labels"][0] == sent["labels"][1]
    assert sum(sent["probabilities"][0]) == pytest.approx(1)


def test_a_snapshot_is_told_with_its_weights_and_who_sits_where(house: House, asked: str) -> None:
    orders = {"input": np.array([1, 0]), "output": np.array([0])}
    snapshot = Snapshot(20_000, {"weights.0": np.array([[0.5, -1.25]], np.float32)}, orders)
    kept = house.files.put_bytes(snapshot.to_bytes())
    with house.database.write() as rows:
        from store import files

        files.upsert(rows, kept, now=now())
        rows.execute(update(SnapshotRow).where(SnapshotRow.run_id == asked).values(sha256=kept.sha256))
    answer = get(house, f"/runs/{asked}/snapshots/20000").json
    assert answer["weights"] == {"weights.0": {"shape": [1, 2], "values": [0.5, -1.25]}}
    assert answer["orders"] == {"input": [1, 0], "output": [0]}
    assert get(house, f"/runs/{asked}/snapshots/19999").status_code == 404


def test_a_job_tells_its_pareto_front_and_keeps_it(house: House, asked: str) -> None:
    with house.database.write() as rows:
        metrics = {"test_prediction_loss": 0.01, "connection_cost": 9.0, "connections": 20, "modularity": 0.5}
        rows.execute(update(RunBody).where(RunBody.run_id == asked, RunBody.name == "metrics").values(body=metrics))
        job_id = rows.get(Run, asked).job_id
    answer = get(house, f"/jobs/{job_id}/pareto?wait=30").json
    assert [(point["run"], point["efficient"]) for point in answer["points"]] == [(asked, True)]
    told = len(house.announced)
    assert get(house, f"/jobs/{job_id}/pareto").json == answer
    assert len(house.announced) == told
    assert get(house, f"/jobs/{job_id}/pareto?tolerance=0.2&wait=30").json["tolerance"] == 0.2


def test_a_sweep_chooses_its_cost_strength_on_validation_rows_and_the_page_says_which(house: House, asked: str) -> None:
    weights = untrained_weights(independence_spec().model_dump_json())
    job_id = submit_job(house, seeds=(0, 1, 2))
    found = publish_runs(house, job_id, weights=weights)
    # On the test rows, by which nothing may be chosen, the largest strength would be the best.
    for run_id, strength, loss, on_test in zip(
        found, (1e-3, 1e-2, 0.1), (0.01, 0.012, 0.4), (0.3, 0.2, 0.1), strict=True
    ):
        with house.database.write() as rows:
            body = {"validation_prediction_loss": loss, "test_prediction_loss": on_test, "connection_cost": 1 / loss}
            body |= {"connections": 20, "loss_scale": 1.0, "modularity": None, "tolerance": 0.01}
            rows.execute(update(Run).where(Run.id == run_id).values(cost_strength=strength))
            rows.execute(update(RunBody).where(RunBody.run_id == run_id, RunBody.name == "metrics").values(body=body))
    answer = get(house, f"/jobs/{job_id}/pareto?wait=30").json
    assert (answer["suggested_cost_strength"], answer["rows"]) == (1e-2, "validation")
    assert [(row["cost_strength"], row["loss"], row["test_loss"]) for row in answer["cost_strengths"]] == [
        (1e-3, 0.01, 0.3),
        (1e-2, 0.012, 0.2),
        (0.1, 0.4, 0.1),
    ]
    page = house.client().get(f"/jobs/{job_id}", headers=house.headers()).text
    assert "λ 0.01 is the largest whose median loss on validation rows, 0.012, is still harmless" in page
    assert "On test rows, which nothing was chosen by, it is 0.2." in page
    [marked] = re.findall(r"<td>([^<]*)<span class=\"quiet\">chosen</span></td>", page)
    assert marked.strip() == "0.01"


def test_a_job_of_several_runs_has_a_picture_of_its_pareto_front(house: House, asked: str) -> None:
    weights = untrained_weights(independence_spec().model_dump_json())
    job_id = submit_job(house, seeds=(0, 1))
    first, second = publish_runs(house, job_id, weights=weights)
    with house.database.write() as rows:
        for run_id, loss in ((first, 0.01), (second, 0.02)):
            body = {"test_prediction_loss": loss, "connection_cost": 1 / loss, "connections": 20, "modularity": 0.5}
            rows.execute(update(RunBody).where(RunBody.run_id == run_id, RunBody.name == "metrics").values(body=body))
    picture = get(house, f"/jobs/{job_id}/figures/pareto.svg?wait=30")
    assert (picture.status_code, picture.content_type) == (200, "image/svg+xml"), picture.text[:300]
    assert "<svg" in picture.text
    assert "sandbox" in picture.headers["Content-Security-Policy"]
    told = len(house.announced)
    assert get(house, f"/jobs/{job_id}/figures/pareto.png").data.startswith(b"\x89PNG")
    assert len(get(house, f"/jobs/{job_id}/pareto").json["points"]) == 2
    assert len(house.announced) == told
    assert get(house, f"/jobs/{job_id}/figures/pareto.gif").status_code in (404, 422)
    with house.database.read() as rows:
        alone = rows.get(Run, asked).job_id
    assert get(house, f"/jobs/{alone}/figures/pareto.svg?wait=30").status_code == 404


def test_what_was_not_trained_cannot_be_made(house: House) -> None:
    job_id = submit_job(house)
    [run] = get(house, f"/jobs/{job_id}/runs").json["items"]
    for what in ("model.onnx", "film.mp4", "probe", "embedding", "interior"):
        assert get(house, f"/runs/{run['id']}/{what}").status_code == 409
    assert get(house, f"/jobs/{job_id}/pareto").status_code == 409


def test_runs_are_found_by_what_was_found_in_them(house: House, asked: str) -> None:
    found = {
        "min_modularity=0.4": 1, "min_modularity=0.6": 0, "max_modules=1": 0, "method=l1": 0, "reads=x1&moves=y1": 1,
        "reads=x1&moves=y2": 0, "moves=y2": 1, "reads=x9": 0, "min_interior_modules=1": 0,
    }  # fmt: skip
    for query, count in found.items():
        assert len(get(house, f"/runs?{query}").json["items"]) == count, query


def test_a_deleted_job_is_gone_with_its_runs(house: House, asked: str) -> None:
    with house.database.read() as rows:
        job_id = rows.get(Run, asked).job_id
    assert house.client().delete(f"/api/v1/jobs/{job_id}", headers=house.headers("submitter")).status_code == 204
    assert get(house, f"/jobs/{job_id}").status_code == get(house, f"/runs/{asked}").status_code == 404
    waiting = submit_job(house)
    assert house.client().delete(f"/api/v1/jobs/{waiting}", headers=house.headers("submitter")).status_code == 409
