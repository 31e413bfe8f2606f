"""Whom to tell when something ended. Messages are rows first, written with the deed; a sender takes them from there."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.identifiers import new_id
from store.pages import Page, newest_first
from store.tables import Webhook, WebhookDelivery

EVENTS = ("job.succeeded", "job.failed", "job.cancelled")
PAUSES = (30, 120, 600, 3600, 6 * 3600, 24 * 3600)  # seconds before each further try; after the last it is given up


@dataclass(frozen=True)
class Delivery:
    """One message that is due, with all that is needed to send it."""

    id: str
    url: str
    secret: str
    event: str
    body: dict[str, Any]
    attempts: int


def create(
    session: Session, *, team_id: str, member_id: str, url: str, events: Iterable[str], now: datetime
) -> Webhook:
    """A new address to tell. Its secret is made here and signs every message."""
    webhook = Webhook(
        id=new_id("webhook"),
        team_id=team_id,
        member_id=member_id,
        url=url,
        secret=f"whsec_{secrets.token_urlsafe(32)}",
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


def delete(session: Session, team_id: str, webhook_id: str) -> None:
    """Forget an address and what was still to be sent there. Raises NotFound."""
    session.delete(get(session, team_id, webhook_id))
    session.flush()


def enqueue(session: Session, *, team_id: str, event: str, body: dict[str, Any], now: datetime) -> None:
    """A message for each of the team's webhooks that wants this event; part of the transaction of the deed."""
    for webhook in session.scalars(select(Webhook).where(Webhook.team_id == team_id, Webhook.disabled_at.is_(None))):
        if event in webhook.events:
            session.add(
                WebhookDelivery(
                    id=new_id("delivery"),
                    webhook_id=webhook.id,
                    event=event,
                    body=body,
                    state="waiting",
                    attempts=0,
                    due_at=now,
                    created_at=now,
                )
            )
    session.flush()


def take_due(session: Session, *, now: datetime, limit: int = 20) -> list[Delivery]:
    """Messages that are due, each counted as tried; a sender that dies costs one pause, not the message."""
    due = (
        select(WebhookDelivery, Webhook)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.state == "waiting", WebhookDelivery.due_at <= now)
        .order_by(WebhookDelivery.due_at)
        .limit(limit)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    )
    taken = []
    for delivery, webhook in session.execute(due):
        delivery.due_at = now + timedelta(seconds=PAUSES[min(delivery.attempts, len(PAUSES) - 1)])
        delivery.attempts += 1
        taken.append(
            Delivery(delivery.id, webhook.url, webhook.secret, delivery.event, delivery.body, delivery.attempts)
        )
    session.flush()
    return taken


def record(session: Session, delivery: Delivery, *, delivered: bool, answer: str, now: datetime) -> None:
    """What came of a try. After the last one in vain the message is given up."""
    values: dict[str, Any] = {"answer": answer[:500]}
    if delivered:
        values |= {"state": "delivered", "ended_at": now}
    elif delivery.attempts > len(PAUSES):
        values |= {"state": "given_up", "ended_at": now}
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery.id, WebhookDelivery.state == "waiting")
        .values(values)
        .execution_options(synchronize_session=False)
    )


def deliveries(
    session: Session, team_id: str, webhook_id: str, *, after: str | None = None, limit: int = 50
) -> Page[WebhookDelivery]:
    """What was sent to an address, newest first. Raises NotFound."""
    get(session, team_id, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    return newest_first(session, query, WebhookDelivery.id, after=after, limit=limit)
