"""Addresses of models: publish a run under a name, find models by their evidence, point words at versions."""

from __future__ import annotations

from flask import Response
from sqlalchemy.orm import Session

from api import evidence
from api.auditing import note
from api.auth import Access, caller
from api.door import Noun, answer
from api.paging import cursor, key_of
from api.problems import Problem, invalid
from api.schemas.base import PageQuery
from api.schemas.models import (
    AliasesOut,
    AliasHistory,
    AliasIn,
    AliasOut,
    AliasPath,
    ModelChange,
    ModelHeaders,
    ModelIn,
    ModelItem,
    ModelOut,
    ModelPage,
    ModelPath,
    ModelsQuery,
    VersionItem,
    VersionOut,
    VersionPage,
)
from api.services import services
from store import datasets, idempotency, models, runs
from store.models import Reader
from store.tables import Model, ModelVersion, Run

api = Noun("models", "Runs that were published under a name, in versions, for a team or for everybody.")


@api.at("post", "/models", needs=Access.SHARE, answers={201: VersionOut}, problems=(404, 409))
def publish_model(header: ModelHeaders, body: ModelIn) -> Response:
    """Publish a run: as a new model, or as the next version of the one that has this name.

    A published run is kept for good. With an Idempotency-Key a request that is sent again publishes nothing more.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        version = _published_before(rows, header.idempotency_key, body) or models.publish(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            run_id=body.run_id,
            name=body.name,
            card=body.card,
            visibility=body.visibility,
            now=here.now(),
        )
        model = models.own(rows, reader(), version.model_id)
        note(rows, "model.publish", model.id, version=version.number, run_id=body.run_id, visibility=model.visibility)
        shown = version_out(rows, model, version)
    return answer(shown, 201, Location=f"/api/v1/models/{model.id}/versions/{version.number}")


@api.at("get", "/models", needs=Access.READ, answers={200: ModelPage}, problems=(404,))
def list_models(query: ModelsQuery) -> Response:
    """Models, newest first: those of the team, or everybody's; narrowed by what was found in their newest version."""
    asked = query.model_dump(exclude={"q", "everybody", "dataset", "after", "limit"})
    with services().database.read() as rows:
        if query.dataset is not None:
            datasets.get(rows, caller().team_id, query.dataset)
        page = models.page(
            rows,
            reader(),
            q=query.q,
            everybody=query.everybody,
            after=key_of(query.after),
            limit=query.limit,
            dataset_id=query.dataset,
            **asked,
        )
        newest = models.newest(rows, page.rows)
        items = [_item(model, *newest[model.id]) for model in page.rows]
        return answer(ModelPage(items=items, next=cursor(page.after)))


@api.at("get", "/models/<string:model>", needs=Access.READ, answers={200: ModelOut})
def get_model(path: ModelPath) -> Response:
    """One model, by its name in your team or by its id."""
    with services().database.read() as rows:
        return answer(_shown(rows, models.get(rows, reader(), path.model)))


@api.at("patch", "/models/<string:model>", needs=Access.SHARE, answers={200: ModelOut}, problems=(409,))
def change_model(path: ModelPath, body: ModelChange) -> Response:
    """Change who sees it, or its name."""
    here = services()
    with here.database.write() as rows:
        model = models.own(rows, reader(), path.model)
        models.change(rows, model, visibility=body.visibility, name=body.name, now=here.now())
        note(rows, "model.change", model.id, **body.model_dump(exclude_none=True))
        return answer(_shown(rows, model))


@api.at("delete", "/models/<string:model>", needs=Access.SHARE, answers={204: None})
def delete_model(path: ModelPath) -> Response:
    """Forget the model with its versions, words, notes and links. Its runs stay, and expire like others."""
    with services().database.write() as rows:
        model = models.own(rows, reader(), path.model)
        note(rows, "model.delete", model.id, name=model.name)
        models.delete(rows, model)
    return Response(status=204)


@api.at("get", "/models/<string:model>/versions", needs=Access.READ, answers={200: VersionPage})
def list_versions(path: ModelPath, query: PageQuery) -> Response:
    """Its versions, newest first."""
    with services().database.read() as rows:
        model = models.get(rows, reader(), path.model)
        page = models.versions(rows, model, after=key_of(query.after), limit=query.limit)
        items = [version_item(model, version, run) for version, run in page.rows]
        return answer(VersionPage(items=items, next=cursor(page.after)))


# --- words ------------------------------------------------------------------------------------------------


