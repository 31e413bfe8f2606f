"""The main road: data in, a job submitted, its results read; on both databases."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from werkzeug.test import TestResponse

from tests.api.makers import House, publish_runs, submit_job
from tests.engine.data.makers import zipped

CSV = "age,bmi,progression\n" + "".join(f"{i},{i * i % 17},{3 * i - i * i % 17}\n" for i in range(40))


def upload(
    house: House, content: bytes | str = CSV, file_name: str = "table.csv", role: str = "admin", **fields: object
) -> TestResponse:
    """POST a file."""
    raw = content.encode() if isinstance(content, str) else content
    return house.client().post(
        "/api/v1/datasets", headers=house.headers(role), data={"file": (io.BytesIO(raw), file_name), **fields}
    )


def test_text_and_images_go_in_by_their_format(any_house: House) -> None:
    client, headers = any_house.client(), any_house.headers("submitter")
    texts = zipped({f"{name}.txt": f"{name} and {name} again. ".encode() * 40 for name in ("one", "two", "three")})
    unsaid = upload(any_house, texts, "texts.zip")
    assert unsaid.status_code == 422
    assert "parquet, idx, images, cayley or text" in unsaid.json["errors"][0]["detail"]
    sent = upload(any_house, texts, "texts.zip", format="text", context="16")
    assert sent.status_code == 201, sent.json
    dataset = sent.json
    assert (dataset["state"], dataset["format"], dataset["roles"]["context"]) == ("ready", "text", 16)
    network = {"kind": "transformer", "width": 8, "blocks": 1, "positions": True}
    body = {"dataset": dataset["id"], "spec": {"network": network, "training": {"steps": 10}}}
    for roles, context in ((None, 16), ({"context": 8}, 8)):
        asked = body if roles is None else body | {"roles": roles}
        sent = client.post("/api/v1/jobs", headers=headers, json=asked)
        assert sent.status_code == 202, sent.json
        spec = client.get(f"/api/v1/jobs/{sent.json['id']}", headers=headers).json["spec"]
        assert (spec["dataset"]["format"], spec["dataset"]["context"]) == ("text", context)
        assert spec["network"]["positions"] is True

    draw = np.random.default_rng(0)
    pictures = {}
    for number in range(12):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (6, 6)).astype(np.uint8)).save(file, "PNG")
        pictures[f"{('cat', 'dog')[number % 2]}/{number}.png"] = file.getvalue()
    sent = upload(any_house, zipped(pictures), "pictures.zip", format="images")
    assert sent.status_code == 201, sent.json
    assert (sent.json["rows"], sent.json["roles"]["targets"]) == (12, ["label"])
    wrong = client.post("/api/v1/jobs", headers=headers, json={"dataset": sent.json["id"], "roles": {"context": 8}})
    assert wrong.status_code == 422
    assert wrong.json["errors"][0]["pointer"] == "/roles/context"
    refused = upload(any_house, zipped({"../cat/1.png": b"?"}), "out.zip", format="images")
    assert refused.status_code == 422
    assert "leads out of it" in refused.json["errors"][0]["detail"]


def test_a_table_goes_in_and_a_job_on_it_waits(any_house: House) -> None:
    client, headers = any_house.client(), any_house.headers("submitter")
    sent = upload(any_house, targets="progression", task="regression", file_name="diabetes.csv")
    assert sent.status_code == 201, sent.json
    dataset = sent.json
    assert sent.headers["Location"] == f"/api/v1/datasets/{dataset['id']}"
    assert (dataset["state"], dataset["rows"], dataset["columns"]) == ("ready", 40, 3)
    assert dataset["roles"]["inputs"] == ["age", "bmi"]
    seen = client.get(f"/api/v1/datasets/{dataset['id']}/preview", headers=headers).json
    assert [c["name"] for c in seen["columns"]] == ["age", "bmi", "progression"]
    assert seen["first_rows"][1] == {"age": 1.0, "bmi": 1.0, "progression": 2.0}

    body = {"dataset": dataset["id"], "recipe": "table", "seeds": [0, 1], "cost_strengths": [0.001, 0.01]}
    sent = client.post("/api/v1/jobs", headers=headers, json=body | {"name": "first", "tags": ["a", "b"]})
    assert sent.status_code == 202, sent.json
    job = sent.json
    assert sent.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["state"], job["runs"], job["queue_position"], job["queue"]) == ("queued", 4, 0, "cpu")
    columns = job["spec"]["dataset"].pop("columns")
    assert {name: (column["type"], column["missing"]) for name, column in columns.items()} == dict.fromkeys(
        ("age", "bmi", "progression"), ("integer", "refuse")
    )
    assert job["spec"]["dataset"] == {
        "seed": None,
        "kind": "uploaded",
        "dataset_id": dataset["id"],
        "sha256": dataset["sha256"],
        "format": "csv",
        "inputs": ["age", "bmi"],
        "targets": ["progression"],
        "task": "regression",
        "split_version": 2,
        "validation_fraction": 0.15,
        "test_fraction": 0.15,
        "split": {"by": "random", "column": None},
        "standardise": True,
    }
    assert [queue for _, queue, _ in any_house.announced] == ["interactive", "cpu"]
    assert any_house.announced[-1] == (job["id"], "cpu", 5)
    runs = client.get(f"/api/v1/jobs/{job['id']}/runs", headers=headers).json["items"]
    assert [(r["seed"], r["cost_strength"]) for r in runs] == [(0, 0.001), (1, 0.001), (0, 0.01), (1, 0.01)]
    first = client.get(f"/api/v1/runs/{runs[2]['id']}", headers=headers).json
    assert first["spec"]["training"]["phases"][0]["cost_strength"] == 0.01


def test_everything_that_a_run_found_can_be_read(any_house: House) -> None:
    [run_id] = publish_runs(any_house, submit_job(any_house))
    told = any_house.client().get(f"/api/v1/runs/{run_id}", headers=any_house.headers()).json
    assert [(row["output"], row["learnt"], row["pruned"]["r2"]) for row in told["outputs"]] == [
        ("y1", True, 0.9998),
        ("y2", False, 0.02),
    ]
    assert "outputs" not in told["metrics"]
    client, headers = any_house.client(), any_house.headers("reader")

    def get(what: str) -> object:
        answer = client.get(f"/api/v1/runs/{run_id}{what}", headers=headers)
        assert answer.status_code == 200, (what, answer.json)
        return answer.json

    run = get("")
    assert (run["state"], run["modules"], run["test_metric_name"]) == ("succeeded", 2, "test_prediction_loss")
    assert (run["files"], run["figures"]) == (["weights.safetensors"], ["network.png", "network.svg"])
    assert len(get("/history")["rows"]) == 100
    assert [s["step"] for s in get("/snapshots")["items"]] == [20_000]
    assert get("/snapshots?after=20000")["items"] == []
    modules = get("/modules")["modules"]
    assert [(m["name"], m["inputs"], m["outputs"]) for m in modules] == [
        ("A", ["x1", "x3"], ["y1"]),
        ("B", ["x2", "x4"], ["y2"]),
    ]
    assert get("/effects")["effects"]["A"]["y1"]["resample"] == 1.84
    assert len(get("/prune-curve")["rows"]) > 10
    graph = get("/graph")
    assert len(graph["nodes"]) == 46
    assert len(get("/graph?connections=5")["edges"]) == 5
    job = client.get(f"/api/v1/jobs/{run['job_id']}", headers=headers).json
    assert (job["state"], job["progress"], job["tries"][0]["ended_how"]) == ("succeeded", 1.0, "succeeded")
    lines = client.get(f"/api/v1/jobs/{run['job_id']}/logs", headers=headers).json["items"]
    assert lines[0]["text"] == "seed 0 begins"


def test_a_graph_leaves_in_three_formats(house: House) -> None:
    [run_id] = publish_runs(house, submit_job(house))
    client, headers = house.client(), house.headers("reader")
    for form, content_type, start in (
        ("json", "application/json", b'{"format"'),
        ("graphml", "application/graphml+xml", b"<?xml"),
        ("dot", "text/vnd.graphviz", b"digraph"),
    ):
        answer = client.get(f"/api/v1/runs/{run_id}/graph?format={form}", headers=headers)
        assert answer.content_type.startswith(content_type)
        assert answer.data.startswith(start)


def test_files_of_a_run_are_kept_by_the_browser_under_their_hash(house: House) -> None:
    [run_id] = publish_runs(house, submit_job(house))
    client, headers = house.client(), house.headers("reader")
    for what in ("figures/network.svg", "figures/network.png", "weights.safetensors"):
        first = client.get(f"/api/v1/runs/{run_id}/{what}", headers=headers)
        assert first.status_code == 200
        again = client.get(f"/api/v1/runs/{run_id}/{what}", headers={**headers, "If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
    figure = client.get(f"/api/v1/runs/{run_id}/figures/network.svg", headers=headers)
    assert "sandbox" in figure.headers["Content-Security-Policy"]
    missing = client.get(f"/api/v1/runs/{run_id}/figures/film.png", headers=headers)
    assert missing.status_code == 404


def test_what_is_not_there_yet_is_said_so(house: House) -> None:
    job_id = submit_job(house)
    client, headers = house.client(), house.headers("reader")
    [run] = client.get(f"/api/v1/jobs/{job_id}/runs", headers=headers).json["items"]
    for what in ("graph", "modules", "effects", "prune-curve", "weights.safetensors"):
        answer = client.get(f"/api/v1/runs/{run['id']}/{what}", headers=headers)
        assert (answer.status_code, answer.content_type) == (409, "application/problem+json")
        assert "queued" in answer.json["detail"]
    assert client.get(f"/api/v1/runs/{run['id']}/history", headers=headers).json == {"rows": []}
