"""Networks of users: checked before they are kept, given back as they came, seen by their own team only."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import save
from werkzeug.test import TestResponse

from store import teams
from tests.api.makers import House
from tests.engine.networks.files.makers import NETWORKS, exported, model, said_by
from tests.engine.networks.files.test_config_json import CONFIG as GPT2_CONFIG
from tests.engine.networks.files.test_config_json import LLAMA, llama_tensors
from tests.engine.networks.files.test_config_json import tensors as gpt2_tensors
from tests.engine.networks.files.test_safetensors import content_of


def send(
    house: House, content: bytes, file_name: str, *, team: str = "ours", role: str = "admin", **fields: str
) -> TestResponse:
    """One upload in one request."""
    data = {"file": (io.BytesIO(content), file_name), **fields}
    return house.client().post("/api/v1/networks", data=data, headers=house.headers(role, team))


def ask(house: House, path: str, method: str = "GET", team: str = "ours", **more: Any) -> TestResponse:
    return house.client().open(f"/api/v1{path}", method=method, headers=house.headers("admin", team), **more)


def test_an_onnx_file_is_kept_with_what_is_in_it_and_comes_back_as_it_was(any_house: House) -> None:
    house, (network, x) = any_house, NETWORKS["residual cnn"]()
    content = exported(network, x)
    made = send(house, content, "cnn.onnx")
    assert (made.status_code, made.json["state"], made.json["name"]) == (201, "ready", "cnn.onnx")
    assert made.headers["Location"] == f"/api/v1/networks/{made.json['id']}"
    assert made.json["operators"]["Conv"] == 5
    assert made.json["input"] == {"name": "x", "type": "float32", "shape": [None, 1, 8, 8]}
    assert made.json["output"]["shape"] == [None, 3]
    assert made.json["parameters"] == sum(np.prod(shape) for _, shape in made.json["tensors"])
    assert ask(house, f"/networks/{made.json['id']}").json == made.json
    assert [one["id"] for one in ask(house, "/networks?q=CNN&state=ready").json["items"]] == [made.json["id"]]
    assert ask(house, "/networks?q=other").json["items"] == []
    back = ask(house, f"/networks/{made.json['id']}/file")
    assert back.data == content
    np.testing.assert_array_equal(said_by(back.data, x), said_by(content, x))
    assert f"{made.json['id']}.onnx" in back.headers["Content-Disposition"]


def test_weights_are_checked_against_their_config(house: House) -> None:
    content, config, _ = content_of("conv")
    made = send(house, content, "weights.safetensors", name="my net", config=json.dumps(config))
    assert (made.status_code, made.json["kind"], made.json["name"]) == (201, "conv", "my net")
    assert made.json["config"]["network"]["channels"] == [3, 4]
    without = send(house, content, "weights.safetensors")
    assert (without.status_code, "Send a `config`" in without.json["detail"]) == (422, True)
    other = send(house, content, "weights.safetensors", config=json.dumps(config | {"targets": 4}))
    assert (other.status_code, other.json["type"]) == (422, "/problems/unusable-network")


@pytest.mark.parametrize("layout", ["gpt2", "llama"])
def test_weights_of_other_programs_come_with_their_config_json(house: House, layout: str) -> None:
    content, config = {"gpt2": (gpt2_tensors, GPT2_CONFIG), "llama": (llama_tensors, LLAMA)}[layout]
    content = save(content())
    made = send(house, content, "model.safetensors", config=json.dumps(config))
    assert made.status_code == 201, made.json
    assert (made.json["state"], made.json["kind"], made.json["config"]["layout"]) == ("ready", "transformer", layout)
    wrong = send(house, content, "model.safetensors", config=json.dumps(config | {"model_type": "bert"}))
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/config")
    assert "as ONNX" in wrong.json["errors"][0]["detail"]
    other = send(house, content, "model.safetensors", config=json.dumps(GPT2_CONFIG | {"n_embd": 24}))
    assert other.status_code == 422, other.json


def _outside() -> bytes:
    file = model()
    tensor = file.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return file.SerializeToString()


def _huge() -> bytes:
    file = model()
    file.graph.initializer[0].dims[:] = [10**9]
    return file.SerializeToString()


REFUSED = {
    "noise": (lambda: b"no network at all", "damaged"),
    "external data": (_outside, "lie in another file"),
    "10⁹ parameters": (_huge, "at most"),
    "an unknown operator": (
        lambda: model([onnx.helper.make_node("NonZero", ["x"], ["y"])]).SerializeToString(),
        "`NonZero`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_sentence_and_nothing_is_kept(house: House, name: str) -> None:
    make, sentence = REFUSED[name]
    refused = send(house, make(), "own.onnx")
    assert (refused.status_code, refused.json["type"]) == (422, "/problems/unusable-network")
    assert sentence in refused.json["detail"]
    assert "passwd" not in refused.get_data(as_text=True)
    assert refused.json["errors"][0]["pointer"] == "/file"
    assert house.stored_files() == []
    assert ask(house, "/networks").json["items"] == []


def test_every_wrong_field_is_named(house: House) -> None:
    def pointers(answer: TestResponse) -> list[str]:
        assert answer.status_code == 422, answer.json
        return [error["pointer"] for error in answer.json["errors"]]

    content = model().SerializeToString()
    assert pointers(send(house, content, "file")) == ["/format"]
    assert pointers(send(house, content, "a.onnx", format="pickle")) == ["/format"]
    assert pointers(send(house, content, "a.onnx", config="{")) == ["/config"]
    assert pointers(send(house, content, "a.safetensors", config='{"inputs": 0}')) == [
        "/config/network",
        "/config/inputs",
        "/config/targets",
    ]
    config = json.dumps(content_of("mlp")[1])
    assert pointers(send(house, content, "a.onnx", config=config)) == ["/config"]
    assert ask(house, "/networks", "POST", json={}).status_code == 415
    data = {"file": (io.BytesIO(content), "a.onnx")}
    assert pointers(house.client().post("/api/v1/datasets", data=data, headers=house.headers("admin"))) == ["/format"]
    assert house.stored_files() == []


def test_a_network_may_come_in_parts(house: House) -> None:
    content = exported(*NETWORKS["gru"]())
    announced = ask(house, "/uploads", "POST", json={"name": "gru.onnx", "bytes": len(content)})
    address = f"/uploads/{announced.json['id']}"
    for start in range(0, len(content), 1000):
        part = {"data": content[start : start + 1000], "content_type": "application/octet-stream"}
        assert ask(house, f"{address}/parts/{start}", "PUT", **part).status_code == 200
    done = ask(house, f"{address}/complete", "POST")
    assert (done.status_code, done.json["operators"]["GRU"]) == (201, 1)
    assert ask(house, f"{address}/complete", "POST").json["id"] == done.json["id"]
    assert ask(house, address).json["network_id"] == done.json["id"]
    assert ask(house, f"/networks/{done.json['id']}/file").data == content
    assert house.stored_files() == [done.json["sha256"]], "no part is left"
    more = {"name": "b.onnx", "bytes": 9}
    for wrong in ({"roles": {}}, {"config": content_of("mlp")[1]}):
        assert ask(house, "/uploads", "POST", json=more | wrong).json["errors"][0]["pointer"] == f"/{next(iter(wrong))}"
    again = ask(house, "/uploads", "POST", json=more | {"bytes": len(content), "sha256": done.json["sha256"]})
    assert again.json["received"] == len(content), "bytes that are there need not be sent again"


def test_weights_in_parts_bring_their_config(house: House) -> None:
    content, config, _ = content_of("mlp")
    body = {"name": "w.safetensors", "bytes": len(content), "config": config}
    address = f"/uploads/{ask(house, '/uploads', 'POST', json=body).json['id']}"
    ask(house, f"{address}/parts/0", "PUT", data=content, content_type="application/octet-stream")
    done = ask(house, f"{address}/complete", "POST")
    assert (done.status_code, done.json["kind"]) == (201, "mlp")


def test_a_large_network_is_checked_later(make: Callable[..., House]) -> None:
    house = make(BIMT_CHECK_AT_ONCE_BYTES="10")
    good = send(house, model().SerializeToString(), "own.onnx")
    assert (good.status_code, good.json["state"]) == (202, "checking")
    bad = send(house, b"no network at all", "own.onnx")
    house.settle()
    assert ask(house, f"/networks/{good.json['id']}").json["state"] == "ready"
    refused = ask(house, f"/networks/{bad.json['id']}").json
    assert (refused["state"], "damaged" in refused["errors"][0]["detail"]) == ("refused", True)


def test_deleting_frees_the_bytes_and_other_teams_see_nothing(house: House) -> None:
    content = model().SerializeToString()
    ours, theirs = send(house, content, "a.onnx").json, send(house, content, "a.onnx", team="theirs").json
    for path in (f"/networks/{ours['id']}", f"/networks/{ours['id']}/file"):
        assert ask(house, path, team="theirs").status_code == 404
    assert ask(house, f"/networks/{ours['id']}", "DELETE", team="theirs").status_code == 404
    assert ask(house, f"/networks/{ours['id']}", "DELETE").status_code == 204
    assert ask(house, f"/networks/{ours['id']}").status_code == 404
    assert len(house.stored_files()) == 1, "the other team's network needs them"
    assert ask(house, f"/networks/{theirs['id']}", "DELETE", team="theirs").status_code == 204
    assert house.stored_files() == []


def test_networks_count_against_the_quota(house: House) -> None:
    content = model().SerializeToString()
    with house.database.write() as rows:
        teams.get_team(rows, house.teams["ours"]).max_stored_bytes = len(content) + 10
    assert send(house, content, "a.onnx").status_code == 201
    again = send(house, content + b"", "b.onnx")
    assert again.status_code in (403, 429, 507)
    assert "more do not fit" in again.json["detail"]
    assert len(ask(house, "/networks").json["items"]) == 1


@pytest.fixture
def perceptron_and_table(house: House) -> dict[str, str]:
    """An uploaded network that reads four numbers and gives two, and a table of seven columns of numbers."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    made = send(house, exported(network, torch.zeros(2, 4)), "mine.onnx")
    table = "a,b,c,d,e,p,q\n" + "".join(
        ",".join(str((3 * i + 7 * j) % 11 + 0.5) for j in range(7)) + "\n" for i in range(60)
    )
    data = {"file": (io.BytesIO(table.encode()), "seven.csv")}
    loaded = house.client().post("/api/v1/datasets", data=data, headers=house.headers("admin"))
    return {"network_id": made.json["id"], "dataset": loaded.json["id"]}


