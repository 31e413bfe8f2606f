"""What a user does over HTTP, from POST to picture; the same for every set-up."""

from __future__ import annotations

import io
import time
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from bimt_engine.exports.weights import load_weights

LIMIT_SECONDS = 240.0  # seconds; two runs and their evidence, beside another test on the other core
SPEC = {
    "network": {"kind": "mlp", "hidden": [6]},
    "training": {
        "steps": 1500,
        "precision": "float64",
        "log_every": 100,
        "snapshot_every": 500,
        "checkpoint_every": 500,
        "phases": [{"until": 1.0, "cost_strength": 0.01}],
    },
    "evidence": {"tolerance": 0.02, "refit_steps": 50, "random_groups": 20, "leiden_seeds": 2},
}


def table() -> bytes:
    """Sixty rows in which `kept` depends on two columns and `noise` on nothing."""
    draw = np.random.default_rng(0)
    rows = draw.uniform(-1, 1, size=(60, 3))
    lines = [f"{a:.6f},{b:.6f},{noise:.6f},{2 * a - b:.6f}" for a, b, noise in rows]
    return "\n".join(["a,b,noise,kept", *lines]).encode()


def use_everything(address: str, token: str) -> dict[str, Any]:
    """Upload, submit, wait, and read everything that a run has; returns the run."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=30) as http:

        def get(path: str, **query: Any) -> httpx.Response:
            answer = http.get(path, params=query)
            assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
            return answer

        sent = http.post("/datasets", files={"file": ("table.csv", table(), "text/csv")}, data={"targets": ["kept"]})
        assert sent.status_code in (201, 202), sent.text  # 202: the worker that checks it is still starting
        dataset, deadline = sent.json(), time.monotonic() + LIMIT_SECONDS
        while dataset["state"] == "checking" and time.monotonic() < deadline:
            time.sleep(0.1)
            dataset = get(f"/datasets/{dataset['id']}").json()
        assert dataset["state"] == "ready", dataset
        body = {"dataset": dataset["id"], "spec": SPEC, "seeds": [0, 1], "name": "end to end"}
        sent = http.post("/jobs", json=body, headers={"Idempotency-Key": "once"})
        assert sent.status_code == 202, sent.text
        assert http.post("/jobs", json=body, headers={"Idempotency-Key": "once"}).json()["id"] == sent.json()["id"]
        job_address = f"/jobs/{sent.json()['id']}"

        deadline = time.monotonic() + LIMIT_SECONDS
        while (job := get(job_address).json())["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        assert job["state"] == "succeeded", job["reason"]
        assert job["progress"] == 1.0
        assert [attempt["ended_how"] for attempt in job["tries"]] == ["succeeded"]
        assert any("is done" in line["text"] for line in get(f"{job_address}/logs").json()["items"])

        runs = get(f"{job_address}/runs").json()["items"]
        assert [(run["seed"], run["state"]) for run in runs] == [(0, "succeeded"), (1, "succeeded")]
        run = get(f"/runs/{runs[0]['id']}").json()
        steps = [row["step"] for row in get(f"/runs/{run['id']}/history").json()["rows"]]
        assert steps == list(range(0, 1501, 100))
        assert [kept["step"] for kept in get(f"/runs/{run['id']}/snapshots").json()["items"]] == [0, 500, 1000, 1500]
        graph = get(f"/runs/{run['id']}/graph").json()
        assert len(graph["edges"]) == run["connections"] > 0
        modules = get(f"/runs/{run['id']}/modules").json()["modules"]
        assert [module["outputs"] for module in modules] == [["kept"]]
        assert set(modules[0]["inputs"]) >= {"a", "b"}
        assert get(f"/runs/{run['id']}/effects").json()["effects"]
        assert get(f"/runs/{run['id']}/prune-curve").json()["rows"]
        assert get(f"/runs/{run['id']}/figures/network.svg").text.lstrip().startswith("<?xml")
        Image.open(io.BytesIO(get(f"/runs/{run['id']}/figures/network.png").content)).verify()
        saved = load_weights(get(f"/runs/{run['id']}/weights.safetensors").content)
        assert saved.data.feature_names == ("a", "b", "noise")

        def worked_out(method: str, path: str, **more: Any) -> Any:
            """What a worker answers; asked for again for as long as it says that it is not there yet."""
            while (answer := http.request(method, path, params={"wait": 20}, **more)).status_code == 202:
                assert time.monotonic() < deadline, answer.text
            assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
            return answer.json()

        [[told]] = worked_out("POST", f"/runs/{run['id']}/predict", json={"inputs": [[0.1, -0.2, 0.3]]})["outputs"]
        read, given = saved.data.input_scaling, saved.data.target_scaling
        with torch.no_grad():
            ours = saved.network(torch.from_numpy(read.apply(np.array([[0.1, -0.2, 0.3]]))))
        assert told == pytest.approx((ours.numpy() * given.std + given.mean).item(), abs=1e-9)
        stability = worked_out("GET", f"{job_address}/stability")["stability"]
        assert stability["runs"] == 2
        assert {point["run"] for point in worked_out("GET", f"{job_address}/pareto")["points"]} == {
            one["id"] for one in runs
        }
        published = http.post("/models", json={"run_id": run["id"], "name": "whole"})
        assert published.status_code == 201, published.text
        verified = worked_out("POST", "/models/whole/versions/1/verify")
        assert verified["agrees"], verified
        return dict(run)
