"""Roles of an uploaded table, changed after the upload: for later jobs, never for earlier ones."""

from __future__ import annotations

import io
from collections.abc import Callable

import polars as pl
import pytest
from werkzeug.test import TestResponse

from store.tables import Dataset
from tests.api.makers import House
from tests.api.test_bad_data import GOOD
from tests.api.test_thread import upload
from tests.engine.data.test_tables import passengers


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
        "validation_fraction": 0.15, "test_fraction": 0.5,
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


# --- types of columns ---------------------------------------------------------------------------------------


def test_a_passenger_list_goes_in_as_it_is(house: House) -> None:
    dataset = upload(house, passengers(), file_name="passengers.csv").json
    assert dataset["state"] == "ready"
    assert (dataset["task"], dataset["roles"]["targets"]) == ("classification", ["Survived"])
    assert dataset["roles"]["inputs"] == ["Pclass", "Sex", "Age", "SibSp", "Fare", "Embarked"]
    assert any("No value: Age (12 of 60 rows)" in note for note in dataset["notes"])
    preview = house.client().get(f"/api/v1/datasets/{dataset['id']}/preview", headers=house.headers()).json
    age = next(column for column in preview["columns"] if column["name"] == "Age")
    assert (age["type"], age["missing"], preview["first_rows"][0]["Age"]) == ("integer", 12, None)
    assert submit(house, dataset)["columns"]["Embarked"]["missing"] == "category"


def test_types_are_changed_with_the_roles_and_looked_at(house: House) -> None:
    dates = "when,zip,y\n" + "".join(
        f"0{1 + i % 9}/0{1 + i % 7}/2024,0{1000 + i % 3},{i * i % 11}.5\n" for i in range(30)
    )
    dataset = upload(house, dates).json
    assert dataset["roles"]["inputs"] == ["zip"]
    assert "no row says whether the day or the month comes first" in " ".join(dataset["notes"])
    columns = {"when": {"type": "date", "notation": "31/12/2024"}, "zip": {"type": "category"}}
    changed = change(house, dataset, columns=columns)
    assert (changed.status_code, changed.json["roles"]["inputs"]) == (200, ["zip", "when"]), changed.json
    assert not any("comes first" in note for note in changed.json["notes"])
    preview = house.client().get(f"/api/v1/datasets/{dataset['id']}/preview", headers=house.headers()).json
    assert preview["first_rows"][1] == {"when": "2024-02-02", "zip": "01001", "y": 1.5}
    spec = submit(house, dataset)
    assert {name: (c["type"], c["notation"]) for name, c in spec["columns"].items()} == {
        "when": ("date", "31/12/2024"),
        "zip": ("category", None),
        "y": ("number", None),
    }
    asked = submit(house, dataset, roles={"columns": {"when": {"dates": "parts"}}})
    assert asked["columns"]["when"]["dates"] == "parts"
    assert asked["columns"]["when"]["notation"] == "31/12/2024"


def test_types_split_and_weight_go_with_the_file(house: House) -> None:
    rows = "zip,g,w,y\n" + "".join(f"0{1000 + i % 3},{i % 9},{1 + i % 2},{i * i % 11}.5\n" for i in range(30))
    split = '{"by": "group", "column": "g"}'
    dataset = upload(house, rows, columns='{"zip": {"type": "category"}}', split=split, weight="w").json
    assert (dataset["roles"]["inputs"], dataset["roles"]["weight"]) == (["zip"], "w")
    spec = submit(house, dataset)
    assert (spec["split"], spec["weight"]) == ({"by": "group", "column": "g"}, "w")
    assert {name: column["type"] for name, column in spec["columns"].items()} == {
        "zip": "category", "y": "number", "g": "integer", "w": "integer",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "pointer"),
    [
        ({"z": {"type": "date"}}, "/columns/z"), ({"a": {"type": "dat"}}, "/columns/a/type"),
        ({"a": {"type": "category", "missing": "median"}}, "/columns/a"), ({"y": {"type": "date"}}, "/targets/0"),
        ({"b": {"missing": "refuse"}}, "/columns/b/missing"), ({"a": {"type": "text"}}, "/inputs/0"),
    ],
)  # fmt: skip
def test_types_that_cannot_be_are_refused_with_their_place(house: House, columns: dict, pointer: str) -> None:
    rows = "a,b,y\n" + "".join(f"{i % 7},{'' if i == 3 else i * 7 % 5},{i + i * 7 % 5}.5\n" for i in range(12))
    dataset = upload(house, rows, targets="y", task="regression").json
    refused = change(house, dataset, columns=columns, inputs=["a", "b"])
    assert refused.status_code == 422, refused.json
    assert pointer in [error["pointer"] for error in refused.json["errors"]]


def test_a_type_that_the_cells_have_not_is_refused_by_the_check(house: House) -> None:
    dataset = upload(house, GOOD.replace("3,1,4\n", "3.5,1,4\n"), targets="y", task="regression").json
    refused = change(house, dataset, columns={"a": {"type": "integer"}})
    assert (refused.status_code, refused.json["errors"][0]["row"]) == (422, 4)
    assert "not a whole number" in refused.json["errors"][0]["detail"]


def test_an_old_preview_gets_types_when_they_are_asked_for(house: House) -> None:
    """Data sets that were checked before columns had types: other roles leave them so, a type reads the file again."""
    dataset = upload(house, GOOD, targets="y", task="regression").json
    with house.database.write() as rows:
        row = rows.get(Dataset, dataset["id"])
        columns = [
            {k: v for k, v in c.items() if k not in ("missing", "notation", "notes")} for c in row.preview["columns"]
        ]
        row.preview = row.preview | {"columns": columns}
        row.roles = {name: value for name, value in row.roles.items() if name != "columns"}
    assert "columns" not in submit(house, dataset)
    assert "columns" not in change(house, dataset, test_fraction=0.3).json["roles"]
    changed = change(house, dataset, columns={"b": {"type": "category"}})
    assert changed.status_code == 200, changed.json
    assert submit(house, dataset)["columns"]["b"]["type"] == "category"


def test_a_job_s_own_weight_or_split_column_is_no_input_of_it(house: House) -> None:
    table = "a,b,w,y\n" + "".join(f"{i},{i * i % 7},{1 + i % 3},{3 * i % 11}.5\n" for i in range(40))
    dataset = upload(house, table, targets="y", task="regression").json
    assert dataset["roles"]["inputs"] == ["a", "b", "w"]
    assert submit(house, dataset, roles={"weight": "w"})["inputs"] == ["a", "b"]
    assert submit(house, dataset, roles={"split": {"by": "group", "column": "w"}})["inputs"] == ["a", "b"]
    body = {"dataset": dataset["id"], "recipe": "table", "roles": {"weight": "w", "inputs": ["a", "w"]}}
    refused = house.client().post("/api/v1/jobs", headers=house.headers(), json=body)
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/roles/weight")


def test_a_split_that_is_no_object_is_answered_with_one(house: House) -> None:
    refused = upload(house, GOOD, split="b")
    assert refused.status_code == 422
    assert '{"by": "group", "column": "grp"}' in refused.json["errors"][0]["detail"], refused.json
