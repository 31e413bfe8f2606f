"""Webhooks on the wire: addresses of a team's own that are told when a job has ended."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.base import Body, DeliveryId, InPath, MemberId, Page, Shown, WebhookId

Event = Literal["job.succeeded", "job.failed", "job.cancelled"]
Url = Annotated[str, Field(min_length=1, max_length=2000, description="An https address that takes POST.")]
ALL: list[Event] = ["job.succeeded", "job.failed", "job.cancelled"]
Events = Annotated[list[Event], Field(min_length=1, max_length=len(ALL))]


class WebhookIn(Body):
    """An address to tell."""

    url: Url
    events: Events = Field(default=ALL, description="What to tell; everything unless you say otherwise.")


class WebhookChange(Body):
    """What to change of a webhook; what is left out stays."""

    url: Url | None = None
    events: Events | None = None
    disabled: bool | None = Field(default=None, description="False: enable it again; what waited is sent at once.")


class WebhookPath(InPath):
    webhook_id: WebhookId


class DeliveryPath(WebhookPath):
    delivery_id: DeliveryId


class WebhookItem(Shown):
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


class DeliveryItem(Shown):
    """One message to a webhook, and how its sending goes."""

    id: DeliveryId = Field(description="Stands in the header `webhook-id` of every try.")
    event: str
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int = Field(description="Tries so far.")
    answer: str | None = Field(default=None, description="What came of the last try.")
    created_at: datetime
    next_try_at: datetime | None = Field(default=None, description="Null once it has ended.")
    ended_at: datetime | None = None
    data: dict[str, Any] = Field(description="What it says.")


class DeliveryPage(Page):
    """A part of what was sent to a webhook, newest first."""

    items: list[DeliveryItem]
