"""The check of an upload: it ends with its process, and is begun again by another or by the next start."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from api.upload_check import SILENCE
from store import datasets
from tests.api.makers import House, make_house, now, serving, serving_process
from tests.api.test_bad_data import GOOD
from tests.api.test_thread import upload

LARGE = {"BIMT_CHECK_AT_ONCE_BYTES": "50"}


@pytest.fixture
def waiting(tmp_path: Path, sqlite_url: str) -> Iterator[tuple[House, str]]:
    """A service that is not running, and a large upload that was not checked."""
    house = make_house(tmp_path / "home", database_url=sqlite_url, environ=LARGE)
    house.app.extensions["bimt"].upload_checker.stop()  # this process is not to do it
    answer = upload(house, GOOD, targets="y", task="regression")
    assert (answer.status_code, answer.json["state"]) == (202, "checking")
    yield house, answer.json["id"]
    house.close()


def state(house: House, dataset_id: str) -> str:
    with house.database.read() as rows:
        return datasets.get(rows, house.teams["ours"], dataset_id).state


def until(look: Callable[[], object], what: str) -> object:
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def children(parent: psutil.Process) -> list[psutil.Process]:
    """The processes below one that check files."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [one for one in parent.children(recursive=True) if CHECK_MODULE in " ".join(one.cmdline())]
    return []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked to stop", "killed"])
def test_the_service_ends_although_a_check_is_running_and_the_next_start_begins_it_again(
    waiting: tuple[House, str], number: int
) -> None:
    house, dataset_id = waiting
    with serving_process(house) as (_, process):
        api = psutil.Process(process.pid)
        [check] = until(lambda: children(api), "the check begins with the service")
        check.suspend()  # a file that takes very long
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -number)
        if number == signal.SIGKILL:
            check.resume()  # a suspended process reads nothing, so it does not see that its input has ended
    until(lambda: not check.is_running() or check.status() == psutil.STATUS_ZOMBIE, "the child is gone, too")
    assert state(house, dataset_id) == "checking"
    if number == signal.SIGTERM:
        with serving(house):
            until(lambda: state(house, dataset_id) == "ready", "the next start begins it again")


def test_a_check_whose_process_is_gone_is_taken_over_after_a_silence(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    with house.database.write() as rows:
        assert datasets.take_check(rows, now=now(), silent_since=now() - SILENCE).id == dataset_id
    late = timedelta()
    checker = UploadChecker(house.settings, house.database, house.files, lambda: now() + late)
    checker.wake()
    checker.wait()
    assert state(house, dataset_id) == "checking", "another process may be checking it"
    late = SILENCE
    checker.wake()
    checker.wait()
    checker.stop()
    assert state(house, dataset_id) == "ready"


def test_a_check_that_another_process_took_over_is_ended(
    waiting: tuple[House, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.upload_check.HEARTBEAT_SECONDS", 0.05)
    house, dataset_id = waiting
    us = psutil.Process()
    checker = UploadChecker(house.settings, house.database, house.files, now)
    checker.wake()
    [check] = until(lambda: children(us), "the check has begun")
    check.suspend()
    until(
        lambda: len([one for one in threading.enumerate() if one.name == "check-heartbeat"]) == 1, "it sends heartbeats"
    )
    with house.database.write() as rows:
        taken = datasets.take_check(rows, now=now(), silent_since=now() + timedelta(seconds=5))
    assert taken is not None
    checker.wait()
    assert not children(us)
    assert state(house, dataset_id) == "checking"
    checker.stop()


def test_while_it_is_checked_a_file_keeps_its_roles_and_may_be_deleted(waiting: tuple[House, str]) -> None:
    house, dataset_id = waiting
    body = {"targets": ["a"]}
    busy = house.client().patch(f"/api/v1/datasets/{dataset_id}", headers=house.headers(), json=body)
    assert (busy.status_code, "still being checked" in busy.json["detail"]) == (409, True)
    assert house.client().delete(f"/api/v1/datasets/{dataset_id}", headers=house.headers()).status_code == 204
    checker = UploadChecker(house.settings, house.database, house.files, now)
    checker.wake()
    checker.wait()
    checker.stop()
