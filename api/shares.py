"""Shared links: each shows one version, read-only, to anyone who has the link."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from api import evidence
from api.auth import Access, audit, caller
from api.models import ModelPath, VersionPath, reader
from api.problems import Problem, invalid
from api.routing import Resource, answer, cursor, key_of
from api.schemas import PRINTABLE, Body, InPath, MemberId, Page, PageQuery, RequestModel, ResponseModel, ShareId
from api.services import services
from store import models, runs
from store.tables import Model, ModelVersion, Run, Share

FigureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}\.(svg|png)$")]


class View(RequestModel):
    """What a shared link shows first. Everything may be left out."""

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


class ShareItem(ResponseModel):
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
    """Which link, by its id."""

    share_id: ShareId


class LinkPath(InPath):
    """Which link, by its secret."""

    token: Annotated[str, Field(min_length=1, max_length=200)]


class SharedOut(ResponseModel):
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


api = Resource("shares", "Read-only links to one version, for people without a token.")


@api.route(
    "post",
    "/models/<string:model>/versions/<string:version>/shares",
    requires=Access.SHARE,
    answers={201: ShareMinted},
)
def share_version(path: VersionPath, body: ShareIn) -> Response:
    """A link to this version in this view, for anyone who has it. Its address is shown this once."""
    here, who = services(), caller()
    now = here.now()
    with here.database.write() as rows:
        model = models.own(rows, reader(), path.model)
        version = models.find_version(rows, model, path.version)
        _must_show(rows, models.run_of(rows, version), body.view)
        text, row = models.create_share(
            rows,
            version,
            team_id=who.team_id,
            member_id=who.member_id,
            view=body.view.model_dump(exclude_defaults=True),
            expires_at=None if body.expires_in_days is None else now + timedelta(days=body.expires_in_days),
            now=now,
        )
        audit(rows, "share.make", row.id, model=model.id, version=version.number)
        item = ShareItem.model_validate(row)
    url = f"{here.settings.public_url.rstrip('/')}/s/{text}"
    return answer(ShareMinted(**item.model_dump(), token=text, url=url), 201, Location=f"/api/v1/s/{text}")


@api.route("get", "/models/<string:model>/shares", requires=Access.SHARE, answers={200: SharePage})
def list_shares(path: ModelPath, query: PageQuery) -> Response:
    """The links to a model of yours, those that have ended too."""
    with services().database.read() as rows:
        model = models.own(rows, reader(), path.model)
        page = models.page_shares(
            rows, caller().team_id, model_id=model.id, after=key_of(query.after), limit=query.limit
        )
        return answer(SharePage(items=[ShareItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.route("delete", "/shares/<string:share_id>", requires=Access.SHARE, answers={204: None})
def revoke_share(path: SharePath) -> Response:
    """From now on the link shows nothing."""
    here = services()
    with here.database.write() as rows:
        models.revoke_share(rows, caller().team_id, path.share_id, here.now())
        audit(rows, "share.revoke", path.share_id)
    return Response(status=204)


# --- what a link shows ------------------------------------------------------------------------------------


@api.route("get", "/s/<string:token>", requires=Access.ANYONE, answers={200: SharedOut})
def open_share(path: LinkPath) -> Response:
    """What a link shows: the version, what sums up its evidence, and the view it was shared in."""
    with services().database.read() as rows:
        share, model, version, run = shared(rows, path.token)
        return unlisted(answer(shown(rows, share, model, version, run)))


def shared(rows: Session, token: str) -> tuple[Share, Model, ModelVersion, Run]:
    """What a link leads to. Raises the problem that it leads nowhere: unknown, expired and revoked look alike."""
    share = models.open_share(rows, token, services().now())
    if share is None:
        raise Problem("not-found", "This link leads nowhere: it is unknown, has expired or was revoked.")
    model = rows.get(Model, share.model_id)
    assert model is not None, "a link goes with its model"
    version = models.version(rows, model, share.version)
    return share, model, version, models.run_of(rows, version)


def shown(rows: Session, share: Share, model: Model, version: ModelVersion, run: Run) -> SharedOut:
    """What a link shows of the version."""
    return SharedOut(
        model=model.name,
        version=version.number,
        card=version.card,
        view=View.model_validate(share.view or {}),
        expires_at=share.expires_at,
        test_metric_name=run.test_metric_name,
        test_metric=run.test_metric,
        connections=run.connections,
        modules=run.modules,
        modularity=run.modularity,
        selectivity=run.selectivity,
        figures=evidence.figure_names(rows, run.id),
    )


def unlisted(response: Response) -> Response:
    """The same answer, kept out of search engines, and its address out of what browsers tell other sites."""
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _must_show(rows: Session, run: Run, view: View) -> None:
    """Raises the problem of a view that the run does not have."""
    letters = {module.name for module in runs.modules(rows, run.id)}
    if view.module is not None and view.module not in letters:
        raise invalid("/view/module", f"There is no module `{view.module}`; there are {', '.join(sorted(letters))}.")
    figures = set(evidence.figure_names(rows, run.id))
    if view.figure is not None and view.figure not in figures:
        raise invalid("/view/figure", f"There is no figure `{view.figure}`; there are {', '.join(sorted(figures))}.")


def _of_evidence(rows: Session, path: LinkPath) -> tuple[Run, str]:
    _, model, version, run = shared(rows, path.token)
    return run, f"{model.name}-v{version.number}"


def _not_kept(response: Response) -> Response:
    """An unlisted response that no browser shows without asking again: a revoked link shows nothing."""
    if "Cache-Control" in response.headers:
        response.headers["Cache-Control"] = "private, no-cache"
    return unlisted(response)


evidence.mount(
    api,
    "/s/<string:token>",
    prefix="shared",
    path=LinkPath,
    requires=Access.ANYONE,
    find=_of_evidence,
    only=evidence.OF_A_LINK,
    finish=_not_kept,
)
