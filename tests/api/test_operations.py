"""Questions to a network over the API, answered by a real worker beside the service."""

from __future__ import annotations

import pytest

from api.operations import INTERACTIVE
from tests.api.makers import House, submit_job


def post(house: House, path: str, body: object, role: str = "reader", team: str = "ours"):
    return house.client().post(f"/api/v1{path}", json=body, headers=house.headers(role, team))


def test_a_network_says_what_it_predicts_by_position_and_by_name(house: House, asked: str) -> None:
    rows = [[0.1, 0.2, 0.3, 0.4], {"x4": 0.4, "x3": 0.3, "x2": 0.2, "x1": 0.1}]
    answer = post(house, f"/runs/{asked}/predict", {"inputs": rows})
    assert answer.status_code == 200, answer.json
    assert answer.json["targets"] == ["y1", "y2"]
    first, second = answer.json["outputs"]
    assert first == pytest.approx(second, rel=1e-12)
    assert len(first) == 2


def test_every_row_that_cannot_be_read_is_named(house: House, asked: str) -> None:
    rows = [[0.1, 0.2, 0.3, 0.4], [1, 2], {"x1": 1}, [1, 2, 3, "four"]]
    answer = post(house, f"/runs/{asked}/predict", {"inputs": rows})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json["errors"]] == ["/inputs/1", "/inputs/2", "/inputs/3"]


def test_json_s_largest_numbers_are_named_by_row_and_column(house: House, asked: str) -> None:
    headers = house.headers("reader") | {"Content-Type": "application/json"}
    for written in ("1e999", "1" + "0" * 400):  # JSON itself has no largest number
        body = '{"inputs": [[0, 0, 0, ' + written + "]]}"
        beyond = house.client().post(f"/api/v1/runs/{asked}/predict", data=body, headers=headers)
        assert (beyond.status_code, beyond.json["errors"][0]["pointer"][:11]) == (422, "/inputs/0/3"), beyond.json


def test_a_change_after_which_nothing_can_be_computed_has_null_in_place_of_numbers(house: House, asked: str) -> None:
    huge = {"kind": "neuron", "id": "hidden1:3", "do": "set", "value": 1e308}
    trials = [[huge], [{"kind": "connection", "id": "weights.1[0,0]", "do": "scale", "value": -1e308}], []]
    for network in ("pruned", "trained"):
        answer = post(house, f"/runs/{asked}/interventions", {"trials": trials, "network": network})
        assert answer.status_code == 200, answer.json
        first, _, nothing = answer.json["trials"]
        assert first["effects"] == {"y1": None, "y2": None}
        assert set(first["metrics"].values()) == set(first["change"].values()) == {None}
        assert nothing["effects"] == {"y1": 0.0, "y2": 0.0}
    each = post(house, f"/runs/{asked}/interventions", {"each": {"kind": "neuron", "do": "scale", "value": 1e308}})
    assert each.status_code == 200, each.json


def test_interventions_are_answered_trial_by_trial(house: House, asked: str) -> None:
    trials = [[{"kind": "neuron", "id": "hidden1:3"}], [], [{"kind": "module", "id": "A", "do": "mean"}]]
    answer = post(house, f"/runs/{asked}/interventions", {"trials": trials})
    assert answer.status_code == 200, answer.json
    one, nothing, module = answer.json["trials"]
    assert one["effects"]["y1"] > 0
    assert nothing["effects"] == {"y1": 0.0, "y2": 0.0}
    assert module["metrics"] != answer.json["before"]
    assert post(house, f"/runs/{asked}/interventions", {"trials": trials}).json == answer.json


def test_what_is_not_in_the_network_is_refused_with_its_place(house: House, asked: str) -> None:
    trials = [[{"kind": "neuron", "id": "hidden1:3"}], [{"kind": "neuron", "id": "hidden9:0"}]]
    answer = post(house, f"/runs/{asked}/interventions", {"trials": trials})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/trials/1/0")
    wrong = post(house, f"/runs/{asked}/interventions", {"each": {"kind": "hat"}, "colour": 1})
    assert {error["pointer"] for error in wrong.json["errors"]} == {"/each/kind", "/colour"}


def test_a_thousand_ablations_are_one_operation(house: House, asked: str) -> None:
    post(house, f"/runs/{asked}/predict", {"inputs": [[0, 0, 0, 0]]})
    keys = [f"weights.1[{i},{j}]" for i in range(20) for j in range(20)] * 3
    answer = post(
        house,
        f"/runs/{asked}/interventions",
        {"trials": [[{"kind": "connection", "id": key}] for key in keys[:1000]]},
    )
    assert len(answer.json["trials"]) == 1000
    assert len([job for job, queue, _ in house.announced if queue == INTERACTIVE]) == 2


def test_an_answer_that_takes_longer_is_asked_for_again(house: House, asked: str) -> None:
    worker, house.worker = house.worker, None
    sent = post(house, f"/runs/{asked}/predict?wait=0", {"inputs": [[0, 0, 0, 0]]})
    assert (sent.status_code, sent.json["state"], sent.json["answer"]) == (202, "queued", None)
    client, headers = house.client(), house.headers("reader")
    assert client.get(f"{sent.headers['Location']}?wait=0", headers=headers).json["state"] == "queued"
    house.worker = worker
    worker(INTERACTIVE)
    answer = client.get(f"{sent.headers['Location']}?wait=20", headers=headers).json
    assert answer["state"] == "succeeded"
    assert len(answer["answer"]["outputs"]) == 1


def test_an_operation_is_in_no_list_of_jobs_and_its_team_s_only(house: House, asked: str) -> None:
    sent = post(house, f"/runs/{asked}/predict", {"inputs": [[0, 0, 0, 0]]})
    assert sent.status_code == 200
    client = house.client()
    names = [job["name"] for job in client.get("/api/v1/jobs", headers=house.headers()).json["items"]]
    assert names == ["independence"]
    [operation] = {job for job, queue, _ in house.announced if queue == INTERACTIVE}
    assert client.get(f"/api/v1/operations/{operation}?wait=0", headers=house.headers("reader")).status_code == 200
    assert client.get(f"/api/v1/operations/{operation}?wait=0", headers=house.headers(team="theirs")).status_code == 404


def test_a_run_of_another_team_cannot_be_asked(house: House, asked: str) -> None:
    for path, body in (("predict", {"inputs": [[0, 0, 0, 0]]}), ("interventions", {"each": {"kind": "module"}})):
        assert post(house, f"/runs/{asked}/{path}", body, team="theirs").status_code == 404


def test_a_run_that_has_not_ended_cannot_be_asked(house: House) -> None:
    job_id = submit_job(house)
    [run] = house.client().get(f"/api/v1/jobs/{job_id}/runs", headers=house.headers()).json["items"]
    answer = post(house, f"/runs/{run['id']}/predict", {"inputs": [[0, 0, 0, 0]]})
    assert (answer.status_code, answer.json["type"]) == (409, "/problems/conflict")


def test_a_row_by_name_is_told_what_is_missing_and_what_is_too_much(house: House, asked: str) -> None:
    answer = post(house, f"/runs/{asked}/predict", {"inputs": [{"x1": True, "x2": 0, "x3": 0, "z": 1}]})
    assert answer.status_code == 422
    detail = answer.json["errors"][0]["detail"]
    assert (
        detail == "A row by name needs exactly `x1`, `x2`, `x3`, `x4`; this one is without `x4` and has `z` too much."
    )
    assert post(house, f"/runs/{asked}/predict", {"inputs": [[True, 0, 0, 0]]}).status_code == 200
