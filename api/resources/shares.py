"""Addresses of links: made by whoever may share, opened by whoever holds them, showing one version and nothing else."""

from __future__ import annotations

from datetime import timedelta

from flask import Response
from sqlalchemy.orm import Session

from api import evidence
from api.auditing import note
from api.auth import Access, caller
from api.door import Noun, answer
from api.paging import cursor, key_of
from api.problems import Problem, invalid
from api.resources.models import reader
from api.schemas.base import PageQuery
from api.schemas.models import ModelPath, VersionPath
from api.schemas.runs import EffectsOut, GraphOut, GraphQuery, ModulesOut
from api.schemas.shares import (
    LinkFigurePath,
    LinkPath,
    SharedOut,
    ShareIn,
    ShareItem,
    ShareMinted,
    SharePage,
    SharePath,
    View,
)
from api.services import services
from store import models, runs, shares
from store.tables import Model, ModelVersion, Run, Share

api = Noun("shares", "Read-only links to one version, for people without a token.")


@api.at(
    "post",
    "/models/<string:model>/versions/<string:version>/shares",
    needs=Access.SHARE,
    answers={201: ShareMinted},
)
def share_version(path: VersionPath, body: ShareIn) -> Response:
    """A link to this version in this view, for everybody who holds it. Its address is shown this once."""
    here, who = services(), caller()
    now = here.now()
    with here.database.write() as rows:
        model = models.own(rows, reader(), path.model)
        version = models.find_version(rows, model, path.version)
        _must_show(rows, models.run_of(rows, version), body.view)
        text, row = shares.create(
            rows,
            version,
            team_id=who.team_id,
            member_id=who.member_id,
            view=body.view.model_dump(exclude_defaults=True),
            expires_at=None if body.expires_in_days is None else now + timedelta(days=body.expires_in_days),
            now=now,
        )
        note(rows, "share.make", row.id, model=model.id, version=version.number)
        item = ShareItem.model_validate(row)
    url = f"{here.settings.public_url.rstrip('/')}/s/{text}"
    return answer(ShareMinted(**item.model_dump(), token=text, url=url), 201, Location=f"/api/v1/s/{text}")


@api.at("get", "/models/<string:model>/shares", needs=Access.SHARE, answers={200: SharePage})
def list_shares(path: ModelPath, query: PageQuery) -> Response:
    """The links to a model of yours, those that have ended too."""
    with services().database.read() as rows:
        model = models.own(rows, reader(), path.model)
        page = shares.page(rows, caller().team_id, model_id=model.id, after=key_of(query.after), limit=query.limit)
        return answer(SharePage(items=[ShareItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("delete", "/shares/<string:share_id>", needs=Access.SHARE, answers={204: None})
def revoke_share(path: SharePath) -> Response:
    """From now on the link shows nothing."""
    here = services()
    with here.database.write() as rows:
        shares.revoke(rows, caller().team_id, path.share_id, here.now())
        note(rows, "share.revoke", path.share_id)
    return Response(status=204)


# --- for whoever holds one --------------------------------------------------------------------------------


@api.at("get", "/s/<string:token>", needs=Access.ANYONE, answers={200: SharedOut})
def open_share(path: LinkPath) -> Response:
    """What a link shows: the version, what sums up its evidence, and the view it was shared in."""
    with services().database.read() as rows:
        share, model, version, run = shared(rows, path.token)
        return unlisted(answer(shown(rows, share, model, version, run)))


@api.at("get", "/s/<string:token>/graph", needs=Access.ANYONE, answers={200: evidence.GRAPH}, models=(GraphOut,))
def shared_graph(path: LinkPath, query: GraphQuery) -> Response:
    """The pruned network."""
    with services().database.read() as rows:
        _, model, version, run = shared(rows, path.token)
        return unlisted(evidence.graph(rows, run, query, name=f"{model.name}-v{version.number}"))


@api.at("get", "/s/<string:token>/modules", needs=Access.ANYONE, answers={200: ModulesOut})
def shared_modules(path: LinkPath) -> Response:
    """The modules."""
    with services().database.read() as rows:
        return unlisted(answer(evidence.modules(rows, shared(rows, path.token)[3])))


@api.at("get", "/s/<string:token>/effects", needs=Access.ANYONE, answers={200: EffectsOut})
def shared_effects(path: LinkPath) -> Response:
    """What each module does to each target."""
    with services().database.read() as rows:
        return unlisted(answer(evidence.effects(rows, shared(rows, path.token)[3])))


@api.at(
    "get",
    "/s/<string:token>/figures/<string:name>.<string:suffix>",
    needs=Access.ANYONE,
    answers={200: evidence.FIGURE},
)
def shared_figure(path: LinkFigurePath) -> Response:
    """A picture."""
    with services().database.read() as rows:
        response = evidence.figure(rows, shared(rows, path.token)[3], path.name, path.suffix)
    response.headers["Cache-Control"] = "private, no-cache"  # a revoked link shows nothing, not even what was seen
    return unlisted(response)


def shared(rows: Session, token: str) -> tuple[Share, Model, ModelVersion, Run]:
    """What a link leads to. Raises the problem that it leads nowhere: unknown, expired and revoked look alike."""
    share = shares.open(rows, token, services().now())
    if share is None:
        raise Problem("not-found", "This link leads nowhere: it is unknown, has expired or was revoked.")
    model = rows.get(Model, share.model_id)
    assert model is not None, "a link goes with its model"
    version = models.version(rows, model, share.version)
    return share, model, version, models.run_of(rows, version)


def shown(rows: Session, share: Share, model: Model, version: ModelVersion, run: Run) -> SharedOut:
    """What the holder of a link is told of the version."""
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
        figures=[figure.name for figure in runs.figures(rows, run.id)],
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
    figures = {figure.name for figure in runs.figures(rows, run.id)}
    if view.figure is not None and view.figure not in figures:
        raise invalid("/view/figure", f"There is no figure `{view.figure}`; there are {', '.join(sorted(figures))}.")
