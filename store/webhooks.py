"""Whom to tell when something ended. Messages are rows first, written with the deed; a sender takes them from there.

A message is sent at least once: `take_due` counts the try and moves the row's `due_at` on before anything is sent, so a
sender that dies between sending and `record` costs one pause, and the receiver hears it again under the same id.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from store.errors import Conflict, NotFound, QuotaExceeded
from store.identifiers import new_id
from store.pages import Page, newest_first
from store.tables import Webhook, WebhookDelivery

EVENTS = ("job.succeeded", "job.failed", "job.cancelled")
PING = "ping"  # an event that is sent when somebody asks for it, whatever the webhook wants to hear
PAUSES = (30, 120, 600, 3600, 6 * 3600, 24 * 3600)  # seconds before each further try; after the last it is given up
MOST_WEBHOOKS = 20  # of one team
GONE = 410  # the status by which a receiver says that it wants nothing any more

_UNSYNCHRONISED = {"synchronize_session": False}


@dataclass(frozen=True)
class Delivery:
    """One message that is due, with all that is needed to send it."""

    id: str
    webhook_id: str
    url: str
    secret: str
    event: str
    body: dict[str, Any]
    attempts: int
    created_at: datetime


@dataclass(frozen=True)
class Answer:
    """What came of one try. `status` is None where nobody answered; `sentence` says it for people."""

    status: int | None
    sentence: str

    @property
    def accepted(self) -> bool:
        """Whether the receiver has taken the message."""
        return self.status is not None and 200 <= self.status < 300


# --- addresses to tell ----------------------------------------------------------------------------------


def create(
    session: Session, *, team_id: str, member_id: str, url: str, events: Iterable[str], now: datetime
) -> Webhook:
    """A new address to tell. Its secret is made here and signs every message. Raises QuotaExceeded."""
    count = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.team_id == team_id)) or 0
    if count >= MOST_WEBHOOKS:
        raise QuotaExceeded("webhooks", f"The team has {count} webhooks, which is as many as it may; delete one first.")
    webhook = Webhook(
        id=new_id("webhook"),
        team_id=team_id,
        member_id=member_id,
        url=url,
        secret=f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
        events=sorted(set(events)),
        created_at=now,
    )
    session.add(webhook)
    session.flush()
    return webhook


def get(session: Session, team_id: str, webhook_id: str) -> Webhook:
    """A webhook of the team. Raises NotFound."""
    webhook = session.scalar(select(Webhook).where(Webhook.id == webhook_id, Webhook.team_id == team_id))
    if webhook is None:
        raise NotFound("webhook", webhook_id)
    return webhook


def page(session: Session, team_id: str, *, after: str | None = None, limit: int = 50) -> Page[Webhook]:
    """The team's webhooks, newest first."""
    return newest_first(
        session, select(Webhook).where(Webhook.team_id == team_id), Webhook.id, after=after, limit=limit
    )


def change(
    session: Session,
    team_id: str,
    webhook_id: str,
    *,
    url: str | None = None,
    events: Iterable[str] | None = None,
    disabled: bool | None = None,
    now: datetime,
) -> Webhook:
    """Change what is not None. What waits stays while it is disabled, and is due at once when it is enabled again.

    Raises NotFound.
    """
    webhook = get(session, team_id, webhook_id)
    if url is not None:
        webhook.url = url
    if events is not None:
        webhook.events = sorted(set(events))
    if disabled is True and webhook.disabled_at is None:
        webhook.disabled_at, webhook.disabled_reason = now, "A member of the team disabled it."
    if disabled is False and webhook.disabled_at is not None:
        webhook.disabled_at = webhook.disabled_reason = None
        _due_at(session, now, WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.due_at > now)
    session.flush()
    return webhook


def delete(session: Session, team_id: str, webhook_id: str) -> None:
    """Forget an address and what was still to be sent there. Raises NotFound."""
    session.delete(get(session, team_id, webhook_id))
    session.flush()


