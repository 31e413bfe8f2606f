"""Models: publish a run under a name, find models by their evidence, point aliases at versions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import AfterValidator, Field
from sqlalchemy.orm import Session

from api import evidence
from api.auth import Access, audit, caller
from api.evidence import EvidenceQuery, OutputOut
from api.problems import Problem, invalid
from api.routing import Resource, answer, cursor, key_of
from api.schemas import (
    PRINTABLE,
    Body,
    DatasetId,
    Headers,
    InPath,
    MemberId,
    Page,
    PageQuery,
    ResponseModel,
    RunId,
)
from api.services import services
from bimt_engine.spec import Method
from store import datasets, models, runs
from store.jobs import submissions
from store.models import Reader
from store.tables import Model, ModelVersion, Run

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")]


def _no_id(name: str) -> str:
    if name.startswith("model_"):
        raise ValueError("A name must not begin like the id of a model; leave out `model_`.")
    return name


NewName = Annotated[ModelName, AfterValidator(_no_id)]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")]
Card = Annotated[str, Field(max_length=50_000, pattern=PRINTABLE)]
Visibility = Literal["private", "team", "unlisted", "public"]
VersionWord = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}|[a-z][a-z0-9._-]{0,63})$")]


class ModelPath(InPath):
    """Which model, by name or id."""

    model: ModelName


class VersionPath(ModelPath):
    """Which version, by number, alias or `newest`."""

    version: VersionWord


class AliasPath(ModelPath):
    """Which alias of which model."""

    alias: Word


class ModelHeaders(Headers):
    """Headers of a publication."""

    idempotency_key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        default=None,
        alias="Idempotency-Key",
        description="Any text of yours; publishing again with the same key gives the same version.",
    )


class ModelIn(Body):
    """A run to publish. The first run under a name makes the model, every further one its next version."""

    run_id: RunId
    name: NewName
    card: Card = Field(default="", description="What the readers should know, in Markdown.")
    visibility: Visibility | None = Field(
        default=None, description="Null: `team` for a new model; unchanged for an existing one."
    )


class ModelChange(Body):
    """What to change of a model; what is left out stays."""

    visibility: Visibility | None = None
    name: NewName | None = Field(default=None, description="The old name is free afterwards; ids stay.")


class ModelsQuery(EvidenceQuery):
    """Which models. Filters on evidence apply to the newest version."""

    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name or card.")
    everybody: bool = Field(default=False, description="Public models of other teams, too.")
    method: Method | None = None
    dataset: DatasetId | None = Field(default=None, description="A data set of your team.")
    dataset_kind: Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9_]+$")] | None = Field(
        default=None, description="A kind of the catalogue, or `uploaded`."
    )
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class VersionItem(ResponseModel):
    """A version in a list, with what sums up its evidence."""

    model: str
    model_id: str
    number: int
    run_id: RunId
    member_id: MemberId
    created_at: datetime
    verified_at: datetime | None = None
    agrees: bool | None = Field(default=None, description="The result of the last verification; null: there was none.")
    seed: int
    cost_strength: float | None
    method: str | None
    dataset_kind: str | None
    test_metric_name: str | None
    test_metric: float | None
    connections: int | None
    modules: int | None
    interior_modules: int | None = Field(
        default=None, description="Supported groups of neurons inside the modules; null: it was not examined for them."
    )
    modularity: float | None
    selectivity: float | None
    connection_cost: float | None


class VersionOut(VersionItem):
    """A version: a run under a model's name."""

    card: str
    spec: dict[str, Any] = Field(description="Complete; submit it to train the same again, or fork the version.")
    metrics: dict[str, Any] = Field(default={}, description="Numbers by name; `verdict` sums the evidence up.")
    outputs: list[OutputOut] = Field(default=[], description="How well each target is predicted; older runs: empty.")
    files: list[str] = Field(default=[])
    figures: list[str] = Field(default=[])
    aliases: list[str] = Field(default=[], description="The aliases that point here now.")
    verification: dict[str, Any] | None = None


class VersionPage(Page):
    """A part of the list of versions, newest first."""

    items: list[VersionItem]


class ModelItem(ResponseModel):
    """A model in a list."""

    id: str
    name: str
    visibility: Visibility
    versions: int = Field(description="How many there are; the number of the newest one.")
    ours: bool = Field(description="Whether it belongs to your team, which may change it.")
    member_id: MemberId
    created_at: datetime
    updated_at: datetime
    newest: VersionItem


class ModelOut(ModelItem):
    """A model."""

    card: str = Field(description="That of the newest version.")
    aliases: dict[str, int] = Field(default={}, description="Alias → the version it means now.")


class ModelPage(Page):
    """A part of the list of models, newest first."""

    items: list[ModelItem]


class AliasIn(Body):
    """The version that the alias means from now on."""

    version: int = Field(ge=1, le=10**9)


class AliasOut(ResponseModel):
    """What an alias means from this time on; null: nothing."""

    alias: str
    number: int | None
    member_id: MemberId
    at: datetime


class AliasesOut(ResponseModel):
    """The version that each alias points to."""

    items: dict[str, int]


