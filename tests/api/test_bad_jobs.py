"""Every way in which a job can be wrong: a pointer and a sentence for each wrong field, and nothing queued."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from store.columns import new_id
from store.tables import Dataset, Job, Run
from tests.api.makers import House
from tests.api.test_thread import upload

FORMULA = {"kind": "formula", "inputs": 2, "formulas": ["x1 + x2"]}


def job(**spec: Any) -> dict[str, Any]:
    """A job on a formula with these parts of its spec."""
    return {"spec": {"dataset": FORMULA, **spec}}


def formula(text: str) -> dict[str, Any]:
    return job(dataset=FORMULA | {"formulas": [text]})


BAD_JOBS: dict[str, tuple[Any, str]] = {
    "a formula that imports": (formula("__import__('os').system('true')"), "/spec/dataset/formulas/0"),
    "a formula that reaches for attributes": (formula("x1.__class__"), "/spec/dataset/formulas/0"),
    "a formula of depth ten thousand": (formula("(" * 10_000 + "x1" + ")" * 10_000), "/spec/dataset/formulas/0"),
    "a formula with an unknown input": (formula("x1 + x3"), "/spec/dataset/formulas/0"),
    "an unknown field": (job(training={"stpes": 5}), "/spec/training/stpes"),
    "an unknown field at the top": (job() | {"colour": "red"}, "/colour"),
    "a transformer on numbers": (job(network={"kind": "transformer"}), "/spec/network"),
    "a recurrent network on numbers": (job(network={"kind": "recurrent"}), "/spec/network"),
    "an embedding of numbers": (job(network={"kind": "mlp", "embedding_width": 4}), "/spec/network"),
    "a perceptron on sequences": (job(dataset={"kind": "two_memories"}), "/spec/network"),
    "a convolution of tokens": (
        job(dataset={"kind": "modular_addition"}, network={"kind": "conv"}),
        "/spec/network",
    ),
    "classes' loss on numbers": (job(training={"loss": "cross_entropy"}), "/spec/training/loss"),
    "balanced classes": (
        job(dataset={"kind": "two_moons"}, training={"balance_outputs": True}),
        "/spec/training/balance_outputs",
    ),
    "negative steps": (job(training={"steps": -1}), "/spec/training/steps"),
    "no steps": (job(training={"steps": 0}), "/spec/training"),
    "10¹² steps": (job(training={"steps": 10**12}), "/spec/training/steps"),
    "10³⁰⁰ steps": (job(training={"steps": 10**300}), "/spec/training/steps"),
    "steps that are no whole number": (job(training={"steps": 2.5}), "/spec/training/steps"),
    "steps as a text": (job(training={"steps": "5"}), "/spec/training/steps"),
    "steps as a truth": (job(training={"steps": True}), "/spec/training/steps"),
    "a truth as a number": (job(network={"kind": "mlp", "move_inputs": 1}), "/spec/network/move_inputs"),
    "an unknown network": (job(network={"kind": "brain"}), "/spec/network/kind"),
    "a network without a kind": (job(network={"hidden": [3]}), "/spec/network/kind"),
    "a hidden layer of no neurons": (job(network={"kind": "mlp", "hidden": [5, 0]}), "/spec/network/hidden/1"),
    "an unknown data set kind": (job(dataset={"kind": "magic"}), "/spec/dataset/kind"),
    "phases that fall back": (
        job(training={"phases": [{"until": 0.5, "cost_strength": 1}, {"until": 0.4, "cost_strength": 1}]}),
        "/spec/training/phases",
    ),
    "a negative seed": (job() | {"seeds": [0, -1]}, "/seeds/1"),
    "a seed twice": (job() | {"seeds": [1, 1]}, "/seeds"),
    "no seed": (job() | {"seeds": []}, "/seeds"),
    "too many runs": (job() | {"seeds": list(range(100)), "cost_strengths": [0.1, 0.2, 0.3]}, "/seeds"),
    "cost strengths in words": (job() | {"cost_strengths": "many"}, "/cost_strengths"),
    "a cost strength twice": (job() | {"cost_strengths": [0.1, 0.1]}, "/cost_strengths"),
    "automatic cost strengths where nothing costs": (
        job(training={"method": "vanilla"}) | {"cost_strengths": "auto"},
        "/cost_strengths",
    ),
    "automatic cost strengths beyond bounds": (
        job(training={"phases": [{"until": 1, "cost_strength": 1e5}]}) | {"cost_strengths": "auto"},
        "/cost_strengths",
    ),
    "a negative cost strength": (job() | {"cost_strengths": [-1e-3]}, "/cost_strengths/0"),
    "a cost strength that another phase would multiply beyond bounds": (
        job(training={"phases": [{"until": 0.5, "cost_strength": 1e-9}, {"until": 1, "cost_strength": 1e6}]})
        | {"cost_strengths": [0.5, 1e5]},
        "/cost_strengths/0",
    ),
    "a priority of ten": (job() | {"priority": 10}, "/priority"),
    "a tag with a space": (job() | {"tags": ["a b"]}, "/tags/0"),
    "a name with a NUL": (job() | {"name": "a\x00b"}, "/name"),
    "a name that is no text": (job() | {"name": 7}, "/name"),
    "a spec and a recipe": (job() | {"recipe": "independence"}, ""),
    "an unknown recipe": ({"recipe": "cake"}, "/recipe"),
    "no data at all": ({"recipe": "table"}, "/dataset"),
    "nothing at all": ({}, "/dataset"),
    "a list": ([], ""),
    "a number": (7, ""),
    "nothing": (None, ""),
    "a data set id that is none": ({"dataset": "../../etc/passwd", "recipe": "table"}, "/dataset"),
    "roles without a data set": (job() | {"roles": {"targets": ["y"]}}, ""),
}


def nothing_is_queued(house: House) -> None:
    with house.database.read() as rows:
        assert rows.scalar(select(func.count()).select_from(Job).where(Job.kind == "training")) == 0
        assert rows.scalar(select(func.count()).select_from(Run)) == 0
    assert {queue for _, queue, _ in house.announced} <= {"interactive"}, "checks of uploads alone"


@pytest.mark.parametrize("what", BAD_JOBS)
def test_a_bad_job_is_refused_with_a_pointer(house: House, what: str) -> None:
    body, pointer = BAD_JOBS[what]
    answer = house.client().post(
        "/api/v1/jobs", headers=house.headers("submitter"), data=json.dumps(body), content_type="application/json"
    )
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json"), answer.data
    found = {error["pointer"]: error["detail"] for error in answer.json["errors"]}
    assert pointer in found, answer.json
    assert found[pointer][-1] in ".!?"
    assert "Traceback" not in answer.text
    nothing_is_queued(house)


def test_every_wrong_field_is_named_not_the_first_alone(house: House) -> None:
    body = job(training={"steps": -1, "nope": 1}, network={"kind": "mlp", "hidden": [0]}) | {
        "seeds": [-1],
        "tags": [""],
    }
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert {error["pointer"] for error in answer.json["errors"]} == {
        "/spec/training/steps",
        "/spec/training/nope",
        "/spec/network/hidden/0",
        "/seeds/0",
        "/tags/0",
    }
    nothing_is_queued(house)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"seeds": [NaN]}',
        b'{"seeds": [Infinity]}',
        b'{"name": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[" + b"1" * 50_000 + b"]",
        "{}".encode("utf-16"),
    ],
    ids=["empty", "cut", "NaN", "Infinity", "no UTF-8", "brackets", "deep", "long number", "UTF-16"],
)
def test_what_is_no_json_is_refused(house: House, raw: bytes) -> None:
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), data=raw, content_type="application/json")
    assert (answer.status_code, answer.json["type"]) == (400, "/problems/malformed-request"), answer.data
    nothing_is_queued(house)


def test_another_content_type_is_refused(house: House) -> None:
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), data=b"{}", content_type="text/plain")
    assert (answer.status_code, answer.json["type"]) == (415, "/problems/media-type")


def test_a_huge_body_is_refused_before_it_is_read(house: House) -> None:
    answer = house.client().post(
        "/api/v1/jobs", headers=house.headers(), data=b'{"name": "' + b"a" * (5 << 20), content_type="application/json"
    )
    assert (answer.status_code, answer.json["type"]) == (413, "/problems/too-large")


def test_an_unknown_data_set_and_another_team_s_look_the_same(house: House) -> None:
    theirs = house.client().post(
        "/api/v1/datasets", headers=house.headers(team="theirs"), json={"name": "f", "maker": FORMULA}
    )
    answers = [
        house.client().post("/api/v1/jobs", headers=house.headers(), json={"dataset": dataset_id})
        for dataset_id in (new_id("dataset"), theirs.json["id"])
    ]
    for answer in answers:
        assert (answer.status_code, answer.json["type"]) == (404, "/problems/not-found")
    nothing_is_queued(house)


def test_a_spec_cannot_name_another_team_s_upload(house: House) -> None:
    answer = upload(house)
    dataset = answer.json
    body = job(
        dataset={
            "kind": "uploaded",
            "dataset_id": dataset["id"],
            "sha256": dataset["sha256"],
            "format": "csv",
            "targets": ["progression"],
            "task": "regression",
        }
    )
    client = house.client()
    assert client.post("/api/v1/jobs", headers=house.headers(team="theirs"), json=body).status_code == 404
    body["spec"]["dataset"]["sha256"] = "0" * 64
    wrong = client.post("/api/v1/jobs", headers=house.headers(), json=body)
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/spec/dataset/sha256")
    nothing_is_queued(house)
    body["spec"]["dataset"]["sha256"] = dataset["sha256"]
    right = client.post("/api/v1/jobs", headers=house.headers(), json=body)
    assert (right.status_code, right.json["dataset_id"]) == (202, dataset["id"])


@pytest.mark.parametrize(
    ("roles", "pointer"),
    [
        ({"targets": ["nope"]}, "/roles/targets/0"),
        ({"inputs": ["age", "nope"]}, "/roles/inputs/1"),
        ({"inputs": ["age"], "targets": ["age"]}, "/roles"),
        ({"targets": []}, "/roles/targets"),
        ({"task": "sorting"}, "/roles/task"),
        ({"test_fraction": 0}, "/roles/test_fraction"),
        ({"weights": ["age"]}, "/roles/weights"),
    ],
)
def test_wrong_roles_are_pointed_at(house: House, roles: dict[str, Any], pointer: str) -> None:
    dataset = upload(house).json
    body = {"dataset": dataset["id"], "recipe": "table", "roles": roles}
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert answer.status_code == 422, answer.data
    assert pointer in [error["pointer"] for error in answer.json["errors"]]
    nothing_is_queued(house)


def test_a_job_with_more_runs_than_the_setting_is_refused_with_both_numbers(make: Callable[..., House]) -> None:
    house = make(BIMT_MAX_RUNS="3")
    body = job() | {"seeds": [0, 1], "cost_strengths": [0.1, 0.2]}
    refused = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/seeds")
    assert "asks for 4 runs" in refused.json["detail"]
    assert "at most 3;" in refused.json["detail"]
    body["seeds"] = [0]
    assert house.client().post("/api/v1/jobs", headers=house.headers(), json=body).status_code == 202


def test_a_higher_setting_allows_larger_jobs(make: Callable[..., House]) -> None:
    body = job() | {"seeds": list(range(299))}
    house = make(BIMT_MAX_RUNS="300")
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert (answer.status_code, answer.json["runs"]) == (202, 299)


def test_roles_can_be_other_than_the_upload_s(house: House) -> None:
    dataset = upload(house).json
    body = {"dataset": dataset["id"], "recipe": "table", "roles": {"inputs": ["age"], "targets": ["bmi"]}}
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert answer.status_code == 202, answer.data
    assert (answer.json["spec"]["dataset"]["inputs"], answer.json["spec"]["dataset"]["targets"]) == (["age"], ["bmi"])


def test_bad_makers_are_pointed_at(house: House) -> None:
    for maker, pointer in (
        ({"kind": "uploaded"}, "/maker/kind"),
        (FORMULA | {"formulas": []}, "/maker/formulas"),
        (FORMULA | {"train": 10**9}, "/maker/train"),
        (FORMULA | {"low": 2}, "/maker"),
        ({"kind": "group", "group": "S9999"}, "/maker/group"),
        (7, "/maker"),
    ):
        answer = house.client().post("/api/v1/datasets", headers=house.headers(), json={"name": "x", "maker": maker})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer), answer.data
    with house.database.read() as rows:
        assert rows.scalar(select(func.count()).select_from(Dataset)) == 0


def test_a_header_that_is_wrong_is_named(house: House) -> None:
    headers = house.headers("submitter", **{"Idempotency-Key": "with a space"})
    answer = house.client().post("/api/v1/jobs", headers=headers, json={"recipe": "independence"})
    [error] = answer.json["errors"]
    assert (answer.status_code, error["in"], error["pointer"]) == (422, "header", "/Idempotency-Key")


@pytest.mark.parametrize("body", [[], None, 3, {"recipe": "independence", "spec": {}}])
def test_a_body_that_is_wrong_as_a_whole_has_a_plain_sentence(house: House, body: object) -> None:
    sent = {"data": json.dumps(body), "content_type": "application/json"}
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), **sent)
    assert answer.status_code == 422
    assert not answer.json["detail"].startswith("`")


def test_what_is_too_large_is_said_in_one_way(make: Callable[..., House]) -> None:
    house = make(BIMT_MAX_REQUEST_BYTES="2000", BIMT_MAX_UPLOAD_BYTES="3000000", BIMT_MAX_PART_BYTES="100")
    client, headers = house.client(), house.headers()
    part = client.post("/api/v1/uploads", headers=headers, json={"name": "a.csv", "bytes": 500}).json["id"]
    table = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + b"x" * 6_000_000
    said = [
        client.post("/api/v1/jobs", headers=headers, json={"name": "x" * 3000}),
        client.post("/api/v1/datasets", headers=headers, data=table, content_type="multipart/form-data; boundary=x"),
        client.post("/api/v1/uploads", headers=headers, json={"name": "a.csv", "bytes": 3_000_001}),
        client.put(
            f"/api/v1/uploads/{part}/parts/0", headers=headers, data=b"x" * 101, content_type="application/octet-stream"
        ),
    ]
    assert [answer.status_code for answer in said] == [413] * 4
    assert [answer.json["detail"] for answer in said] == [
        f"The {what} is larger than the {limit} bytes that are allowed. Nothing of it was kept."
        for what, limit in (("body", "2,000"), ("upload", "100"), ("upload", "3,000,000"), ("part", "100"))
    ]


LARGE = {
    "dataset": {"kind": "formula", "formulas": ["x1"], "inputs": 256, "train": 1_000_000, "test": 10},
    "network": {"kind": "mlp", "hidden": [4096]},
}


@pytest.mark.parametrize(
    ("training", "seeds", "field", "sentence"),
    [
        ({"steps": 10}, [0], "batch_size", "This needs at least 34.4 GiB of memory, with 1,000,000 examples"),
        (
            {"steps": 10_000_000, "batch_size": 100_000, "log_every": 10_000, "snapshot_every": None},
            [0, 1],
            "steps",
            "for at least 1,462 days, with 2 runs of 10,000,000 steps, 100,000 examples in each",
        ),
    ],
    ids=["memory", "time"],
)
def test_a_job_that_cannot_end_well_is_refused_with_the_number(house: House, training, seeds, field, sentence) -> None:
    here = house.app.extensions["bimt"]
    house.app.extensions["bimt"] = replace(here, settings=replace(here.settings, job_memory_bytes=8 << 30))
    body = {"spec": LARGE | {"training": training}, "seeds": seeds}
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert answer.status_code == 422, answer.json
    [wrong] = answer.json["errors"]
    assert wrong["pointer"] == f"/spec/training/{field}"
    assert sentence in wrong["detail"]
    smaller = LARGE | {"training": training | {"batch_size": 1000, "steps": 1000}}
    assert house.client().post("/api/v1/jobs", headers=house.headers(), json={"spec": smaller}).status_code == 202
