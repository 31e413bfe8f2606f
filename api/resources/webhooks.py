"""Addresses of webhooks: whom to tell, whether it arrives, and once more, please. worker/courier.py sends."""

from __future__ import annotations

from flask import Response

from api.auditing import note
from api.auth import Access, caller
from api.door import Noun, answer
from api.paging import cursor, key_of
from api.problems import invalid
from api.schemas.base import PageQuery
from api.schemas.webhooks import (
    DeliveryItem,
    DeliveryPage,
    DeliveryPath,
    WebhookChange,
    WebhookIn,
    WebhookItem,
    WebhookMade,
    WebhookPage,
    WebhookPath,
)
from api.services import services
from store import outside, webhooks
from store.tables import WebhookDelivery

api = Noun("webhooks", "Addresses of yours that are told when a job has ended.")


@api.at("post", "/webhooks", needs=Access.SHARE, answers={201: WebhookMade})
def create_webhook(body: WebhookIn) -> Response:
    """Have an address told when jobs end. Its secret is shown this once; every message is signed with it."""
    here, who = services(), caller()
    _check(body.url)
    with here.database.write() as rows:
        row = webhooks.create(
            rows, team_id=who.team_id, member_id=who.member_id, url=body.url, events=body.events, now=here.now()
        )
        note(rows, "webhook.create", row.id, events=row.events)
        made = WebhookMade(**WebhookItem.model_validate(row).model_dump(), secret=row.secret)
        return answer(made, 201, Location=f"/api/v1/webhooks/{row.id}")


@api.at("get", "/webhooks", needs=Access.SHARE, answers={200: WebhookPage})
def list_webhooks(query: PageQuery) -> Response:
    """The team's webhooks, newest first, without their secrets."""
    with services().database.read() as rows:
        page = webhooks.page(rows, caller().team_id, after=key_of(query.after), limit=query.limit)
        items = [WebhookItem.model_validate(row) for row in page.rows]
        return answer(WebhookPage(items=items, next=cursor(page.after)))


@api.at("get", "/webhooks/<string:webhook_id>", needs=Access.SHARE, answers={200: WebhookItem})
def get_webhook(path: WebhookPath) -> Response:
    """One webhook; one that is disabled says why."""
    with services().database.read() as rows:
        return answer(WebhookItem.model_validate(webhooks.get(rows, caller().team_id, path.webhook_id)))


@api.at("patch", "/webhooks/<string:webhook_id>", needs=Access.SHARE, answers={200: WebhookItem})
def change_webhook(path: WebhookPath, body: WebhookChange) -> Response:
    """Change its address or events, disable it, or enable it again."""
    here, who = services(), caller()
    if body.url is not None:
        _check(body.url)
    with here.database.write() as rows:
        row = webhooks.change(rows, who.team_id, path.webhook_id, **body.model_dump(), now=here.now())
        note(rows, "webhook.change", row.id, **body.model_dump(exclude_none=True, exclude={"url"}))
        return answer(WebhookItem.model_validate(row))


@api.at("delete", "/webhooks/<string:webhook_id>", needs=Access.SHARE, answers={204: None})
def delete_webhook(path: WebhookPath) -> Response:
    """Forget it, and what was still to be sent there."""
    with services().database.write() as rows:
        webhooks.delete(rows, caller().team_id, path.webhook_id)
        note(rows, "webhook.delete", path.webhook_id)
    return Response(status=204)


@api.at("post", "/webhooks/<string:webhook_id>/ping", needs=Access.SHARE, answers={202: DeliveryItem}, problems=(409,))
def ping_webhook(path: WebhookPath) -> Response:
    """Send it a message that says nothing, to see whether it arrives; ask for the delivery to see how it went."""
    here = services()
    with here.database.write() as rows:
        message = webhooks.ping(rows, caller().team_id, path.webhook_id, now=here.now())
        note(rows, "webhook.ping", path.webhook_id)
        return _accepted(message)


@api.at("get", "/webhooks/<string:webhook_id>/deliveries", needs=Access.SHARE, answers={200: DeliveryPage})
def list_deliveries(path: WebhookPath, query: PageQuery) -> Response:
    """What was sent there, newest first: whether it arrived, what the receiver answered, when the next try is."""
    with services().database.read() as rows:
        page = webhooks.deliveries(
            rows, caller().team_id, path.webhook_id, after=key_of(query.after), limit=query.limit
        )
        return answer(DeliveryPage(items=[_shown(row) for row in page.rows], next=cursor(page.after)))


@api.at(
    "get",
    "/webhooks/<string:webhook_id>/deliveries/<string:delivery_id>",
    needs=Access.SHARE,
    answers={200: DeliveryItem},
)
def get_delivery(path: DeliveryPath) -> Response:
    """One message."""
    with services().database.read() as rows:
        return answer(_shown(webhooks.delivery(rows, caller().team_id, path.webhook_id, path.delivery_id)))


@api.at(
    "post",
    "/webhooks/<string:webhook_id>/deliveries/<string:delivery_id>/redeliver",
    needs=Access.SHARE,
    answers={202: DeliveryItem},
    problems=(409,),
)
def redeliver(path: DeliveryPath) -> Response:
    """Send a message again, under the same id; one that waits for its next try is tried now."""
    here = services()
    with here.database.write() as rows:
        message = webhooks.redeliver(rows, caller().team_id, path.webhook_id, path.delivery_id, now=here.now())
        note(rows, "webhook.redeliver", path.webhook_id, delivery=message.id)
        return _accepted(message)


def _check(url: str) -> None:
    """Raises the problem of an address that is never called. Where its name leads to is seen when it is called."""
    try:
        outside.target_of(url, outside.networks(services().settings.webhook_networks))
    except outside.Forbidden as error:
        raise invalid("/url", str(error)) from None


def _accepted(row: WebhookDelivery) -> Response:
    address = f"/api/v1/webhooks/{row.webhook_id}/deliveries/{row.id}"
    return answer(_shown(row), 202, Location=address)


def _shown(row: WebhookDelivery) -> DeliveryItem:
    return DeliveryItem(
        id=row.id,
        event=row.event,
        state=row.state,
        attempts=row.attempts,
        answer=row.answer,
        created_at=row.created_at,
        next_try_at=row.due_at if row.state == "waiting" else None,
        ended_at=row.ended_at,
        data=row.body,
    )