def test_a_network_is_analysed_whatever_the_spec_leaves_open(
    house: House, perceptron_and_table: dict[str, str]
) -> None:
    roles = {"inputs": ["a", "b", "c", "d"], "targets": ["p", "q"], "task": "regression"}
    asked = perceptron_and_table | {"kind": "analyse", "roles": roles, "spec": {"training": {"steps": 0}}}
    planned = ask(house, "/jobs/plan", "POST", json=asked)
    assert (planned.status_code, planned.json["steps"]) == (200, 0)
    made = ask(house, "/jobs", "POST", json=asked)
    assert (made.status_code, made.json["spec"]["network"]["kind"]) == (202, "uploaded")
    without = {name: value for name, value in asked.items() if name not in ("network_id", "kind")}
    [error] = ask(house, "/jobs", "POST", json=without).json["errors"]
    assert (error["pointer"], "Only an uploaded network" in error["detail"]) == ("/spec/training", True)


def test_an_uploaded_network_reads_columns_as_they_are_unless_they_are_to_be_scaled(
    house: House, perceptron_and_table: dict[str, str]
) -> None:
    roles = {"inputs": ["a", "b", "c", "d"], "targets": ["p", "q"], "task": "regression"}
    for said, scaled, told in (
        ({}, False, "will see the columns as they are"),
        ({"standardise": True}, True, "will see columns scaled to mean 0 and variance 1: untick"),
        ({"standardise": False}, False, "will see the columns as they are"),
    ):
        asked = perceptron_and_table | {"roles": roles | said}
        assert told in ask(house, "/jobs/plan", "POST", json=asked).json["notes"][0]
        assert ask(house, "/jobs", "POST", json=asked).json["spec"]["dataset"]["standardise"] is scaled
    address = f"/datasets/{perceptron_and_table['dataset']}"
    assert "standardise" not in ask(house, address).json["roles"]
    assert ask(house, address, "PATCH", json={"standardise": True}).json["roles"]["standardise"] is True
    kept = ask(house, "/jobs", "POST", json=perceptron_and_table | {"roles": roles})
    assert kept.json["spec"]["dataset"]["standardise"] is True
    without = {"dataset": perceptron_and_table["dataset"]}
    assert ask(house, "/jobs", "POST", json=without).json["spec"]["dataset"]["standardise"] is True
    assert ask(house, "/jobs/plan", "POST", json=without).json["notes"] == []


