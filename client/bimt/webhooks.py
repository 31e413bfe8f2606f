"""Webhooks: addresses of yours that are told when a job has ended, and whether a message is the service's own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .errors import InvalidSignature
from .things import Thing
from .wire import Wire

OLDEST_SECONDS = 300.0  # of a message's time stamp; somebody who sends an older one again has recorded it


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    oldest_seconds: float = OLDEST_SECONDS,
) -> dict[str, Any]:
    """What a message says: `type`, `timestamp` and `data`. Call it with the raw body, before anything else reads it.

    headers   of the request; `webhook-id` is the same when a message comes twice
    Raises InvalidSignature for a message that is not signed with this secret, or is minutes old.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        stamp, ident = given["webhook-timestamp"], given["webhook-id"]
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        age = (time.time() if now is None else now) - int(stamp)
        signatures = [text.partition(",")[2] for text in given["webhook-signature"].split() if text.startswith("v1,")]
    except KeyError as error:
        raise InvalidSignature(f"The header {error} is missing; this message is none of the service.") from None
    except (ValueError, binascii.Error):
        raise InvalidSignature("The secret or a header of the message cannot be read.") from None
    if abs(age) > oldest_seconds:
        raise InvalidSignature(f"The message is {age:.0f} s old; refuse it, or set the clock of this machine.")
    digest = hmac.new(key, b".".join((ident.encode(), stamp.encode(), body)), hashlib.sha256).digest()
    wanted = base64.b64encode(digest).decode()
    if not any(hmac.compare_digest(wanted.encode(), signature.encode()) for signature in signatures):
        raise InvalidSignature("The message is not signed with this secret.")
    return dict(json.loads(body))


@dataclass(frozen=True, repr=False)
class Webhook(Thing):
    """An address that is told when jobs end.

    secret            only at the moment it was made; `verify` needs it
    disabled_reason   why nothing is sent any more
    """

    url: str
    events: list[str]
    created_at: datetime
    secret: str | None
    disabled_at: datetime | None
    disabled_reason: str | None

    def _told(self) -> tuple[Any, ...]:
        return (self.url, "disabled" if self.disabled_at else None)

    def ping(self) -> dict[str, Any]:
        """Have it sent a message that says nothing; what came of it is in `deliveries`."""
        return dict(self.wire.post(f"/webhooks/{self.id}/ping"))

    def deliveries(self, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """What was sent, newest first: `state`, `attempts`, what the receiver answered."""
        return self.wire.items(f"/webhooks/{self.id}/deliveries", limit=limit)

    def redeliver(self, delivery_id: str) -> dict[str, Any]:
        """Have a message sent again."""
        return dict(self.wire.post(f"/webhooks/{self.id}/deliveries/{delivery_id}/redeliver"))

    def enable(self) -> Webhook:
        """Have it told again, after its receiver was mended."""
        return Webhook.of(self.wire.patch(f"/webhooks/{self.id}", {"disabled": False}), self.wire)

    def delete(self) -> None:
        """Forget it, and what was still to be sent."""
        self.wire.delete(f"/webhooks/{self.id}")


class Webhooks:
    """`client.webhooks`"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, url: str, events: Sequence[str] | None = None) -> Webhook:
        """Have an address told of `job.succeeded`, `job.failed`, `job.cancelled`, or of some. Keep its `secret`."""
        body = {"url": url} | ({} if events is None else {"events": list(events)})
        return Webhook.of(self._wire.post("/webhooks", body), self._wire)

    def list(self) -> Iterator[Webhook]:
        """The team's webhooks, newest first."""
        for document in self._wire.items("/webhooks"):
            yield Webhook.of(document, self._wire)

    def get(self, webhook_id: str) -> Webhook:
        """A webhook by its id."""
        return Webhook.of(self._wire.get(f"/webhooks/{webhook_id}"), self._wire)
