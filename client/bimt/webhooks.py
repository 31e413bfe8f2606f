"""Webhooks: addresses that receive a message when a job ends, and the check of its signature."""

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
from .http import HttpClient
from .resource import Resource

OLDEST_SECONDS = 300.0  # of a message's time stamp; an older one may be a replay


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    oldest_seconds: float = OLDEST_SECONDS,
) -> dict[str, Any]:
    """The verified content of a message: `type`, `timestamp` and `data`. Call it with the raw body.

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
        raise InvalidSignature(f"The header {error} is missing; the message is not from the service.") from None
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
class Webhook(Resource):
    """An address that receives a message when jobs end.

    secret            for `verify`; only in the answer to `create`
    disabled_reason   why the service stopped sending
    """

    url: str
    events: list[str]
    created_at: datetime
    secret: str | None
    disabled_at: datetime | None
    disabled_reason: str | None

    def _summary(self) -> tuple[Any, ...]:
        return (self.url, "disabled" if self.disabled_at else None)

    def ping(self) -> dict[str, Any]:
        """Send it an empty test message; the result is in `deliveries`."""
        return dict(self.http.post(f"/webhooks/{self.id}/ping"))

    def deliveries(self, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The messages, newest first: `state`, `attempts`, the receiver's answer."""
        return self.http.items(f"/webhooks/{self.id}/deliveries", limit=limit)

    def redeliver(self, delivery_id: str) -> dict[str, Any]:
        """Send a message again."""
        return dict(self.http.post(f"/webhooks/{self.id}/deliveries/{delivery_id}/redeliver"))

    def enable(self) -> Webhook:
        """Send to it again, after its receiver was repaired."""
        return Webhook.of(self.http.patch(f"/webhooks/{self.id}", {"disabled": False}), self.http)

    def delete(self) -> None:
        """Delete it, with the messages still to be sent."""
        self.http.delete(f"/webhooks/{self.id}")


class Webhooks:
    """`client.webhooks`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def create(self, url: str, events: Sequence[str] | None = None) -> Webhook:
        """Send `job.succeeded`, `job.failed`, `job.cancelled`, or some of them, to an address. Keep its `secret`."""
        body = {"url": url} | ({} if events is None else {"events": list(events)})
        return Webhook.of(self._http.post("/webhooks", body), self._http)

    def list(self) -> Iterator[Webhook]:
        """The team's webhooks, newest first."""
        for document in self._http.items("/webhooks"):
            yield Webhook.of(document, self._http)

    def get(self, webhook_id: str) -> Webhook:
        """A webhook by its id."""
        return Webhook.of(self._http.get(f"/webhooks/{webhook_id}"), self._http)