# --- what is to be said ---------------------------------------------------------------------------------


def job_ended(
    session: Session, *, job_id: str, team_id: str, kind: str, name: str, state: str, reason: str | None, now: datetime
) -> None:
    """Tell that a training has ended; of an errand nobody is told."""
    if kind == "training":
        body = {"job_id": job_id, "name": name, "state": state, "reason": reason}
        enqueue(session, team_id=team_id, event=f"job.{state}", body=body, now=now)


def enqueue(session: Session, *, team_id: str, event: str, body: dict[str, Any], now: datetime) -> None:
    """A message for each of the team's webhooks that wants this event; part of the transaction of the deed."""
    for webhook in session.scalars(select(Webhook).where(Webhook.team_id == team_id, Webhook.disabled_at.is_(None))):
        if event in webhook.events:
            session.add(_message(webhook, event, body, now))
    session.flush()


def ping(session: Session, team_id: str, webhook_id: str, *, now: datetime) -> WebhookDelivery:
    """A message that says nothing, to see whether it arrives. Raises NotFound, Conflict where it is disabled."""
    webhook = get(session, team_id, webhook_id)
    _must_be_enabled(webhook)
    message = _message(webhook, PING, {"webhook_id": webhook_id}, now)
    session.add(message)
    session.flush()
    return message


