"""Webhooks: which addresses of a team are notified when a job ends, and the state of each delivery."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import Field

from api.auth import Access, audit, caller
from api.problems import invalid
from api.routing import Resource, answer, cursor, key_of
from api.schemas import Body, DeliveryId, InPath, MemberId, Page, PageQuery, ResponseModel, WebhookId
from api.services import services
from store import url_policy, webhooks
from store.tables import WebhookDelivery

Event = Literal["job.succeeded", "job.failed", "job.cancelled"]
Url = Annotated[str, Field(min_length=1, max_length=2000, description="An https address that takes POST.")]
ALL: list[Event] = ["job.succeeded", "job.failed", "job.cancelled"]
Events = Annotated[list[Event], Field(min_length=1, max_length=len(ALL))]


class WebhookIn(Body):
    """An address to notify."""

    url: Url
    events: Events = Field(default=ALL, description="What to notify about; all by default.")


class WebhookChange(Body):
    """What to change of a webhook; what is left out stays."""

    url: Url | None = None
    events: Events | None = None
    disabled: bool | None = Field(default=None, description="False: enable it again; what waited is sent at once.")


class WebhookPath(InPath):
    """Which webhook."""

    webhook_id: WebhookId


class DeliveryPath(WebhookPath):
    """Which delivery of which webhook."""

    delivery_id: DeliveryId


class WebhookItem(ResponseModel):
    """A webhook, without its secret."""

    id: WebhookId
    url: str
    events: list[str]
    member_id: MemberId
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_reason: str | None = Field(default=None, description="Why nothing is sent any more.")


class WebhookMade(WebhookItem):
    """A new webhook. This is the only time that its secret is shown: every message is signed with it."""

    secret: str


class WebhookPage(Page):
    """A part of the list of webhooks, newest first."""

    items: list[WebhookItem]


class DeliveryItem(ResponseModel):
    """One message to a webhook, and the state of its delivery."""

    id: DeliveryId = Field(description="Stands in the header `webhook-id` of every try.")
    event: str
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int = Field(description="Tries so far.")
    answer: str | None = Field(default=None, description="The outcome of the last try.")
    created_at: datetime
    next_try_at: datetime | None = Field(default=None, description="Null once it has ended.")
    ended_at: datetime | None = None
    data: dict[str, Any] = Field(description="Its content.")


class DeliveryPage(Page):
    """A part of what was sent to a webhook, newest first."""

    items: list[DeliveryItem]


api = Resource("webhooks", "Addresses of yours that are notified when a job has ended.")


@api.route("post", "/webhooks", requires=Access.SHARE, answers={201: WebhookMade})
def create_webhook(body: WebhookIn) -> Response:
    """Have an address notified when jobs end. Its secret is shown this once; every message is signed with it."""
    here, who = services(), caller()
    _check(body.url)
    with here.database.write() as rows:
        row = webhooks.create(
            rows, team_id=who.team_id, member_id=who.member_id, url=body.url, events=body.events, now=here.now()
        )
        audit(rows, "webhook.create", row.id, events=row.events)
        made = WebhookMade(**WebhookItem.model_validate(row).model_dump(), secret=row.secret)
        return answer(made, 201, Location=f"/api/v1/webhooks/{row.id}")


@api.route("get", "/webhooks", requires=Access.SHARE, answers={200: WebhookPage})
def list_webhooks(query: PageQuery) -> Response:
    """The team's webhooks, newest first, without their secrets."""
    with services().database.read() as rows:
        page = webhooks.page(rows, caller().team_id, after=key_of(query.after), limit=query.limit)
        items = [WebhookItem.model_validate(row) for row in page.rows]
        return answer(WebhookPage(items=items, next=cursor(page.after)))


@api.route("get", "/webhooks/<string:webhook_id>", requires=Access.SHARE, answers={200: WebhookItem})
def get_webhook(path: WebhookPath) -> Response:
    """One webhook; if it is disabled, with the reason."""
    with services().database.read() as rows:
        return answer(WebhookItem.model_validate(webhooks.get(rows, caller().team_id, path.webhook_id)))


@api.route("patch", "/webhooks/<string:webhook_id>", requires=Access.SHARE, answers={200: WebhookItem})
def change_webhook(path: WebhookPath, body: WebhookChange) -> Response:
    """Change its address or events, disable it, or enable it again."""
    here, who = services(), caller()
    if body.url is not None:
        _check(body.url)
    with here.database.write() as rows:
        row = webhooks.change(rows, who.team_id, path.webhook_id, **body.model_dump(), now=here.now())
        audit(rows, "webhook.change", row.id, **body.model_dump(exclude_none=True, exclude={"url"}))
        return answer(WebhookItem.model_validate(row))


@api.route("delete", "/webhooks/<string:webhook_id>", requires=Access.SHARE, answers={204: None})
def delete_webhook(path: WebhookPath) -> Response:
    """Delete it, with the messages that were still to be sent there."""
    with services().database.write() as rows:
        webhooks.delete(rows, caller().team_id, path.webhook_id)
        audit(rows, "webhook.delete", path.webhook_id)
    return Response(status=204)


@api.route(
    "post", "/webhooks/<string:webhook_id>/ping", requires=Access.SHARE, answers={202: DeliveryItem}, problems=(409,)
)
def ping_webhook(path: WebhookPath) -> Response:
    """Send it a test message; the delivery shows whether it arrived."""
    here = services()
    with here.database.write() as rows:
        message = webhooks.ping(rows, caller().team_id, path.webhook_id, now=here.now())
        audit(rows, "webhook.ping", path.webhook_id)
        return _accepted(message)


@api.route("get", "/webhooks/<string:webhook_id>/deliveries", requires=Access.SHARE, answers={200: DeliveryPage})
def list_deliveries(path: WebhookPath, query: PageQuery) -> Response:
    """What was sent there, newest first: whether it arrived, what the receiver answered, when the next try is."""
    with services().database.read() as rows:
        page = webhooks.deliveries(
            rows, caller().team_id, path.webhook_id, after=key_of(query.after), limit=query.limit
        )
        return answer(DeliveryPage(items=[_shown(row) for row in page.rows], next=cursor(page.after)))


@api.route(
    "get",
    "/webhooks/<string:webhook_id>/deliveries/<string:delivery_id>",
    requires=Access.SHARE,
    answers={200: DeliveryItem},
)
def get_delivery(path: DeliveryPath) -> Response:
    """One message."""
    with services().database.read() as rows:
        return answer(_shown(webhooks.delivery(rows, caller().team_id, path.webhook_id, path.delivery_id)))


@api.route(
    "post",
    "/webhooks/<string:webhook_id>/deliveries/<string:delivery_id>/redeliver",
    requires=Access.SHARE,
    answers={202: DeliveryItem},
    problems=(409,),
)
def redeliver(path: DeliveryPath) -> Response:
    """Send a message again, under the same id; one that waits for its next try is tried now."""
    here = services()
    with here.database.write() as rows:
        message = webhooks.redeliver(rows, caller().team_id, path.webhook_id, path.delivery_id, now=here.now())
        audit(rows, "webhook.redeliver", path.webhook_id, delivery=message.id)
        return _accepted(message)


def _check(url: str) -> None:
    """Raises the problem of an address that is never called. Where its name leads to is seen when it is called."""
    try:
        url_policy.target_of(url, url_policy.networks(services().settings.webhook_networks))
    except url_policy.Forbidden as error:
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
