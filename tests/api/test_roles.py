"""Roles of an uploaded table, changed after the upload: for later jobs, never for earlier ones."""

from __future__ import annotations

import io
from collections.abc import Callable

import polars as pl
import pytest
from werkzeug.test import TestResponse

from tests.api.makers import House
from tests.api.test_bad_data import GOOD
from tests.api.test_thread import upload


def change(house: House, dataset: dict, role: str = "submitter", **body: object) -> TestResponse:
    """PATCH a data set."""
    address = f"/api/v1/datasets/{dataset['id']}"
    return house.client().patch(address, headers=house.headers(role), json=body)


def submit(house: House, dataset: dict, **more: object) -> dict:
    """The dataset part of a job's spec."""
    body = {"dataset": dataset["id"], "recipe": "table", **more}
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert answer.status_code == 202, answer.json
    return answer.json["spec"]["dataset"]


def test_new_targets_count_for_jobs_from_then_on(any_house: House) -> None:
    dataset = upload(any_house, GOOD, targets="y", task="regression").json
    before = submit(any_house, dataset)
    changed = change(any_house, dataset, targets=["b"], name="anew", test_fraction=0.5)
    assert changed.status_code == 200, changed.json
    assert changed.json["name"] == "anew"
    roles = changed.json["roles"]
    columns = roles.pop("columns")
    assert {name: column["type"] for name, column in columns.items()} == dict.fromkeys("aby", "integer")
    assert roles == {
        "inputs": ["a", "y"], "targets": ["b"], "task": "regression",
        "validation_fraction": 0.15, "test_fraction": 0.5, "standardise": True,
    }  # fmt: skip
    assert changed.json["task"] == "regression"
    assert submit(any_house, dataset)["targets"] == ["b"]
    assert before["targets"] == ["y"]
    again = change(any_house, dataset, inputs=["a"], targets=["y"], task="regression").json
    assert (again["roles"]["inputs"], again["roles"]["test_fraction"]) == (["a"], 0.5)
    assert change(any_house, dataset, inputs=None).json["roles"]["inputs"] == ["a", "b"]


def test_a_parquet_file_that_came_with_its_roles_can_be_given_others(house: House) -> None:
    held = io.BytesIO()
    pl.DataFrame({name: [float(i * k % 7) for i in range(12)] for k, name in enumerate("abcy", 1)}).write_parquet(held)
    roles = {"inputs": ["a", "b"], "targets": "y", "task": "regression"}
    dataset = upload(house, held.getvalue(), file_name="table.parquet", **roles).json
    assert (dataset["columns"], dataset["roles"]["inputs"]) == (4, ["a", "b"])
    changed = change(house, dataset, inputs=["a", "c"])
    assert (changed.status_code, changed.json["roles"]["inputs"]) == (200, ["a", "c"])
    assert submit(house, dataset)["inputs"] == ["a", "c"]


def test_a_job_s_own_targets_are_no_inputs_of_it(house: House) -> None:
    dataset = upload(house, GOOD, targets="y", task="regression").json
    asked = submit(house, dataset, roles={"targets": ["b"], "task": "regression"})
    assert (asked["inputs"], asked["targets"]) == (["a", "y"], ["b"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"targets": ["z"]}, "/targets/0"), ({"inputs": ["a", "z"]}, "/inputs/1"), ({"targets": []}, "/targets"),
        ({"inputs": ["y"]}, "/targets/0"), ({"targets": ["a", "b"], "task": "classification"}, "/targets"),
        ({"name": ""}, "/name"), ({"rows": 3}, "/rows"), ({"test_fraction": 2}, "/test_fraction"),
    ],
)  # fmt: skip
def test_roles_that_cannot_be_are_refused_and_change_nothing(house: House, body: dict, pointer: str) -> None:
    dataset = upload(house, GOOD, targets="y", task="regression").json
    refused = change(house, dataset, **body)
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, pointer), refused.json
    now = house.client().get(f"/api/v1/datasets/{dataset['id']}", headers=house.headers()).json
    assert now == dataset


def test_columns_that_were_never_looked_at_are_looked_at_first(house: House) -> None:
    faulty = GOOD.replace("3,1,4\n", "3,blue,4\n")
    dataset = upload(house, faulty, inputs="a", targets="y", task="regression").json
    assert dataset["state"] == "ready"
    refused = change(house, dataset, inputs=["a", "b"])
    assert (refused.status_code, refused.json["errors"][0]["column"]) == (422, "b")
    assert change(house, dataset, test_fraction=0.3).json["roles"]["inputs"] == ["a"]


def test_a_large_file_that_was_refused_becomes_usable_by_other_roles(make: Callable[..., House]) -> None:
    house = make(BIMT_CHECK_AT_ONCE_BYTES="50")
    faulty = GOOD.replace("3,1,4\n", "3,blue,4\n")
    dataset = upload(house, faulty, inputs=["a", "b"], targets="y", task="regression").json
    house.settle()

    def state() -> str:
        return house.client().get(f"/api/v1/datasets/{dataset['id']}", headers=house.headers()).json["state"]

    assert state() == "refused"
    again = change(house, dataset, inputs=["a"])
    assert (again.status_code, again.json["state"]) == (202, "checking")
    house.settle()
    assert state() == "ready"
    assert submit(house, dataset)["inputs"] == ["a"]
    assert change(house, dataset, standardise=False).status_code == 200, "no column to look at again"


def test_what_is_made_has_no_roles_but_a_name(house: House) -> None:
    body = {"name": "moons", "maker": {"kind": "two_moons"}}
    made = house.client().post("/api/v1/datasets", headers=house.headers(), json=body).json
    assert change(house, made, name="two moons").json["name"] == "two moons"
    assert change(house, made, targets=["x"]).status_code == 422
    assert change(house, made, "reader", name="mine").status_code == 403
