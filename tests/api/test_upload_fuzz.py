"""Damaged files of every format: each is taken or refused with a sentence, and nothing of a refused one is left.

`FUZZ_UPLOADS` says how many of each kind; few by default, because each is read by a process of its own.
"""

from __future__ import annotations

import logging
import os
import random

import pytest

from tests.api.makers import House
from tests.api.mutations import mutate, sound_files
from tests.api.test_thread import upload

UPLOADS = int(os.environ.get("FUZZ_UPLOADS", "5"))
FILES = sound_files()
pytestmark = pytest.mark.timeout(300 + 5 * UPLOADS)


@pytest.mark.parametrize("kind", FILES)
def test_sound_files_are_taken(house: House, kind: str) -> None:
    form, files = FILES[kind]
    for content in files:
        answer = upload(house, content, file_name=f"table.{kind}", format=form)
        assert answer.status_code == 201, answer.data


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_taken_or_refused_and_leaves_nothing(
    house: House, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    form, files = FILES[kind]
    client, headers = house.client(), house.headers()
    rng = random.Random(f"uploads of {kind}")
    taken = 0
    for number in range(UPLOADS):
        content = mutate(files, rng)
        with caplog.at_level(logging.WARNING):
            answer = upload(house, content, file_name=f"table.{kind}", format=form)
        said = f"{kind} {number} ({len(content)} bytes): {answer.status_code} {answer.data[:300]!r}"
        assert "the check of an upload ended with" not in caplog.text, f"{said}\n{caplog.text[-3000:]}"
        if answer.status_code == 201:
            taken += 1
            kept = house.stored_files()
            assert len(kept) == 1, said
            assert client.delete(f"/api/v1/datasets/{answer.json['id']}", headers=headers).status_code == 204
        else:
            assert (answer.status_code, answer.content_type) == (422, "application/problem+json"), said
            for error in answer.json["errors"]:
                assert error["pointer"] == "/file", said
                assert len(error["detail"]) > 20, said
                assert error["detail"].endswith((".", ")")), said
        assert house.stored_files() == [], said
    assert client.get("/api/v1/datasets", headers=headers).json["items"] == []
    assert taken < UPLOADS, "No wound hurt: the test shows nothing."
