"""Sends deliveries to webhooks: to many receivers at once, one delivery at a time to each.

A delivery is signed by the Standard Webhooks scheme (standardwebhooks.com), HMAC-SHA256 over `id.timestamp.body`: it
cannot be changed, forged or replayed, and receivers find a library for their language.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from store import webhooks
from store.database import Database
from store.settings import Settings
from store.url_policy import networks
from store.webhooks import Answer, Delivery
from worker.scheduler.safe_http import post

log = logging.getLogger("worker.webhooks")
MAX_RECEIVERS = 16  # at once; one that never answers delays its own deliveries only
POLL_SECONDS = 1.0
DRAIN_SECONDS = 3.0  # at the end of the process, deliveries in flight get so long


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
        """Deliver until asked to stop. While the database is away, try again."""
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
