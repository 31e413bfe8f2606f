"""One POST outside: to the very address that was checked, within its time, and never along a redirect."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from store.url_policy import networks
from tests.worker.scheduler.receivers import receiving
from worker.webhook_sender import post

HERE = networks("127.0.0.1/32")


def send(url: str, *, permitted=HERE, seconds: float = 5.0, **more):
    return post(url, b"{}", {"webhook-id": "1"}, permitted=permitted, seconds=seconds, **more)


def leads_to(*numbers: str, asked: list[str] | None = None):
    """A look-up that answers with these numbers, one after the other."""
    rest = list(numbers)

    def resolve(host: str, port: int, **_: object):
        if asked is not None:
            asked.append(host)
        number = rest.pop(0)
        family = socket.AF_INET6 if ":" in number else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (number, port))]

    return resolve


def test_the_body_arrives_as_it_was_given():
    with receiving() as receiver:
        answer = send(receiver.url)
    assert (answer.accepted, answer.status, answer.sentence) == (True, 204, "204 No Content")
    [(path, headers, body)] = receiver.heard
    assert (path, body) == ("/hook?who=bimt", b"{}")
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (headers["connection"], headers["webhook-id"]) == ("close", "1")


def test_this_machine_is_not_called_unless_it_is_permitted():
    with receiving() as receiver:
        for url in (receiver.url, f"http://localhost:{receiver.port}/", f"https://localhost:{receiver.port}/"):
            answer = send(url, permitted=())
            assert (answer.accepted, answer.status) == (False, None)
        answer = send(f"https://localhost:{receiver.port}/", permitted=networks("10.0.0.0/8"))
        assert "no public address" in answer.sentence
    assert receiver.heard == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
def test_odd_spellings_of_this_machine_are_not_called(host):
    with receiving() as receiver:
        answer = send(f"https://{host}:{receiver.port}/", permitted=())
    assert ("no public address" in answer.sentence, receiver.heard) == (True, [])


def test_a_name_is_looked_up_once_and_that_very_number_is_called():
    """DNS rebinding: by the second look-up the name would lead to the neighbour."""
    asked: list[str] = []
    with receiving() as receiver, receiving(host="127.0.0.2", statuses=[200]) as neighbour:
        where = f"http://hooks.example.org:{receiver.port}/"
        answer = send(where, resolve=leads_to("127.0.0.1", "127.0.0.2", asked=asked))
        assert answer.status == 204
        assert asked == ["hooks.example.org"]
        assert receiver.heard[0][1]["host"] == f"hooks.example.org:{receiver.port}"
        away = f"http://hooks.example.org:{neighbour.port}/"
        refused = send(away, resolve=leads_to("127.0.0.2", "127.0.0.1"))
        assert "leads to 127.0.0.2, which is no public address" in refused.sentence
    assert neighbour.heard == []


def test_a_name_that_leads_to_a_public_and_a_private_number_is_not_called():
    def both(host: str, port: int, **_: object):
        return leads_to("127.0.0.1")(host, port) + leads_to("10.0.0.1")(host, port)

    with receiving() as receiver:
        answer = send(f"http://hooks.example.org:{receiver.port}/", resolve=both)
    assert ("10.0.0.1" in answer.sentence, receiver.heard) == (True, [])


def test_a_redirect_is_not_followed():
    with receiving(host="127.0.0.2") as neighbour:
        for status in (301, 302, 307, 308):
            with receiving(statuses=[status], location=neighbour.url) as receiver:
                answer = send(receiver.url)
                assert (answer.accepted, answer.status, "not followed" in answer.sentence) == (False, status, True)
    assert neighbour.heard == []


@pytest.mark.parametrize("how", [{"hold": threading.Event()}, {"drip": True}], ids=["never", "byte by byte"])
def test_a_receiver_that_does_not_answer_in_time_is_left(how):
    with receiving(**how) as receiver:
        answer = send(receiver.url, seconds=0.4)
        assert (answer.status, answer.sentence) == (None, "No answer within 0.4 s.")
        assert len(receiver.heard) == 1


def test_what_cannot_be_reached_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = send(f"http://127.0.0.1:{unused.getsockname()[1]}/")
        assert "could not be reached" in answer.sentence
    assert "could not be reached" in send("https://no-such-name.invalid/").sentence
    with receiving() as receiver:
        assert "could not be reached" in send(f"https://127.0.0.1:{receiver.port}/").sentence, "it speaks no TLS"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `hooks.example.org` that only the test trusts, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=hooks.example.org", "-addext", "subjectAltName=DNS:hooks.example.org"]
    try:
        subprocess.run([*command, "-keyout", str(path), "-out", f"{path}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make a certificate with")
    with path.open("a") as both:
        both.write(Path(f"{path}.crt").read_text())
    return path


def test_the_certificate_must_be_believed_and_be_of_the_name(certificate, monkeypatch):
    with receiving(certificate) as receiver:
        url = f"https://hooks.example.org:{receiver.port}/hook"
        assert "certificate" in send(url, resolve=leads_to("127.0.0.1")).sentence
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert send(url, resolve=leads_to("127.0.0.1")).status == 204
        other = url.replace("hooks", "other")
        assert "certificate of `other.example.org`" in send(other, resolve=leads_to("127.0.0.1")).sentence
    assert [path for path, _, _ in receiver.heard] == ["/hook"]


def test_a_receiver_that_stops_in_the_middle_of_tls_is_left(certificate):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        answer = send(f"https://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
    assert answer.sentence == "No answer within 0.3 s."
