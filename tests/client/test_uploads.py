"""Large files go up in parts: across broken connections each byte arrives, and stored bytes are not sent again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bimt import Client, InvalidFields, UploadBroken
from tests.client.conftest import QUICK

KB = 1024


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Files are large from a megabyte on, and their parts small, so that a test sends many."""
    monkeypatch.setattr("bimt.datasets.IN_PARTS_FROM", 1024 * KB)
    monkeypatch.setattr("bimt.datasets.PART", 256 * KB)


@pytest.fixture
def large(tmp_path) -> Path:
    """A table of two megabytes that was never uploaded."""
    path = tmp_path / "large.csv"
    seed = int.from_bytes(hashlib.sha256(str(tmp_path).encode()).digest()[:4], "big")
    rows = (f"{i % 97},{(i * 31 + seed) % 1009},{i * i % 7919}.25" for i in range(150_000))
    path.write_text("a,b,c\n" + "\n".join(rows) + "\n")
    assert path.stat().st_size > 2000 * KB
    return path


def test_a_cut_costs_one_part_only(proxy, service, large):
    size = large.stat().st_size
    proxy.up_limit = 6 * size // 10
    with Client(proxy.address, service.token, retry=QUICK) as through:
        dataset = through.datasets.upload(large, targets="c", task="regression")
    assert (dataset.state, dataset.rows, dataset.bytes) == ("ready", 150_000, size)
    assert dataset.roles["targets"] == ["c"]
    assert proxy.up_limit is None, "the connection was cut"
    assert size <= proxy.sent_up < size + 2 * 256 * KB
    assert dataset.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()


def test_bytes_that_the_team_has_are_not_sent_again(proxy, service, large, client):
    client.datasets.upload(large, name="first")
    with Client(proxy.address, service.token, retry=QUICK) as through:
        second = through.datasets.upload(large, name="second")
    assert (second.name, second.state) == ("second", "ready")
    assert proxy.sent_up < 64 * KB


def test_an_interrupted_upload_is_resumed_from_another_process(proxy, service, large, client):
    size = large.stat().st_size

    def refuse_all() -> None:
        proxy.refuse = 1000

    proxy.up_limit, proxy.cut_then = 6 * size // 10, refuse_all
    words = r"bytes have arrived\. Resume it: .*--resume upload_"
    through = Client(proxy.address, service.token, retry=QUICK)
    with through, pytest.raises(UploadBroken, match=words) as stuck:
        through.datasets.upload(large, name="stuck")
    received = client.http.get(f"/uploads/{stuck.value.upload}")["received"]
    assert 0.3 * size < received < 0.7 * size
    proxy.refuse, proxy.cut_then = 0, None
    before = proxy.sent_up
    with Client(proxy.address, service.token, retry=QUICK) as another:
        dataset = another.datasets.upload(large, resume=stuck.value.upload)
    assert (dataset.name, dataset.rows) == ("stuck", 150_000)
    assert proxy.sent_up - before < size - received + 64 * KB


def test_another_file_is_not_taken_for_the_one_that_was_announced(client, large, tmp_path):
    announced = client.http.post("/uploads", {"name": "other.csv", "bytes": 12345})
    with pytest.raises(ValueError, match="is of a file of 12,345"):
        client.datasets.upload(large, resume=announced["id"])
    client.http.delete(f"/uploads/{announced['id']}")


def test_a_fault_in_a_large_file_is_named_too(client, large):
    large.write_text(large.read_text() + "1,1.2.3,3\n")
    with pytest.raises(InvalidFields) as refused:
        client.datasets.upload(large)
    assert [(fault.row, fault.column) for fault in refused.value.fields] == [(150_001, "b")]
