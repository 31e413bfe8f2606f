"""Sends deliveries to webhooks: to many receivers at once, one delivery at a time to each.

A delivery is signed by the Standard Webhooks scheme (standardwebhooks.com), HMAC-SHA256 over `id.timestamp.body`: it
cannot be changed, forged or replayed, and receivers find a library for their language.

Each is one POST to an address that a user named (`post`): resolved once, checked, and the connection goes to the IP
address that was checked. A second look-up could give another one (DNS rebinding), so there is none. Redirects are not
followed, no proxy is used, and only the status of the answer is read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from store import webhooks
from store.database import Database
from store.settings import Settings
from store.url_policy import Forbidden, Network, Target, networks, permit, target_of
from store.webhooks import Answer, Delivery

log = logging.getLogger("worker.webhooks")
MAX_RECEIVERS = 16  # at once; one that never answers delays its own deliveries only
POLL_SECONDS = 1.0
DRAIN_SECONDS = 3.0  # at the end of the process, deliveries in flight get so long
Resolve = Callable[..., Sequence[tuple[Any, ...]]]


def now_utc() -> datetime:
    """The time that is written into rows and signatures."""
    return datetime.now(UTC)


def payload(message: Delivery) -> bytes:
    """The body, the same bytes at every try."""
    document = {"type": message.event, "timestamp": message.created_at.isoformat(), "data": message.body}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def headers(message: Delivery, body: bytes, *, now: datetime) -> dict[str, str]:
    """The headers: the id, the time of this try, and the signature over both and the body."""
    stamp = str(int(now.timestamp()))
    key = base64.b64decode(message.secret.removeprefix("whsec_"))
    digest = hmac.new(key, b".".join((message.id.encode(), stamp.encode(), body)), hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "bimt-webhooks/1",
        "webhook-id": message.id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@dataclass
class WebhookSender:
    """Takes what is due, sends it, records the answers. Any number of senders may run beside each other.

    send        (url, body, headers) → the answer.
    in_flight   deliveries that are being sent, by webhook.
    """

    database: Database
    send: Callable[[str, bytes, dict[str, str]], Answer]
    now: Callable[[], datetime] = now_utc
    in_flight: dict[str, Delivery] = field(default_factory=dict)
    _answers: queue.SimpleQueue[tuple[Delivery, Answer]] = field(default_factory=queue.SimpleQueue)

    @classmethod
    def of(cls, settings: Settings, database: Database) -> WebhookSender:
        """One that calls receivers within the limits of the settings."""
        permitted, seconds = networks(settings.webhook_networks), settings.webhook_seconds
        return cls(database, lambda url, body, head: post(url, body, head, permitted=permitted, seconds=seconds))

    def dispatch_due(self) -> int:
        """Send what is due to receivers that have no delivery in flight, each on a thread; how many deliveries."""
        free, busy = MAX_RECEIVERS - len(self.in_flight), tuple(self.in_flight)
        if free <= 0:
            return 0
        with self.database.read() as session:
            if not webhooks.is_due(session, now=self.now(), busy=busy):
                return 0
        with self.database.write() as session:
            taken = webhooks.take_due(session, now=self.now(), limit=free, busy=busy)
        for message in taken:
            self.in_flight[message.webhook_id] = message
            # No pool: the end of the process would wait for its threads.
            threading.Thread(target=self._send, args=(message,), daemon=True, name="webhook").start()
        return len(taken)

    def _send(self, message: Delivery) -> None:
        body = payload(message)
        try:
            answer = self.send(message.url, body, headers(message, body, now=self.now()))
        except Exception:
            log.exception("%s could not be sent", message.id)
            answer = Answer(None, "A fault of the service; its log says which.")
        self._answers.put((message, answer))

    def record_result(self, seconds: float) -> bool:
        """Record one answer, as soon as there is one; False where none came within so many seconds."""
        try:
            message, answer = self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        self.in_flight.pop(message.webhook_id, None)
        with self.database.write() as session:
            webhooks.record(session, message, answer, now=self.now())
        if not answer.accepted:
            log.info("%s to %s, try %d: %s", message.id, message.webhook_id, message.attempts, answer.sentence)
        return True

    def deliver(self) -> None:
        """Send all that is due, and return when nothing is in flight any more."""
        while self.dispatch_due() or self.in_flight:
            self.record_result(POLL_SECONDS)

    def work(self, over: threading.Event) -> None:
        """Deliver until asked to stop. While the database is unavailable, try again."""
        while not over.is_set():
            try:
                self.dispatch_due()
                self.record_result(POLL_SECONDS)
            except Exception as error:
                log.warning("webhooks have to wait: %s: %s", type(error).__name__, error)
                over.wait(POLL_SECONDS)
        end = time.monotonic() + DRAIN_SECONDS
        while self.in_flight and time.monotonic() < end:
            try:
                self.record_result(end - time.monotonic())
            except Exception as error:
                log.warning("an answer could not be recorded; its delivery is sent again: %s", error)


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    permitted: Sequence[Network],
    seconds: float,
    resolve: Resolve = socket.getaddrinfo,
) -> Answer:
    """Send it. Whatever happens is an Answer: a status, or a sentence why there is none.

    permitted   private networks that may be called.
    seconds     for everything after the look-up of the name: connection, TLS, sending, status.
    """
    try:
        target = target_of(url, permitted)
        addresses = _addresses(target, permitted, resolve)
        with closing(PinnedHttpConnection(target, addresses, seconds)) as connection:
            return _answer(connection.post(body, headers))
    except Forbidden as error:
        return Answer(None, str(error))
    except TimeoutError:
        return Answer(None, f"No answer within {seconds:g} s.")
    except ssl.SSLCertVerificationError as error:
        return Answer(None, f"The certificate of `{target.host}` is not valid: {error.verify_message}.")
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"`{target.authority}` could not be reached: {error or type(error).__name__}.")


def _addresses(target: Target, permitted: Sequence[Network], resolve: Resolve) -> list[tuple[Any, ...]]:
    """The addresses of the host, all of them permitted. Raises Forbidden, OSError."""
    found = resolve(target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    for *_, address in found:
        permit(target, str(address[0]), permitted)
    return list(found)


def _answer(status: int) -> Answer:
    if 300 <= status < 400:
        return Answer(status, f"{status}: redirects are not followed; name the address where it ends.")
    phrase = http.client.responses.get(status, "")
    return Answer(status, f"{status} {phrase}".strip())


class PinnedHttpConnection:
    """A connection to the first of these addresses that can be reached, shut down when its time is over."""

    def __init__(self, target: Target, addresses: Sequence[tuple[Any, ...]], seconds: float) -> None:
        self._target = target
        self._deadline = time.monotonic() + seconds
        self._over = False
        self._socket = self._connect(addresses)
        # A time limit for the whole: a receiver that sends a byte now and then meets every limit between two bytes.
        self._timer = threading.Timer(self._deadline - time.monotonic(), self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    def _left(self) -> float:
        if (left := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def _connect(self, addresses: Sequence[tuple[Any, ...]]) -> socket.socket:
        failure: OSError = ConnectionError("its name has no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self._left())
                connection.connect(address)
                connection.settimeout(self._left())
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure

    def _shut_down(self) -> None:
        self._over = True
        with suppress(OSError):  # it may be closed already
            socket.socket.shutdown(
                self._socket, socket.SHUT_RDWR
            )  # without TLS's closing message, which would be waited for

    def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer. Raises TimeoutError, OSError, HTTPException."""
        try:
            if self._target.scheme == "https":
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(
                    self._socket, server_hostname=self._target.host, do_handshake_on_connect=False
                )
                self._socket.do_handshake()
            request = http.client.HTTPConnection(self._target.host, self._target.port)
            request.sock = self._socket  # so that it does not resolve the name again
            request.auto_open = 0
            fixed = {"Host": self._target.authority, "Connection": "close"}
            request.request("POST", self._target.path, body, {**headers, **fixed})
            status = request.getresponse().status
            if self._over:
                raise TimeoutError  # what looks like the end of the headers is the shut-down
            return status
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._over:
                raise TimeoutError from None
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                raise ConnectionError(str(error)) from error
            raise

    def close(self) -> None:
        """Close it."""
        self._timer.cancel()
        self._socket.close()