class AliasHistory(Page):
    """One page of the versions that an alias has pointed to, newest first."""

    items: list[AliasOut]


api = Resource("models", "Runs that were published under a name, in versions, for a team or for all teams.")


@api.route("post", "/models", requires=Access.SHARE, answers={201: VersionOut}, problems=(404, 409))
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
        audit(rows, "model.publish", model.id, version=version.number, run_id=body.run_id, visibility=model.visibility)
        shown = version_out(rows, model, version)
    return answer(shown, 201, Location=f"/api/v1/models/{model.id}/versions/{version.number}")


@api.route("get", "/models", requires=Access.READ, answers={200: ModelPage}, problems=(404,))
def list_models(query: ModelsQuery) -> Response:
    """Models, newest first: those of the team, or of all teams; filtered by what was found in their newest version."""
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


@api.route("get", "/models/<string:model>", requires=Access.READ, answers={200: ModelOut})
def get_model(path: ModelPath) -> Response:
    """One model, by its name in your team or by its id."""
    with services().database.read() as rows:
        return answer(_shown(rows, models.get(rows, reader(), path.model)))


@api.route("patch", "/models/<string:model>", requires=Access.SHARE, answers={200: ModelOut}, problems=(409,))
def change_model(path: ModelPath, body: ModelChange) -> Response:
    """Change its visibility or its name."""
    here = services()
    with here.database.write() as rows:
        model = models.own(rows, reader(), path.model)
        models.change(rows, model, visibility=body.visibility, name=body.name, now=here.now())
        audit(rows, "model.change", model.id, **body.model_dump(exclude_none=True))
        return answer(_shown(rows, model))


@api.route("delete", "/models/<string:model>", requires=Access.SHARE, answers={204: None})
def delete_model(path: ModelPath) -> Response:
    """Delete the model with its versions, aliases, notes and links. Its runs stay, and expire like others."""
    with services().database.write() as rows:
        model = models.own(rows, reader(), path.model)
        audit(rows, "model.delete", model.id, name=model.name)
        models.delete(rows, model)
    return Response(status=204)


@api.route("get", "/models/<string:model>/versions", requires=Access.READ, answers={200: VersionPage})
def list_versions(path: ModelPath, query: PageQuery) -> Response:
    """Its versions, newest first."""
    with services().database.read() as rows:
        model = models.get(rows, reader(), path.model)
        page = models.versions(rows, model, after=key_of(query.after), limit=query.limit)
        items = [version_item(model, version, run) for version, run in page.rows]
        return answer(VersionPage(items=items, next=cursor(page.after)))


# --- words ------------------------------------------------------------------------------------------------


@api.route("get", "/models/<string:model>/aliases", requires=Access.READ, answers={200: AliasesOut})
def list_aliases(path: ModelPath) -> Response:
    """List the aliases and the version of each. An alias may be used wherever a version's number may."""
    with services().database.read() as rows:
        return answer(AliasesOut(items=models.aliases(rows, models.get(rows, reader(), path.model))))


@api.route("get", "/models/<string:model>/aliases/<string:alias>", requires=Access.READ, answers={200: AliasHistory})
def alias_history(path: AliasPath, query: PageQuery) -> Response:
    """Every version that an alias has pointed to, newest first. Nothing is ever removed from this list."""
    with services().database.read() as rows:
        model = models.get(rows, reader(), path.model)
        page = models.alias_history(rows, model, path.alias, after=key_of(query.after), limit=query.limit)
        if not page.rows and query.after is None:
            raise Problem("not-found", f"The model `{model.name}` never had the alias `{path.alias}`.")
        return answer(AliasHistory(items=[AliasOut.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.route("put", "/models/<string:model>/aliases/<string:alias>", requires=Access.SHARE, answers={200: AliasOut})
def point_alias(path: AliasPath, body: AliasIn) -> Response:
    """Point the alias at this version. Earlier targets stay in its history."""
    if path.alias == models.NEWEST:
        raise invalid("/alias", "`newest` always means the last version; choose another alias.", place="path")
    return answer(_point(path, body.version))


@api.route("delete", "/models/<string:model>/aliases/<string:alias>", requires=Access.SHARE, answers={204: None})
def remove_alias(path: AliasPath) -> Response:
    """Remove the alias. Earlier targets stay in its history."""
    _point(path, None)
    return Response(status=204)


def _point(path: AliasPath, number: int | None) -> AliasOut:
    here = services()
    with here.database.write() as rows:
        model = models.own(rows, reader(), path.model)
        row = models.point(rows, model, path.alias, number, member_id=caller().member_id, now=here.now())
        audit(rows, "model.point", model.id, alias=path.alias, version=number)
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
        figures=evidence.figure_names(rows, run.id),
        aliases=[word for word, number in models.aliases(rows, model).items() if number == version.number],
        verification=version.verification,
    )


def _published_before(rows: Session, key: str | None, body: ModelIn) -> ModelVersion | None:
    """The version that this very request made when it came before."""
    if key is None:
        return None
    here, who = services(), caller()
    request = ["publish", who.team_id, body.model_dump(mode="json")]
    before = submissions.upsert_key(
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
