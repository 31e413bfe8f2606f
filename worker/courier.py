"""The courier brings messages to webhooks: many receivers at once, one message at a time to each.

A message is signed as Standard Webhooks has it (standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`, so that
nobody can change, forge or replay it, and receivers find a library for their language.
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
from store.outside import networks
from store.settings import Settings
from store.webhooks import Answer, Delivery
from worker.post import post

log = logging.getLogger("worker.courier")
AT_ONCE = 16  # receivers; one that never answers holds up its own messages only
LOOK_EVERY = 1.0  # seconds
LEAVE_SECONDS = 3.0  # what is under way when we are asked to stop may end within this


def now_utc() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def letter(message: Delivery) -> bytes:
    """The body, the same bytes at every try."""
    said = {"type": message.event, "timestamp": message.created_at.isoformat(), "data": message.body}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def headers(message: Delivery, body: bytes, *, now: datetime) -> dict[str, str]:
    """What stands on the envelope: the id, the time of this try, and the signature over both and the body."""
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
class Courier:
    """Take what is due, send it, write down what came of it. Any number of couriers may be at work.

    send   (url, body, headers) → the answer
    """

    database: Database
    send: Callable[[str, bytes, dict[str, str]], Answer]
    now: Callable[[], datetime] = now_utc
    under_way: dict[str, Delivery] = field(default_factory=dict)  # by webhook
    _back: queue.SimpleQueue[tuple[Delivery, Answer]] = field(default_factory=queue.SimpleQueue)

    @classmethod
    def of(cls, settings: Settings, database: Database) -> Courier:
        """One that calls outside within the limits of the settings."""
        permitted, seconds = networks(settings.webhook_networks), settings.webhook_seconds
        return cls(database, lambda url, body, head: post(url, body, head, permitted=permitted, seconds=seconds))

    def set_out(self) -> int:
        """Send what is due to receivers that nothing is on its way to, each on a thread; how many messages."""
        free, busy = AT_ONCE - len(self.under_way), tuple(self.under_way)
        if free <= 0:
            return 0
        with self.database.read() as session:
            if not webhooks.is_due(session, now=self.now(), busy=busy):
                return 0
        with self.database.write() as session:
            taken = webhooks.take_due(session, now=self.now(), limit=free, busy=busy)
        for message in taken:
            self.under_way[message.webhook_id] = message
            # Not of a pool, whose threads would be waited for at the end of the process.
            threading.Thread(target=self._bring, args=(message,), daemon=True, name="courier").start()
        return len(taken)

    def _bring(self, message: Delivery) -> None:
        body = letter(message)
        try:
            answer = self.send(message.url, body, headers(message, body, now=self.now()))
        except Exception:
            log.exception("%s could not be sent", message.id)
            answer = Answer(None, "The service made a mistake; its log says which.")
        self._back.put((message, answer))

    def come_back(self, seconds: float) -> bool:
        """Write down one answer, as soon as there is one; False where none came within so many seconds."""
        try:
            message, answer = self._back.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        self.under_way.pop(message.webhook_id, None)
        with self.database.write() as session:
            webhooks.record(session, message, answer, now=self.now())
        if not answer.accepted:
            log.info("%s to %s, try %d: %s", message.id, message.webhook_id, message.attempts, answer.sentence)
        return True

    def deliver(self) -> None:
        """Send all that is due, and return when nothing is under way any more."""
        while self.set_out() or self.under_way:
            self.come_back(LOOK_EVERY)

    def work(self, over: threading.Event) -> None:
        """Deliver until told to stop. While the database is away, try again."""
        while not over.is_set():
            try:
                self.set_out()
                self.come_back(LOOK_EVERY)
            except Exception as error:
                log.warning("webhooks have to wait: %s: %s", type(error).__name__, error)
                over.wait(LOOK_EVERY)
        end = time.monotonic() + LEAVE_SECONDS
        while self.under_way and time.monotonic() < end:
            try:
                self.come_back(end - time.monotonic())
            except Exception as error:
                log.warning("an answer could not be written down; its message is sent again: %s", error)
