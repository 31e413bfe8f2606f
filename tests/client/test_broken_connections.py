"""Broken connections are repaired by the client: a proxy between it and the service cuts them at bad times."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bimt import Client, InsufficientStorage, QuotaExceeded, RetryPolicy, ServiceFault, TooMany, Unreachable
from bimt.errors import refusal
from bimt.events import parse_events
from bimt.http import HttpClient, worth_repeating
from tests.client.conftest import QUICK, TINY


@pytest.fixture
def through(proxy, service):
    """A client whose connections go through the proxy."""
    with Client(proxy.address, service.token, retry=QUICK) as made:
        yield made


@pytest.fixture
def refusing() -> Iterator[Callable[[int, dict[str, str]], str]]:
    """Starts a server that answers 503 with some headers so many times, then 200. Gives its address."""
    servers: list[HTTPServer] = []

    def start(times: int, headers: dict[str, str]) -> str:
        answers = [(503, headers, b"")] * times + [(200, {}, b'{"name": "ok"}')]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, more, body = answers.pop(0)
                self.send_response(status)
                for name, value in (more | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                """Nothing on standard error."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_refused_connections_are_tried_again(through, proxy):
    proxy.refuse = 3
    assert through.me()["role"] == "admin"
    assert proxy.connections == 4


def test_a_service_that_stays_unreachable_is_named_in_a_sentence(through, proxy):
    proxy.refuse = 100
    with pytest.raises(Unreachable, match="did not answer 6 times"):
        through.me()
    assert proxy.connections == 6


def test_a_submission_whose_answer_was_lost_gives_one_job_only(through, proxy, client):
    proxy.down_limit = 0  # the service has read the request, and its answer is cut off
    job = through.jobs.submit(spec=TINY, name="lost answer")
    assert [each.id for each in client.jobs.search("lost answer")] == [job.id]
    assert proxy.connections == 2
    job.cancel()


def test_what_cannot_be_repeated_is_not_repeated(through, proxy, client):
    proxy.down_limit = 0
    with pytest.raises(Unreachable, match="It may have been carried out: look before you send it again"):
        through.datasets.make("made once", kind="two_moons")
    assert proxy.connections == 1
    assert len(list(client.datasets.search("made once"))) == 1


def test_a_download_that_was_cut_is_whole_in_the_end(through, proxy, run, tmp_path):
    whole = run.weights()
    proxy.down_limit = len(whole) // 2
    path = through.http.download(f"/runs/{run.id}/weights.safetensors", tmp_path / "weights")
    assert path.read_bytes() == whole
    assert proxy.connections == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_job_is_watched_across_three_cut_connections(through, proxy, client, long_job):
    job = long_job()
    revisions, cuts = [], 0
    for event in through.jobs.get(job.id).events(timeout=120):
        revisions.append(event.revision)
        cuts += proxy.cut() > 0
        if cuts == 3:
            job.cancel()
    assert revisions == sorted(set(revisions)), "each event once, in order"
    assert event.state == "cancelled"
    assert proxy.connections > 3


def test_where_streams_do_not_pass_the_job_is_polled(through, proxy, client, monkeypatch):
    monkeypatch.setattr("bimt.events.FIRST_EVENT_TIMEOUT", 1.0)
    job = client.jobs.submit(spec=TINY, name="behind a proxy that buffers")
    asked: list[dict] = []
    stream = through.http.stream

    def watched(*words, query=None, **how):
        asked.append(query or {})
        if query is None:
            proxy.hold.set()  # an event stream is held back; anything else passes
        else:
            proxy.hold.clear()
        return stream(*words, query=query, **how)

    monkeypatch.setattr(through.http, "stream", watched)
    events = list(through.jobs.get(job.id).events(timeout=120))
    assert events[-1].state == "succeeded"
    assert asked[0] == {}
    assert all("wait" in query for query in asked[1:])


def test_watching_a_service_that_has_gone_ends_with_a_sentence(proxy, service, long_job):
    job = long_job()
    impatient = RetryPolicy(initial=0.02, max=0.1, max_silence=1.0)
    with Client(proxy.address, service.token, retry=impatient) as far:
        events = far.jobs.get(job.id).events()
        assert next(events).state in ("queued", "running")
        proxy.refuse = 10_000
        proxy.cut()
        with pytest.raises(Unreachable, match="The job goes on there"):
            list(events)


# --- waits and parsing ----------------------------------------------------------------------------------------


def test_waits_double_up_to_a_limit_and_are_spread_by_chance():
    most, least = RetryPolicy(random=lambda: 1.0), RetryPolicy(random=lambda: 0.0)
    assert [most.wait(attempt) for attempt in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 20, 20]
    assert [least.wait(attempt) for attempt in range(1, 4)] == [0.25, 0.5, 1]


def test_retry_after_is_honoured(refusing):
    slept: list[float] = []
    http = HttpClient(refusing(3, {"Retry-After": "7"}), "x", retry=RetryPolicy(random=lambda: 0.5, sleep=slept.append))
    assert http.get("/me") == {"name": "ok"}
    assert slept == [7.25, 7.5, 7.5]


@pytest.mark.parametrize(
    ("status", "slug", "repeatable", "again"),
    [
        (503, "unavailable", False, True),
        (429, "rate-limit", False, True),
        (429, "quota", True, False),
        (507, "disk-full", True, False),
        (502, "", True, True),
        (502, "", False, False),
        (500, "internal", True, False),
        (404, "not-found", True, False),
    ],
)
def test_only_what_may_do_better_is_sent_again(status, slug, repeatable, again):
    problem = refusal(status, {"type": f"/problems/{slug}", "retryable": status != 404}, {})
    assert worth_repeating(problem, repeatable) is again


def test_a_refusal_keeps_what_the_service_says():
    document = {"type": "/problems/rate-limit", "title": "Too many", "detail": "Come back later.", "retryable": True}
    problem = refusal(429, document, {"Retry-After": "3", "X-Request-Id": "abc"})
    assert isinstance(problem, TooMany)
    assert (problem.slug, problem.retry_after, problem.request_id) == ("rate-limit", 3.0, "abc")
    assert str(problem) == "Come back later."
    assert refusal(502, None, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}).retry_after is None


def test_a_used_up_quota_and_a_full_disk_are_told_apart():
    quota = refusal(429, {"type": "/problems/quota", "detail": "The team holds 5 of 5 jobs."}, {})
    assert type(quota) is QuotaExceeded
    assert isinstance(quota, TooMany)
    assert str(quota) == "The team holds 5 of 5 jobs."
    full = refusal(507, {"type": "/problems/disk-full", "retryable": True}, {"Retry-After": "60"})
    assert type(full) is InsufficientStorage
    assert isinstance(full, ServiceFault)
    assert (full.retry_after, full.retryable) == (60.0, True)
    assert type(refusal(507, None, {})) is InsufficientStorage, "of a proxy, without a document"


def test_events_are_read_however_their_bytes_are_cut():
    text = (
        "retry: 2000\n\nid: 1\nevent: job\ndata: {\"a\": \"\u2028ü\"}\n\n"
        ": still here\n\nid: 2\r\nevent: end\r\ndata: one\r\ndata: two\r\n\r\n"
    ).encode()  # fmt: skip
    for size in (1, 2, 3, 7, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        events = [event for event in parse_events(pieces) if event is not None]
        assert [(event.ident, event.kind, event.data) for event in events] == [
            ("1", "job", '{"a": "\u2028ü"}'),
            ("2", "end", "one\ntwo"),
        ]
