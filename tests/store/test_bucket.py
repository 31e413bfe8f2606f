"""The same file store in a bucket: a real S3 conversation with a service of our own."""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest

from store.errors import DamagedFile, NotFound, TooLarge, is_disk_full
from store.files import Files
from tests.servers import bucket_url, object_store  # noqa: F401 - fixtures are found by name


@pytest.fixture
def bucket(bucket_url, tmp_path):  # noqa: F811
    return Files(bucket_url, spool=tmp_path / "spool")


def test_what_was_put_comes_back(bucket):
    assert bucket.answers()
    for content in (b"", b"small", os.urandom(1 << 20) * 9):  # the last one goes in parts
        stored = bucket.put_stream([content])
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert bucket.read(stored.sha256) == content
        assert bucket.size(stored.sha256) == len(content)
        assert b"".join(bucket.stream(stored.sha256, start=2, end=4)) == content[2:4]
        with bucket.path(stored.sha256) as path:
            assert path.read_bytes() == content
    assert list(bucket.spool.iterdir()) == []


def test_a_stream_is_cut_at_the_limit_and_leaves_nothing(bucket):
    with pytest.raises(TooLarge):
        bucket.put_stream([b"x" * 100] * 100, limit=999)
    assert list(bucket.each()) == []
    assert list(bucket.spool.iterdir()) == []


def test_a_bucket_that_goes_away_is_noticed_before_the_first_piece_is_sent(bucket, monkeypatch):
    name = bucket.put_bytes(b"weights").sha256
    assert b"".join(bucket.open(name)[1]) == b"weights"

    def away(*_: object, **__: object) -> None:
        raise obstore.exceptions.GenericError("error sending request for url")

    monkeypatch.setattr(obstore, "get_range", away)
    with pytest.raises(obstore.exceptions.GenericError):
        bucket.open(name)


def test_what_is_not_there_is_not_found(bucket):
    absent = "0" * 64
    for ask in (bucket.read, bucket.size, bucket.stream):
        with pytest.raises(NotFound):
            ask(absent)
    assert not bucket.exists(absent)
    assert not bucket.delete(absent)
    assert not bucket.delete_unused(absent, since=datetime.now(UTC))


def test_unused_bytes_go_and_fresh_ones_stay(bucket):
    name = bucket.put_bytes(b"same").sha256
    assert bucket.put_bytes(b"same").sha256 == name
    assert [(found, size) for found, size, _ in bucket.each()] == [(name, 4)]
    assert not bucket.delete_unused(name, since=datetime.now(UTC) - timedelta(hours=1))
    assert bucket.delete_unused(name, since=datetime.now(UTC) + timedelta(hours=1))
    assert list(bucket.each()) == []


def path_of(bucket, name):
    with bucket.path(name) as path:
        return path.read_bytes()


@pytest.mark.parametrize(
    "work",
    [Files.read, path_of, Files.open],
    ids=["read", "path", "open"],
)
def test_one_flipped_bit_in_the_bucket_is_never_worked_with_and_the_same_upload_heals_it(bucket, work):
    name = bucket.put_bytes(b"precious").sha256
    work(bucket, name)
    obstore.put(bucket._store, f"cas/{name[:2]}/{name}", b"precioux")
    with pytest.raises(DamagedFile, match="no longer have the hash they were stored under"):
        work(bucket, name)
    bucket.put_bytes(b"precious")
    work(bucket, name)
    assert bucket.read(name) == b"precious"


def test_an_upload_heals_damage_in_the_bucket_that_this_process_has_not_noticed(bucket):
    name = bucket.put_bytes(b"precious").sha256
    obstore.put(bucket._store, f"cas/{name[:2]}/{name}", b"precioux")
    bucket.put_bytes(b"precious")
    assert bucket.read(name) == b"precious"


def test_a_bucket_that_is_away_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    assert not Files("s3://nobody/x?endpoint=http://127.0.0.1:1", spool=tmp_path).answers()


@pytest.mark.parametrize(
    ("status", "code"), [(507, "XMinioStorageFull"), (507, "InsufficientStorage"), (403, "QuotaExceeded")]
)
def test_a_full_bucket_is_told_apart_from_one_that_is_away(tmp_path, monkeypatch, status, code):
    """What object stores answer a PUT when they are full; they are tried again for seconds, not for minutes."""

    class Full(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>There is no room.</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        full = Files(f"s3://any?endpoint=http://127.0.0.1:{server.server_port}", spool=tmp_path / "spool")
        with pytest.raises(obstore.exceptions.BaseError) as caught:
            full.put_bytes(b"some")
        server.shutdown()
    assert is_disk_full(caught.value)
    assert not is_disk_full(obstore.exceptions.GenericError("error sending request for url"))
    assert list((tmp_path / "spool").iterdir()) == []
