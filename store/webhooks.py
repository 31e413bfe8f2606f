"""Webhooks: addresses that a team registers, and the messages that are sent to them.

A message is a row that is written in the transaction of its event; the sender reads it from there. It is sent at least
once: `take_due` counts the try and postpones `due_at` before anything is sent, so a sender that dies between sending
and `record` costs one pause, and the receiver gets the message again under the same id.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, Index, String, Text, func, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Mapped, Session, mapped_column

from store.columns import Base, CompressedJson, Identifier, Utc, new_id, one_of, small_json
from store.database import Page, newest_first
from store.errors import Conflict, NotFound, QuotaExceeded

EVENTS = ("job.succeeded", "job.failed", "job.cancelled")
PING = "ping"  # an event that is sent on request, whatever events the webhook subscribes to
PAUSES = (30, 120, 600, 3600, 6 * 3600, 24 * 3600)  # seconds before each further try; then `given_up`
MAX_WEBHOOKS = 20  # of one team
DELIVERY_STATES = ("waiting", "delivered", "given_up")
GONE = 410  # HTTP status of a receiver that accepts no more messages

_UNSYNCHRONISED = {"synchronize_session": False}


class Webhook(Base):
    """A URL that receives a team's events. The secret is stored in clear text: messages are signed with it."""

    __tablename__ = "webhook"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"), index=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(120))
    events: Mapped[list[str]] = mapped_column(small_json())
    created_at: Mapped[datetime] = mapped_column(Utc)
    disabled_at: Mapped[datetime | None] = mapped_column(Utc)
    disabled_reason: Mapped[str | None] = mapped_column(String(500))


class WebhookDelivery(Base):
    """One message to one webhook, tried until it is accepted or given up."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        one_of("state", DELIVERY_STATES),
        Index(None, "state", "due_at"),
        Index(None, "webhook_id", "id"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(64))
    body: Mapped[dict[str, Any]] = mapped_column(CompressedJson)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    due_at: Mapped[datetime] = mapped_column(Utc)
    created_at: Mapped[datetime] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    answer: Mapped[str | None] = mapped_column(String(500))


@dataclass(frozen=True)
class Delivery:
    """One message that is due, with everything that is needed to send it."""

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
    """The result of one try: HTTP status, None without a response, and a sentence about it."""

    status: int | None
    sentence: str

    @property
    def accepted(self) -> bool:
        """Whether the receiver accepted the message."""
        return self.status is not None and 200 <= self.status < 300


# --- webhooks ---


def create(
    session: Session, *, team_id: str, member_id: str, url: str, events: Iterable[str], now: datetime
) -> Webhook:
    """A new webhook with a random secret, which signs its messages. Raises QuotaExceeded."""
    count = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.team_id == team_id)) or 0
    if count >= MAX_WEBHOOKS:
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
    """Change what is not None. Waiting messages stay while it is disabled and are due at once when it is enabled.

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
    """Delete a webhook with its messages. Raises NotFound."""
    session.delete(get(session, team_id, webhook_id))
    session.flush()


# --- messages ---


def enqueue(session: Session, *, team_id: str, event: str, body: dict[str, Any], now: datetime) -> None:
    """A message to each of the team's webhooks that subscribes to this event, in the caller's transaction."""
    for webhook in session.scalars(select(Webhook).where(Webhook.team_id == team_id, Webhook.disabled_at.is_(None))):
        if event in webhook.events:
            session.add(_message(webhook, event, body, now))
    session.flush()


def ping(session: Session, team_id: str, webhook_id: str, *, now: datetime) -> WebhookDelivery:
    """A test message. Raises NotFound, Conflict if the webhook is disabled."""
    webhook = get(session, team_id, webhook_id)
    _must_be_enabled(webhook)
    message = _message(webhook, PING, {"webhook_id": webhook_id}, now)
    session.add(message)
    session.flush()
    return message


def deliveries(
    session: Session, team_id: str, webhook_id: str, *, after: str | None = None, limit: int = 50
) -> Page[WebhookDelivery]:
    """The messages to a webhook, newest first. Raises NotFound."""
    get(session, team_id, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    return newest_first(session, query, WebhookDelivery.id, after=after, limit=limit)


def delivery(session: Session, team_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """One message to a webhook. Raises NotFound."""
    get(session, team_id, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id)
    message = session.scalar(query.execution_options(populate_existing=True))
    if message is None:
        raise NotFound("delivery", delivery_id)
    return message


def redeliver(session: Session, team_id: str, webhook_id: str, delivery_id: str, *, now: datetime) -> WebhookDelivery:
    """Make a message due now, under the same id, with all its tries left.

    Raises NotFound, Conflict if the webhook is disabled.
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


# --- sending ---


def _due(now: datetime, busy: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    enabled = select(Webhook.id).where(Webhook.disabled_at.is_(None))
    here = WebhookDelivery.webhook_id
    return WebhookDelivery.state == "waiting", WebhookDelivery.due_at <= now, here.in_(enabled), here.not_in(busy)


def is_due(session: Session, *, now: datetime, busy: Collection[str] = ()) -> bool:
    """Whether `take_due` would find something; writes nothing."""
    return session.scalar(select(WebhookDelivery.id).where(*_due(now, busy)).limit(1)) is not None


def take_due(session: Session, *, now: datetime, limit: int = 20, busy: Collection[str] = ()) -> list[Delivery]:
    """The oldest due message of each webhook, with the try counted and `due_at` postponed.

    busy   webhooks to skip, for instance because a message to them is being sent
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
    """Record the result of a try. After the last failed try the message is given up.

    After a failure the webhook's other messages wait for the first pause too. A webhook is disabled, with the reason,
    when it responds 410, or when a message is given up and no other was delivered since it was written.
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
        why = f"Its receiver answers that it is gone ({GONE})" if answer.status == GONE else why
        reason = f"{why}; `{sent.event}` was given up after {sent.attempts} tries. The last one: {answer.sentence}"
        disable = update(Webhook).where(Webhook.id == sent.webhook_id, Webhook.disabled_at.is_(None))
        disable = disable.values(disabled_at=now, disabled_reason=reason[:500])
        session.execute(disable, execution_options=_UNSYNCHRONISED)


def delete_old(session: Session, *, before: datetime) -> int:
    """Delete messages due before that time, except those that will still be sent; returns their number."""
    disabled = select(Webhook.id).where(Webhook.disabled_at < before)
    over = or_(WebhookDelivery.state != "waiting", WebhookDelivery.webhook_id.in_(disabled))
    old = delete_rows(WebhookDelivery).where(WebhookDelivery.due_at < before, over)
    return len(session.scalars(old.returning(WebhookDelivery.id), execution_options=_UNSYNCHRONISED).all())


def _arrived_since(session: Session, webhook_id: str, at: datetime) -> bool:
    arrived = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == webhook_id,
        WebhookDelivery.state == "delivered",
        WebhookDelivery.ended_at >= at,
    )
    return session.scalar(arrived.limit(1)) is not None


def _due_at(session: Session, at: datetime, *which: ColumnElement[bool]) -> None:
    """Set `due_at` of the waiting messages that match these conditions."""
    waiting = update(WebhookDelivery).where(WebhookDelivery.state == "waiting", *which)
    session.execute(waiting.values(due_at=at), execution_options=_UNSYNCHRONISED)
