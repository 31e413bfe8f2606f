"""Stored files that are gone or damaged: a problem document in plain words, never a broken answer or a dead process."""

from __future__ import annotations

import pytest

from store.files import Files
from tests.api.makers import House, publish_runs, submit_job
from tests.api.test_bad_data import GOOD
from tests.api.test_thread import upload
from tests.servers import flip_a_bit

ADDRESSES = ("weights.safetensors", "figures/network.svg", "bundle.zip", "snapshots/20000")


def published(house: House) -> str:
    [run_id] = publish_runs(house, submit_job(house))
    body = {"run_id": run_id, "name": "lost"}
    assert house.client().post("/api/v1/models", headers=house.headers(), json=body).status_code == 201
    return run_id


def addresses(run_id: str) -> list[str]:
    at = "/api/v1/models/lost/versions/1"
    return [f"/api/v1/runs/{run_id}/{name}" for name in ADDRESSES] + [f"{at}/{name}" for name in ADDRESSES[:3]]


@pytest.mark.parametrize(("slug", "status"), [("file-missing", 410), ("file-damaged", 500)])
def test_an_artifact_whose_stored_file_is_lost_is_a_problem(house: House, slug: str, status: int) -> None:
    run_id = published(house)
    for name in house.stored_files():
        (Files.delete if slug == "file-missing" else flip_a_bit)(house.files, name)
    word = slug.removeprefix("file-")
    for address in addresses(run_id):
        answer = house.client().get(address, headers=house.headers())
        assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), address
        assert answer.json["type"] == f"/problems/{slug}", address
        assert answer.json["detail"].startswith("The stored file `"), address
        assert f"is {word}" in answer.json["detail"], address
        assert answer.json["retryable"] is False


@pytest.mark.parametrize(("slug", "status"), [("file-missing", 410), ("file-damaged", 500)])
def test_the_content_of_a_data_set_whose_file_is_lost_is_a_problem(house: House, slug: str, status: int) -> None:
    dataset_id = upload(house, GOOD).json["id"]
    for name in house.stored_files():
        (Files.delete if slug == "file-missing" else flip_a_bit)(house.files, name)
    answer = house.client().get(f"/api/v1/datasets/{dataset_id}/content", headers=house.headers())
    assert (answer.status_code, answer.json["type"]) == (status, f"/problems/{slug}")


def test_whole_files_are_served_and_hashed_once_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = published(house)
    hashed = []
    compare = house.files._compare
    monkeypatch.setattr(house.files, "_compare", lambda *what: hashed.append(what) or compare(*what))
    for _ in range(3):
        answer = house.client().get(f"/api/v1/runs/{run_id}/weights.safetensors", headers=house.headers())
        assert (answer.status_code, answer.data) == (200, b"not really weights")
        assert answer.content_length == len(answer.data)
    assert len(hashed) == 1, "checked once, sent three times"