def deliveries(
    session: Session, team_id: str, webhook_id: str, *, after: str | None = None, limit: int = 50
) -> Page[WebhookDelivery]:
    """What was sent to an address, newest first. Raises NotFound."""
    get(session, team_id, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    return newest_first(session, query, WebhookDelivery.id, after=after, limit=limit)


def delivery(session: Session, team_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """One message to an address. Raises NotFound."""
    get(session, team_id, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id)
    message = session.scalar(query.execution_options(populate_existing=True))
    if message is None:
        raise NotFound("delivery", delivery_id)
    return message


def redeliver(session: Session, team_id: str, webhook_id: str, delivery_id: str, *, now: datetime) -> WebhookDelivery:
    """Send a message again, under its own id, with all its tries; one that waits is tried now.

    Raises NotFound, Conflict where the webhook is disabled.
    """
    message = delivery(session, team_id, webhook_id, delivery_id)
    _must_be_enabled(get(session, team_id, webhook_id))
    message.state, message.attempts, message.due_at, message.ended_at = "waiting", 0, now, None
    session.flush()
    return message


def _message(webhook: Webhook, event: str, body: dict[str, Any], now: datetime) -> WebhookDelivery:
    return WebhookDelivery(
        id=new_id("delivery"),
        webhook_id=webhook.id,
        event=event,
        body=body,
        state="waiting",
        attempts=0,
        due_at=now,
        created_at=now,
    )


def _must_be_enabled(webhook: Webhook) -> None:
    if webhook.disabled_at is not None:
        raise Conflict(f"Webhook `{webhook.id}` is disabled: {webhook.disabled_reason} Enable it first.")


# --- sending --------------------------------------------------------------------------------------------


def _due(now: datetime, busy: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    enabled = select(Webhook.id).where(Webhook.disabled_at.is_(None))
    here = WebhookDelivery.webhook_id
    return WebhookDelivery.state == "waiting", WebhookDelivery.due_at <= now, here.in_(enabled), here.not_in(busy)


def is_due(session: Session, *, now: datetime, busy: Collection[str] = ()) -> bool:
    """Whether `take_due` would find something; costs no write."""
    return session.scalar(select(WebhookDelivery.id).where(*_due(now, busy)).limit(1)) is not None


def take_due(session: Session, *, now: datetime, limit: int = 20, busy: Collection[str] = ()) -> list[Delivery]:
    """The oldest message that is due at each webhook, counted as tried and moved on by a pause.

    busy   webhooks to leave alone, for instance because a message is on its way there
    """
    oldest = (
        select(func.min(WebhookDelivery.id).label("id"))
        .where(*_due(now, busy))
        .group_by(WebhookDelivery.webhook_id)
        .order_by(func.min(WebhookDelivery.due_at))
        .limit(limit)
    ).subquery()
    query = select(WebhookDelivery, Webhook).join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
    taken = []
    for message, webhook in session.execute(query.join(oldest, oldest.c.id == WebhookDelivery.id)):
        tries = message.attempts
        claim = update(WebhookDelivery).where(
            WebhookDelivery.id == message.id, WebhookDelivery.state == "waiting", WebhookDelivery.attempts == tries
        )
        claim = claim.values(attempts=tries + 1, due_at=now + timedelta(seconds=PAUSES[min(tries, len(PAUSES) - 1)]))
        if session.scalar(claim.returning(WebhookDelivery.id), execution_options=_UNSYNCHRONISED) is not None:
            here = (message.id, webhook.id, webhook.url, webhook.secret, message.event, message.body)
            taken.append(Delivery(*here, tries + 1, message.created_at))
    return taken


def record(session: Session, sent: Delivery, answer: Answer, *, now: datetime) -> None:
    """What came of a try. After the last one in vain the message is given up.

    A receiver that failed is left alone for the first pause, with its other messages too. A webhook is disabled, with
    the reason, when it says 410, or when a message is given up and no other has arrived since it was written.
    """
    ours = (WebhookDelivery.id == sent.id, WebhookDelivery.state == "waiting")
    change = update(WebhookDelivery).where(*ours).returning(WebhookDelivery.id)
    over = answer.accepted or answer.status == GONE or sent.attempts > len(PAUSES)
    values: dict[str, Any] = {"answer": answer.sentence[:500]}
    if over:
        values |= {"state": "delivered" if answer.accepted else "given_up", "ended_at": now}
    if session.scalar(change.values(values), execution_options=_UNSYNCHRONISED) is None or answer.accepted:
        return
    soonest = now + timedelta(seconds=PAUSES[0])
    _due_at(session, soonest, WebhookDelivery.webhook_id == sent.webhook_id, WebhookDelivery.due_at < soonest)
    if over and (answer.status == GONE or not _arrived_since(session, sent.webhook_id, sent.created_at)):
        why = f"Nothing has arrived since {sent.created_at:%Y-%m-%d %H:%M} UTC"
        why = f"Its receiver says that it is gone ({GONE})" if answer.status == GONE else why
        reason = f"{why}; `{sent.event}` was given up after {sent.attempts} tries. The last one: {answer.sentence}"
        disable = update(Webhook).where(Webhook.id == sent.webhook_id, Webhook.disabled_at.is_(None))
        disable = disable.values(disabled_at=now, disabled_reason=reason[:500])
        session.execute(disable, execution_options=_UNSYNCHRONISED)


def forget(session: Session, *, before: datetime) -> int:
    """Drop messages of before that time, but for those that will still be sent; how many."""
    disabled = select(Webhook.id).where(Webhook.disabled_at < before)
    over = or_(WebhookDelivery.state != "waiting", WebhookDelivery.webhook_id.in_(disabled))
    old = delete_rows(WebhookDelivery).where(WebhookDelivery.due_at < before, over)
    return len(session.scalars(old.returning(WebhookDelivery.id), execution_options=_UNSYNCHRONISED).all())


def _arrived_since(session: Session, webhook_id: str, moment: datetime) -> bool:
    arrived = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == webhook_id,
        WebhookDelivery.state == "delivered",
        WebhookDelivery.ended_at >= moment,
    )
    return session.scalar(arrived.limit(1)) is not None


def _due_at(session: Session, moment: datetime, *which: ColumnElement[bool]) -> None:
    """Waiting messages of this kind are due at that moment."""
    waiting = update(WebhookDelivery).where(WebhookDelivery.state == "waiting", *which)
    session.execute(waiting.values(due_at=moment), execution_options=_UNSYNCHRONISED)
