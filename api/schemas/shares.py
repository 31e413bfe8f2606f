"""Links on the wire: one version, read-only, in the view that it was shared in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.base import PRINTABLE, Body, InPath, MemberId, Page, Received, ShareId, Shown

FigureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}\.(svg|png)$")]


class View(Received):
    """What the reader of a link sees first. Everything may be left out."""

    part: Literal["network", "modules", "effects", "figures"] | None = Field(
        default=None, description="Where the page is scrolled to."
    )
    module: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Za-z0-9]+$")] | None = Field(
        default=None, description="The module that is lit up."
    )
    connections: int | None = Field(default=None, ge=0, le=1_000_000, description="Only so many, the heaviest.")
    figure: FigureName | None = Field(default=None, description="The figure that is open.")
    note: Annotated[str, Field(max_length=500, pattern=PRINTABLE)] = Field(
        default="", description="A sentence above the picture: what to look at."
    )


class ShareIn(Body):
    """A link to one version."""

    view: View = Field(default=View())
    expires_in_days: int | None = Field(default=30, ge=1, le=3650, description="Null: never.")


class ShareItem(Shown):
    """A link, without its secret."""

    id: ShareId
    model_id: str
    version: int
    view: dict[str, Any] | None = None
    member_id: MemberId
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class ShareMinted(ShareItem):
    """A new link. This is the only time that its address is shown."""

    token: str
    url: str = Field(description="The page, for people.")


class SharePage(Page):
    """A part of the list of links, newest first."""

    items: list[ShareItem]


class SharePath(InPath):
    share_id: ShareId


class LinkPath(InPath):
    token: Annotated[str, Field(min_length=1, max_length=200)]


class LinkFigurePath(LinkPath):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}$")]
    suffix: Literal["svg", "png"]


class SharedOut(Shown):
    """What a link shows: one version, and nothing that leads from it to anything else of the team."""

    model: str
    version: int
    card: str
    view: View
    expires_at: datetime | None
    test_metric_name: str | None
    test_metric: float | None
    connections: int | None
    modules: int | None
    modularity: float | None
    selectivity: float | None
    figures: list[str]