@api.at("get", "/models/<string:model>/aliases", needs=Access.READ, answers={200: AliasesOut})
def list_aliases(path: ModelPath) -> Response:
    """What each word means now. A word stands wherever a version's number may."""
    with services().database.read() as rows:
        return answer(AliasesOut(items=models.aliases(rows, models.get(rows, reader(), path.model))))


@api.at("get", "/models/<string:model>/aliases/<string:alias>", needs=Access.READ, answers={200: AliasHistory})
def alias_history(path: AliasPath, query: PageQuery) -> Response:
    """Everything that a word has meant, newest first. Nothing is ever taken from this list."""
    with services().database.read() as rows:
        model = models.get(rows, reader(), path.model)
        page = models.alias_history(rows, model, path.alias, after=key_of(query.after), limit=query.limit)
        if not page.rows and query.after is None:
            raise Problem("not-found", f"The model `{model.name}` never had the word `{path.alias}`.")
        return answer(AliasHistory(items=[AliasOut.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("put", "/models/<string:model>/aliases/<string:alias>", needs=Access.SHARE, answers={200: AliasOut})
def point_alias(path: AliasPath, body: AliasIn) -> Response:
    """From now on the word means this version. What it meant before stays on record."""
    if path.alias == models.NEWEST:
        raise invalid("/alias", "`newest` always means the last version; choose another word.", place="path")
    return answer(_point(path, body.version))


@api.at("delete", "/models/<string:model>/aliases/<string:alias>", needs=Access.SHARE, answers={204: None})
def remove_alias(path: AliasPath) -> Response:
    """From now on the word means nothing. What it meant before stays on record."""
    _point(path, None)
    return Response(status=204)


def _point(path: AliasPath, number: int | None) -> AliasOut:
    here = services()
    with here.database.write() as rows:
        model = models.own(rows, reader(), path.model)
        row = models.point(rows, model, path.alias, number, member_id=caller().member_id, now=here.now())
        note(rows, "model.point", model.id, alias=path.alias, version=number)
        return AliasOut.model_validate(row)


# --- what the addresses share ---------------------------------------------------------------------------------


def reader() -> Reader:
    """Who reads models."""
    who = caller()
    return Reader(who.team_id, who.member_id, is_admin="admin" in who.scopes)


def version_item(model: Model, version: ModelVersion, run: Run) -> VersionItem:
    """A version as lists show it."""
    summary = {name: getattr(run, name) for name in runs.SUMMARY}
    verification = version.verification
    return VersionItem(
        model=model.name,
        model_id=model.id,
        number=version.number,
        run_id=run.id,
        member_id=version.member_id,
        created_at=version.created_at,
        verified_at=version.verified_at,
        agrees=None if verification is None else bool(verification.get("agrees")),
        seed=run.seed,
        cost_strength=run.cost_strength,
        method=run.method,
        dataset_kind=run.dataset_kind,
        **summary,
    )


def version_out(rows: Session, model: Model, version: ModelVersion) -> VersionOut:
    """A version with everything that belongs to it but its evidence."""
    run = models.run_of(rows, version)
    return VersionOut(
        **version_item(model, version, run).model_dump(),
        **evidence.numbers(rows, run),
        card=version.card,
        spec=run.spec,
        files=[file.name for file in runs.published_files(rows, run.id)],
        figures=[figure.name for figure in runs.figures(rows, run.id)],
        aliases=[word for word, number in models.aliases(rows, model).items() if number == version.number],
        verification=version.verification,
    )


def _published_before(rows: Session, key: str | None, body: ModelIn) -> ModelVersion | None:
    """The version that this very request made when it came before."""
    if key is None:
        return None
    here, who = services(), caller()
    request = ["publish", who.team_id, body.model_dump(mode="json")]
    before = idempotency.remember(
        rows, member_id=who.member_id, key=key, request=request, thing_id=body.run_id, now=here.now()
    )
    return None if before is None else models.same_run(rows, models.own(rows, reader(), body.name), before)


def _item(model: Model, version: ModelVersion, run: Run) -> ModelItem:
    return ModelItem(
        id=model.id,
        name=model.name,
        visibility=model.visibility,
        versions=model.versions,
        ours=model.team_id == caller().team_id,
        member_id=model.member_id,
        created_at=model.created_at,
        updated_at=model.updated_at,
        newest=version_item(model, version, run),
    )


def _shown(rows: Session, model: Model) -> ModelOut:
    version, run = models.newest(rows, [model])[model.id]
    item = _item(model, version, run)
    return ModelOut(**item.model_dump(), card=version.card, aliases=models.aliases(rows, model))