@pytest.mark.parametrize(
    ("inputs", "targets", "pointer", "said"),
    [
        (
            "abcde",
            "pq",
            "/roles/inputs",
            "reads 4 numbers of a row, and the inputs are 5 numbers (`a`, `b`, `c`, `d`, `e`): take a column out of",
        ),
        ("abc", "pq", "/roles/inputs", "the inputs are 3 numbers (`a`, `b`, `c`): make another column an input,"),
        ("abcd", "p", "/roles/targets", "gives 2 numbers of a row, and the target is 1 number (`p`): make another"),
    ],
)
def test_a_network_that_does_not_fit_the_columns_is_refused_before_it_is_queued(
    house: House, perceptron_and_table: dict[str, str], inputs: str, targets: str, pointer: str, said: str
) -> None:
    roles = {"inputs": list(inputs), "targets": list(targets), "task": "regression"}
    for path in ("/jobs/plan", "/jobs"):
        refused = ask(house, path, "POST", json=perceptron_and_table | {"roles": roles})
        assert refused.status_code == 422
        [error] = refused.json["errors"]
        assert error["pointer"] == pointer
        assert said in error["detail"], error


def test_a_network_that_does_not_fit_the_classes_of_a_table_is_refused(
    house: House, perceptron_and_table: dict[str, str]
) -> None:
    rows = "a,b,c,d,kind\n" + "".join(f"{i}.5,{i % 5}.5,{i % 7}.5,1.{i},{'uvw'[i % 3]}\n" for i in range(60))
    data = {"file": (io.BytesIO(rows.encode()), "kinds.csv")}
    loaded = house.client().post("/api/v1/datasets", data=data, headers=house.headers("admin"))
    refused = ask(house, "/jobs", "POST", json=perceptron_and_table | {"dataset": loaded.json["id"]})
    [error] = refused.json["errors"]
    assert (refused.status_code, error["pointer"]) == (422, "/roles/targets")
    assert "gives 2 numbers, one for each class, and `kind` has 3 classes" in error["detail"]


def test_weights_with_a_config_say_what_they_read_and_give(house: House) -> None:
    content, config, _ = content_of("mlp")
    made = send(house, content, "weights.safetensors", config=json.dumps(config)).json
    assert made["input"]["shape"] == [None, config["inputs"]]
    assert made["output"]["shape"] == [None, config["targets"]]
