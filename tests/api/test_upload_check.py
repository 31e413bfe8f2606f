"""The check of an upload is an operation: submitted with its data set, waited for, and ended as ready or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from store import datasets, jobs, operations
from store.errors import Conflict
from store.tables import Dataset, Job
from tests.answering import upload_checks
from tests.api.makers import House, make_house, now
from tests.api.test_bad_data import GOOD
from tests.api.test_thread import upload
from tests.servers import overwrite, peek
from worker.operation_queue import INTERACTIVE
from worker.scheduler import Scheduler


@pytest.fixture
def waiting(make: Callable[..., House]) -> tuple[House, str]:
    """A service without a worker, and a large upload that waits for its check."""
    house = make(BIMT_CHECK_AT_ONCE_BYTES="50")
    house.worker = None
    answer = upload(house, GOOD, targets="y", task="regression")
    assert (answer.status_code, answer.json["state"]) == (202, "checking")
    return house, answer.json["id"]


def shown(house: House, dataset_id: str) -> dict:
    return house.client().get(f"/api/v1/datasets/{dataset_id}", headers=house.headers()).json


def check_of(house: House, dataset_id: str) -> Job:
    with house.database.read() as rows:
        return rows.query(Job).filter_by(kind="check_upload", dataset_id=dataset_id).one()


def work(house: House) -> None:
    """What a worker does with the checks that wait."""
    upload_checks(house.settings, house.database, house.files).serve(INTERACTIVE)


def test_a_check_is_announced_once_and_makes_the_data_set_ready(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    check = check_of(house, dataset_id)
    assert house.announced == [(check.id, INTERACTIVE, check.priority)]
    assert shown(house, dataset_id)["state"] == "checking"
    work(house)
    ready = shown(house, dataset_id)
    assert (ready["state"], ready["rows"], ready["columns"], ready["task"]) == ("ready", 12, 3, "regression")
    operation = house.client().get(f"/api/v1/operations/{check.id}", headers=house.headers()).json
    assert (operation["kind"], operation["state"]) == ("check_upload", "succeeded")


def test_data_set_and_check_are_written_together_or_not_at_all(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Conflict("The database refuses the operation.")

    monkeypatch.setattr(operations, "submit_check", fail)
    assert upload(house, GOOD).status_code == 409
    with house.database.read() as rows:
        assert rows.query(Dataset).count() == 0
    assert house.announced == []


@pytest.fixture
def impatient(tmp_path: Path, service_url: str) -> Iterator[House]:
    """A service that waits for no check, and has no worker."""
    house = make_house(tmp_path / "home", database_url=service_url, check_wait_seconds=0)
    house.worker = None
    yield house
    house.close()


def test_a_small_file_that_no_worker_checks_in_time_is_answered_with_202(impatient: House) -> None:
    answer = upload(impatient, GOOD, targets="y", task="regression")
    assert (answer.status_code, answer.json["state"]) == (202, "checking")
    assert answer.headers["Location"] == f"/api/v1/datasets/{answer.json['id']}"
    work(impatient)
    assert shown(impatient, answer.json["id"])["state"] == "ready"


def test_a_check_whose_worker_is_gone_is_begun_again_and_refused_in_the_end(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    check = check_of(house, dataset_id)
    later = now() + timedelta(hours=1)
    for attempts, state in ((2, "checking"), (1, "refused")):
        with house.database.write() as rows:
            assert jobs.claim(rows, check.id, worker="gone@there", now=now(), lease_seconds=1) is not None
        with house.database.write() as rows:
            assert jobs.reap(rows, now=later, max_attempts=attempts) == [check.id]
        assert shown(house, dataset_id)["state"] == state
    assert "worker" in shown(house, dataset_id)["errors"][0]["detail"]


def test_a_cancelled_check_refuses_the_data_set_with_a_reason(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    with house.database.write() as rows:
        jobs.request_cancel(rows, house.teams["ours"], check_of(house, dataset_id).id, now())
    refused = shown(house, dataset_id)
    assert refused["state"] == "refused"
    assert "cancelled" in refused["errors"][0]["detail"]
    again = house.client().patch(
        f"/api/v1/datasets/{dataset_id}", headers=house.headers(), json={"inputs": ["a", "b"], "targets": ["y"]}
    )
    assert again.status_code == 202, "it can be checked once more"
    work(house)
    assert shown(house, dataset_id)["state"] == "ready"


@pytest.mark.parametrize("word", ["missing", "damaged"])
def test_a_stored_file_that_was_lost_before_its_check_is_refused(waiting: tuple[House, str], word: str) -> None:
    house, dataset_id = waiting
    [name] = house.stored_files()
    house.files.delete(name) if word == "missing" else overwrite(house.files, name, peek(house.files, name)[:-1] + b"?")
    work(house)
    refused = shown(house, dataset_id)
    assert refused["state"] == "refused"
    assert word in refused["errors"][0]["detail"]


def test_the_scheduler_submits_the_check_that_the_version_before_left(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    with house.database.write() as rows:  # that version had no operations of this kind
        rows.query(Job).filter_by(id=check_of(house, dataset_id).id).delete()
    scheduler = Scheduler(
        settings=house.settings,
        database=house.database,
        files=house.files,
        count_messages=lambda queue: 0,
        enqueue=house.hear,
    )
    house.announced.clear()
    [check] = scheduler.submit_missing_checks()
    assert [job_id for job_id, _, _ in house.announced] == [check]
    assert scheduler.submit_missing_checks() == []
    work(house)
    assert shown(house, dataset_id)["state"] == "ready"


def test_while_it_is_checked_a_file_keeps_its_roles_and_may_be_deleted(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    body = {"targets": ["a"]}
    busy = house.client().patch(f"/api/v1/datasets/{dataset_id}", headers=house.headers(), json=body)
    assert (busy.status_code, "still being checked" in busy.json["detail"]) == (409, True)
    assert house.client().delete(f"/api/v1/datasets/{dataset_id}", headers=house.headers()).status_code == 204
    work(house)
    with house.database.read() as rows, pytest.raises(Exception, match="no dataset"):
        datasets.get(rows, house.teams["ours"], dataset_id)
