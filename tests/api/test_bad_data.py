"""Every way in which an upload can be wrong: a sentence with its place, nothing stored, nothing left on disk."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from store.tables import Dataset, File, Job
from tests.api.makers import House, serving
from tests.api.test_thread import upload
from tests.engine.data.makers import xlsx

GOOD = "a,b,y\n" + "".join(f"{i},{i * 7 % 5},{i + i * 7 % 5}\n" for i in range(12))
BAD_FILES = {
    "an empty file": (b"", None, None),
    "a header alone": (b"a,b,y\n", None, None),
    "a row that is too short": (GOOD.replace("3,1,4\n", "3,1\n").encode(), 4, None),
    "text in a column of numbers": (GOOD.replace("3,1,4\n", "3,blue,4\n").encode(), 4, "b"),
    "infinity": (GOOD.replace("3,1,4\n", "3,inf,4\n").encode(), 4, "b"),
    "a number too large for a float": (GOOD.replace("3,1,4\n", "3,1e999,4\n").encode(), 4, "b"),
    "two columns of one name": (GOOD.replace("a,b,y", "a,a,y").encode(), None, "a"),
    "ten thousand columns": (
        (",".join(f"c{i}" for i in range(10_000)) + "\n" + (",".join(["1"] * 10_000) + "\n") * 5).encode(),
        None,
        None,
    ),
    "UTF-16 that is cut off": (GOOD.encode("utf-16")[:-1], None, None),
    "bytes that are no text": (bytes(range(256)) * 20, None, None),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(200), None, None),
}


def nothing_is_kept(house: House) -> None:
    with house.database.read() as rows:
        for table in (Dataset, File):
            assert rows.scalar(select(func.count()).select_from(table)) == 0, table
        assert set(rows.execute(select(Job.kind, Job.state, Job.dataset_id))) <= {("check_upload", "succeeded", None)}
    assert house.stored_files() == []


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_table_is_refused_with_its_place(house: House, what: str) -> None:
    content, row, column = BAD_FILES[what]
    answer = upload(house, content)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json"), answer.data
    problem = answer.json
    assert problem["type"] == "/problems/unusable-data"
    assert problem["retryable"] is False
    first = problem["errors"][0]
    assert (first["in"], first["pointer"]) == ("file", "/file")
    assert first["detail"].endswith((".", ")"))
    assert len(first["detail"]) > 20
    if row is not None:
        assert first["row"] == row
    if column is not None:
        assert first["column"] == column
    nothing_is_kept(house)


@pytest.mark.parametrize("form", ["csv", "npz", "parquet", "idx", "cayley", "npy", "xlsx", "arrow"])
def test_noise_is_refused_in_every_format(house: House, form: str) -> None:
    answer = upload(house, b"\x00\x01PK\x03\x04 noise \xff\xfe" * 40, file_name="noise", format=form)
    assert answer.status_code == 422, answer.data
    nothing_is_kept(house)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"targets": "z"}, "/targets/0"),
        ({"inputs": ["a", "nope"], "targets": "y"}, "/inputs/1"),
        ({"inputs": ["a", "y"], "targets": "y"}, ""),
        ({"targets": ["y", "y"]}, ""),
        ({"task": "guessing"}, "/task"),
        ({"test_fraction": "2"}, "/test_fraction"),
        ({"test_fraction": "nan"}, "/test_fraction"),
        ({"colour": "red"}, "/colour"),
        ({"format": "xls"}, "/format"),
        ({"name": ""}, "/name"),
        ({"name": "nul\x00"}, "/name"),
        ({"name": ["one", "two"]}, "/name"),
    ],
)
def test_a_wrong_field_of_an_upload_is_pointed_at(house: House, fields: dict[str, object], pointer: str) -> None:
    answer = upload(house, GOOD, **fields)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json"), answer.data
    assert pointer in [error["pointer"] for error in answer.json["errors"]]
    nothing_is_kept(house)


def test_a_file_without_a_known_ending_must_say_its_format(house: House) -> None:
    answer = upload(house, GOOD, file_name="data")
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/format")
    assert upload(house, GOOD, file_name="data", format="csv").status_code == 201
    workbook = xlsx([["a", "y"], *([i * i % 7, i * i] for i in range(9))])
    assert upload(house, workbook, file_name="data").json["format"] == "xlsx"


def test_a_missing_or_second_file_is_pointed_at(house: House) -> None:
    client, headers = house.client(), house.headers()
    none = client.post("/api/v1/datasets", headers=headers, data={"name": "x"}, content_type="multipart/form-data")
    assert (none.status_code, none.json["errors"][0]["pointer"]) == (422, "/file")
    two = {"file": [(io.BytesIO(GOOD.encode()), "a.csv"), (io.BytesIO(GOOD.encode()), "b.csv")]}
    assert client.post("/api/v1/datasets", headers=headers, data=two).status_code == 422
    nothing_is_kept(house)


def test_a_body_that_is_neither_file_nor_json_is_refused(house: House) -> None:
    client, headers = house.client(), house.headers()
    answer = client.post("/api/v1/datasets", headers=headers, data=b"a,b\n1,2\n", content_type="text/csv")
    assert (answer.status_code, answer.json["type"]) == (415, "/problems/media-type")
    for body in (
        b"",
        b"no boundary at all",
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a.csv\r\n\r\n1,2",
    ):
        answer = client.post(
            "/api/v1/datasets", headers=headers, data=body, content_type="multipart/form-data; boundary=x"
        )
        assert answer.status_code in (400, 422), (body, answer.data)
        assert answer.content_type == "application/problem+json"
    nothing_is_kept(house)


# --- limits while the bytes arrive -------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_long_is_refused_unread(make: Callable[..., House]) -> None:
    house = make(BIMT_MAX_UPLOAD_BYTES="100000")
    answer = house.client().post(
        "/api/v1/datasets",
        headers=house.headers(),
        input_stream=io.BytesIO(b"--x\r\n"),
        environ_overrides={"CONTENT_LENGTH": str(2 << 30)},
        content_type="multipart/form-data; boundary=x",
    )
    assert (answer.status_code, answer.json["type"]) == (413, "/problems/too-large")
    assert answer.json["errors"][0]["pointer"] == "/file"
    nothing_is_kept(house)


@pytest.mark.parametrize("at_once", ["1000", "10000000"])
def test_a_file_within_the_body_s_limit_but_beyond_its_own_is_refused(make: Callable[..., House], at_once: str) -> None:
    house = make(BIMT_MAX_UPLOAD_BYTES="100000", BIMT_CHECK_AT_ONCE_BYTES=at_once)
    answer = upload(house, GOOD + "1,1,2\n" * 40_000)
    assert (answer.status_code, answer.json["type"]) == (413, "/problems/too-large")
    nothing_is_kept(house)


def test_an_endless_stream_is_cut_at_the_limit(make: Callable[..., House]) -> None:
    """Nobody announces two gigabytes: they just keep coming, and the answer comes long before their end."""
    limits = {"BIMT_MAX_UPLOAD_BYTES": str(4 << 20), "BIMT_MAX_PART_BYTES": str(4 << 20)}
    house = make(**limits)
    part = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="big.csv"\r\n\r\na,b,y\n'
    rows = b"1.5,2.5,4.0\n" * 5_000
    sent, said = 0, b""
    with serving(house) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        head = (
            f"POST /api/v1/datasets HTTP/1.1\r\nHost: here\r\nAuthorization: {house.headers()['Authorization']}\r\n"
            "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=xyz\r\n\r\n"
        )
        line.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
        with contextlib.suppress(OSError):  # the server closes the line when it has heard enough
            while sent < 2 << 30:
                line.sendall(b"%x\r\n%s\r\n" % (len(rows), rows))
                sent += len(rows)
        with contextlib.suppress(OSError):
            while piece := line.recv(65536):
                said += piece
    assert sent < 64 << 20
    assert not said or b" 413 " in said.split(b"\r\n")[0]
    nothing_is_kept(house)


def test_a_line_that_is_cut_leaves_nothing(house: House) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + GOOD.encode()
    for announced in (len(body), len(body) + 1000):
        answer = house.client().post(
            "/api/v1/datasets",
            headers=house.headers(),
            input_stream=io.BytesIO(body),
            environ_overrides={"CONTENT_LENGTH": str(announced)},
            content_type="multipart/form-data; boundary=x",
        )
        assert answer.status_code == 400, answer.data
        assert answer.content_type == "application/problem+json"
    nothing_is_kept(house)


# --- large files are checked after the answer ----------------------------------------------------------------


def _settled(house: House, dataset_id: str) -> dict[str, object]:
    house.settle()
    return house.client().get(f"/api/v1/datasets/{dataset_id}", headers=house.headers()).json


def test_a_large_file_is_taken_first_and_checked_then(make: Callable[..., House]) -> None:
    house = make(BIMT_CHECK_AT_ONCE_BYTES="50")
    answer = upload(house, GOOD, targets="y", task="regression")
    assert (answer.status_code, answer.json["state"]) == (202, "checking")
    ready = _settled(house, answer.json["id"])
    assert (ready["state"], ready["rows"], ready["roles"]["targets"]) == ("ready", 12, ["y"])


def test_a_large_bad_file_is_refused_with_the_same_words(make: Callable[..., House]) -> None:
    bad = GOOD.replace("3,1,4\n", "3,1.2.3,4\n")
    house = make(BIMT_CHECK_AT_ONCE_BYTES="50")
    answer = upload(house, bad)
    assert answer.status_code == 202
    refused = _settled(house, answer.json["id"])
    assert refused["state"] == "refused"
    assert (refused["errors"][0]["row"], refused["errors"][0]["column"]) == (4, "b")
    job = {"dataset": answer.json["id"], "recipe": "table"}
    answer = house.client().post("/api/v1/jobs", headers=house.headers(), json=job)
    assert (answer.status_code, answer.json["type"]) == (409, "/problems/conflict")


def test_the_same_bytes_are_stored_once_and_freed_with_the_last(house: House) -> None:
    first, second = upload(house, GOOD).json, upload(house, GOOD, file_name="again.csv").json
    assert first["sha256"] == second["sha256"]
    assert first["id"] != second["id"]
    assert len(house.stored_files()) == 1
    client, headers = house.client(), house.headers()
    content = client.get(f"/api/v1/datasets/{first['id']}/content", headers=headers)
    assert content.data == GOOD.encode()
    assert client.delete(f"/api/v1/datasets/{first['id']}", headers=headers).status_code == 204
    assert client.get(f"/api/v1/datasets/{first['id']}", headers=headers).status_code == 404
    assert client.get(f"/api/v1/datasets/{second['id']}/content", headers=headers).data == GOOD.encode()
