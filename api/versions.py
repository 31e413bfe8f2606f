"""Versions of a model: notes on its parts, verification, forks, and the comparison of two versions or runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from api import bundles, evidence
from api.auth import Access, audit, caller
from api.evidence import or_not_yet
from api.jobs import JobOut
from api.jobs import shown as shown_job
from api.models import Card, VersionOut, VersionPath, reader, version_out
from api.operations import NOT_YET, OperationOut, WaitQuery, ask, not_yet, unless_failed
from api.problems import invalid
from api.routing import Resource, answer, binary, cursor, key_of, markdown, text
from api.schemas import (
    PRINTABLE,
    Body,
    MemberId,
    Page,
    PageQuery,
    Query,
    ResponseModel,
    RunId,
)
from api.services import services
from api.submission import ForkIn, fork, refuse_bad_data, submit
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.statements.outputs import data_statement
from store import datasets, models, runs, teams
from store.columns import is_id
from store.tables import Annotation, Model, ModelVersion, Run


class VersionChange(Body):
    """What to change of a version: its card. What was found never changes."""

    card: Card


About = Literal["run", "module", "neuron", "connection"]


class NoteIn(Body):
    """A note on a part of a version."""

    about: About
    target: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] = Field(
        default="",
        description="A module's letter, a neuron's id, a connection as `source->target`; empty for the whole run.",
    )
    text: Annotated[str, Field(max_length=10_000, pattern=PRINTABLE)] = Field(
        description="Markdown; an empty text takes the note away."
    )
    replaces: int | None = Field(
        default=None, ge=1, le=10**6, description="The number of the note that you saw; null: there was none."
    )


class NotesQuery(PageQuery):
    """Which notes: without `about` and `target`, all as they are now; with both, the history of one."""

    about: About | None = None
    target: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] | None = None


class NoteOut(ResponseModel):
    """A note. `number` counts how often it was written; its history keeps every text with its author."""

    id: str
    about: About
    target: str
    number: int
    text: str
    member_id: MemberId
    author: str
    at: datetime


class NotePage(Page):
    """A part of the list of notes, newest first."""

    items: list[NoteOut]


class CheckOut(ResponseModel):
    """One claim, recomputed."""

    what: str
    claimed: Any = None
    found: Any = None
    agrees: bool
    needed: bool = Field(description="Whether the version's claims fall with this one.")


class VerificationOut(ResponseModel):
    """What came out when a version's claims were worked out again from its weights."""

    agrees: bool
    reading: str = Field(description="The outcome in a sentence.")
    pruned_again: bool
    checks: list[CheckOut]


class CompareQuery(Query):
    """Two things: the id of a run, or a model's name or id, perhaps with `@` and a version or word."""

    a: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}(@[a-z0-9][a-z0-9._-]{0,63})?$")]
    b: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}(@[a-z0-9][a-z0-9._-]{0,63})?$")]


class Side(ResponseModel):
    """One of the two."""

    what: str = Field(description="The model's name and version, or the run's id.")
    run_id: RunId
    seed: int
    connections: int | None
    modules: int | None


class Difference(ResponseModel):
    """A field of the specs that is not the same; null: it is absent."""

    pointer: str = Field(description="JSON Pointer into the spec.")
    a: Any = None
    b: Any = None


class MetricPair(ResponseModel):
    """One number of both."""

    name: str
    a: float | None = None
    b: float | None = None
    difference: float | None = Field(default=None, description="b − a.")


class ModulePair(ResponseModel):
    """A module of each that read and decide the most alike; null: it has no counterpart."""

    a: dict[str, Any] | None = None
    b: dict[str, Any] | None = None
    overlap: float = Field(description="Shared inputs and outputs among all of both: 1 is the same, 0 nothing.")


class CompareOut(ResponseModel):
    """Two runs side by side."""

    a: Side
    b: Side
    same_data: bool = Field(description="False: what was measured on rows of their data does not compare.")
    data: str = Field(description="The same in a sentence, which also says where the rows differ.")
    spec: list[Difference]
    metrics: list[MetricPair]
    modules: list[ModulePair]


api = Resource("versions", "One published run: its evidence, notes on its parts, its files.")

AT = "/models/<string:model>/versions/<string:version>"


@api.route("get", AT, requires=Access.READ, answers={200: VersionOut})
def get_version(path: VersionPath) -> Response:
    """One version, by its number, by `newest`, or by an alias that points to it."""
    with services().database.read() as rows:
        model, version, _ = _found(rows, path)
        return answer(version_out(rows, model, version))


@api.route("patch", AT, requires=Access.SHARE, answers={200: VersionOut})
def change_version(path: VersionPath, body: VersionChange) -> Response:
    """Replace its card. What was found never changes."""
    with services().database.write() as rows:
        model, version, _ = _own(rows, path)
        models.change_card(rows, version, body.card)
        audit(rows, "version.card", model.id, version=version.number)
        return answer(version_out(rows, model, version))


# --- files --------------------------------------------------------------------------------------------------


@api.route("get", f"{AT}/card.md", requires=Access.READ, answers={200: text("text/markdown", "The card, in Markdown.")})
def version_card(path: VersionPath) -> Response:
    """The card: what its author says, then what was found, in words and numbers."""
    with services().database.read() as rows:
        return markdown(bundles.card_of_version(rows, *_found(rows, path)))


@api.route(
    "get",
    f"{AT}/bundle.zip",
    requires=Access.READ,
    answers={200: binary("application/zip", "Spec, weights, graph, modules, effects, figures, card, notes.")},
)
def version_bundle(path: VersionPath) -> Response:
    """Everything there is of it in one file, with the SHA-256 of each part in manifest.json."""
    with services().database.read() as rows:
        model, version, run = _found(rows, path)
        notes = [found.model_dump(mode="json") for found in _notes(rows, models.current_annotations(rows, version))]
        parts = bundles.bundle_of_version(rows, model, version, run, notes=notes)
        return bundles.send_bundle(parts, _file_name(model, version))


# --- notes --------------------------------------------------------------------------------------------------------


@api.route("get", f"{AT}/annotations", requires=Access.READ, answers={200: NotePage})
def list_notes(path: VersionPath, query: NotesQuery) -> Response:
    """The notes as they are now; or, with `about` and `target`, everything that was ever written about one part."""
    with services().database.read() as rows:
        version = _found(rows, path)[1]
        part: dict[str, Any] = {"after": key_of(query.after), "limit": query.limit}
        if query.about is None and query.target is None:
            page = models.page_annotations(rows, version, **part)
        elif query.about is None:
            raise invalid("/about", "Say what the target is: run, module, neuron or connection.", place="query")
        else:
            page = models.annotation_history(rows, version, about=query.about, target=query.target or "", **part)
        return answer(NotePage(items=_notes(rows, page.rows), next=cursor(page.after)))


@api.route("post", f"{AT}/annotations", requires=Access.SHARE, answers={201: NoteOut}, problems=(409,))
def write_note(path: VersionPath, body: NoteIn) -> Response:
    """Write a note about the run, a module, a neuron or a connection, or replace one.

    `replaces` names the note that the author has read: if another was written meanwhile, that is a conflict.
    """
    here = services()
    with here.database.write() as rows:
        model, version, run = _own(rows, path)
        _must_have(evidence.graph_of(rows, run), body.about, body.target)
        row = models.annotate(
            rows,
            version,
            about=body.about,
            target=body.target,
            text=body.text,
            member_id=caller().member_id,
            replaces=body.replaces,
            now=here.now(),
        )
        audit(rows, "version.note", model.id, version=version.number, about=body.about, target=body.target)
        return answer(_notes(rows, [row])[0], 201)


def _must_have(graph: Graph, about: str, target: str) -> None:
    """Raises the problem of a part that the network does not have."""
    known: set[str]
    if about == "run":
        known, kind = {""}, "An empty target for the run as a whole"
    elif about == "module":
        known, kind = {n.module for n in graph.neurons if n.module}, "The letter of a module"
    elif about == "neuron":
        known, kind = {n.id for n in graph.neurons}, "The id of a neuron, such as `hidden1:7`,"
    else:
        known, kind = {f"{c.source}->{c.target}" for c in graph.connections}, "A connection as `source->target`"
    if target not in known:
        raise invalid("/target", f"{kind} is wanted here; this network has no `{target[:80]}`.")


def _notes(rows: Session, found: list[Annotation]) -> list[NoteOut]:
    names = teams.names(rows, {row.member_id for row in found})
    return [
        NoteOut(
            id=row.id,
            about=row.about,
            target=row.target,
            number=row.number,
            text=row.text,
            member_id=row.member_id,
            author=names.get(row.member_id, ""),
            at=row.at,
        )
        for row in found
    ]


# --- verifying ---------------------------------------------------------------------------------------------


@api.route(
    "post",
    f"{AT}/verify",
    requires=Access.SUBMIT,
    answers={200: VerificationOut, 202: NOT_YET},
    problems=(409,),
    models=(OperationOut,),
)
def verify_version(path: VersionPath, query: WaitQuery) -> Response:
    """Have a worker recompute the claims from the stored weights and compare each of them.

    The version remembers what came out. With 202, ask the address in `Location` again.
    """
    with services().database.write() as rows:
        model, version, run = _own(rows, path)
        order = {"run_id": run.id, "model_id": model.id, "number": version.number}
        audit(rows, "version.verify", model.id, version=version.number)
    about = f"{model.id}/{version.number}"
    outcome = unless_failed(ask("verify", order, about=about, wait=query.wait, once=True))
    return answer(VerificationOut.model_validate(outcome.answer)) if outcome.is_final else not_yet(outcome)


# --- forking ----------------------------------------------------------------------------------------


@api.route("post", f"{AT}/fork", requires=Access.SUBMIT, answers={202: JobOut}, problems=(409,))
def fork_version(path: VersionPath, body: ForkIn) -> Response:
    """Its spec as a new job of yours, changed where you say so."""
    here = services()
    with here.database.read() as rows:
        model, version, run = _found(rows, path)
        asked = fork(run, body, name=body.name or f"{model.name} v{version.number}", team_id=caller().team_id)
        forked = f"{model.id}/{version.number}"
    refuse_bad_data(caller(), asked)
    with here.database.write() as rows:
        job = submit(rows, caller(), asked, settings=here.settings, now=here.now())
        audit(rows, "job.submit", job.id, forked=forked)
        shown = shown_job(here, rows, job)
    here.enqueue(job.id, job.queue, job.priority, marked=True)
    return answer(shown, 202, Location=f"/api/v1/jobs/{job.id}")


@api.route("get", "/compare", requires=Access.READ, answers={200: CompareOut}, problems=(404, 409))
def compare_two(query: CompareQuery) -> Response:
    """Two runs or versions side by side: where their specs differ, their numbers, their modules matched."""
    with services().database.read() as rows:
        return answer(compare(rows, side_of(rows, query.a), side_of(rows, query.b)))


# --- lookup --------------------------------------------------------------------------------------------------


def _found(rows: Session, path: VersionPath) -> tuple[Model, ModelVersion, Run]:
    """The version that is named, with its model and run. Raises NotFound."""
    model = models.get(rows, reader(), path.model)
    version = models.find_version(rows, model, path.version)
    return model, version, models.run_of(rows, version)


def _own(rows: Session, path: VersionPath) -> tuple[Model, ModelVersion, Run]:
    """The same, where it is the caller's own team's. Raises NotFound."""
    model = models.own(rows, reader(), path.model)
    version = models.find_version(rows, model, path.version)
    return model, version, models.run_of(rows, version)


def _of_evidence(rows: Session, path: VersionPath) -> tuple[Run, str]:
    model, version, run = _found(rows, path)
    return run, _file_name(model, version)


def _file_name(model: Model, version: ModelVersion) -> str:
    return f"{model.name}-v{version.number}"


evidence.mount(api, AT, prefix="version", path=VersionPath, requires=Access.READ, find=_of_evidence)


# --- comparing two --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One of the two: what it is called, and its run."""

    what: str
    run: Run


def side_of(rows: Session, text: str) -> Compared:
    """The run that is meant by a run's id, or by a model's name or id with `@VERSION` or without. Raises NotFound."""
    if is_id(text, "run"):
        return Compared(text, runs.get(rows, caller().team_id, text))
    name, _, word = text.partition("@")
    model = models.get(rows, reader(), name)
    version = models.find_version(rows, model, word or models.NEWEST)
    return Compared(f"{model.name}@{version.number}", models.run_of(rows, version))


def compare(rows: Session, a: Compared, b: Compared) -> CompareOut:
    """The two side by side. Raises the problem that one has not come that far."""
    metrics_a, metrics_b = (_metrics(rows, side.run) for side in (a, b))
    data = [_data(rows, side.run) for side in (a, b)]
    said = data_statement(*data, seeds=(a.run.seed, b.run.seed))
    return CompareOut(
        a=_side(a),
        b=_side(b),
        same_data=said.same,
        data=said.text,
        spec=differences(a.run.spec, b.run.spec),
        metrics=[_pair(name, metrics_a, metrics_b) for name in dict.fromkeys([*metrics_a, *metrics_b])],
        modules=matched(_modules(rows, a.run), _modules(rows, b.run)),
    )


def differences(a: Any, b: Any, pointer: str = "") -> list[Difference]:
    """Every field that is not the same in two JSON documents, lists compared entry by entry."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        steps = [(str(key).replace("~", "~0").replace("/", "~1"), a.get(key), b.get(key)) for key in keys]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        steps = [(str(i), *pair) for i, pair in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b else [Difference(pointer=pointer, a=a, b=b)]
    return [found for step, x, y in steps for found in differences(x, y, f"{pointer}/{step}")]


def matched(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[ModulePair]:
    """Modules that read and decide the same, the best match first; those without a counterpart come last."""
    scored = sorted(
        ((overlap(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b)),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    pairs, left, right = [], dict(enumerate(a)), dict(enumerate(b))
    for score, i, j in scored:
        if score > 0 and i in left and j in right:
            pairs.append(ModulePair(a=left.pop(i), b=right.pop(j), overlap=score))
    pairs += [ModulePair(a=module, overlap=0.0) for module in left.values()]
    return pairs + [ModulePair(b=module, overlap=0.0) for module in right.values()]


def overlap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Of all inputs and outputs that the two touch, the share that both touch."""
    ends_a, ends_b = (
        {(role, name) for role in ("inputs", "outputs") for name in one.get(role) or []} for one in (a, b)
    )
    together = ends_a | ends_b
    return round(len(ends_a & ends_b) / len(together), 6) if together else 0.0


def _side(side: Compared) -> Side:
    run = side.run
    return Side(what=side.what, run_id=run.id, seed=run.seed, connections=run.connections, modules=run.modules)


def _data(rows: Session, run: Run) -> dict[str, Any]:
    """What a run was trained on, as its spec has it; the caller's own uploads by their bytes."""
    data = dict(run.spec.get("dataset") or {})
    if dataset_id := data.get("dataset_id"):
        data["dataset_id"] = datasets.sha256_of(rows, caller().team_id, dataset_id) or dataset_id
    return data


def _metrics(rows: Session, run: Run) -> dict[str, float]:
    """All numbers of a run by name: those that it is listed by, then the others."""
    listed = {name: getattr(run, name) for name in runs.SUMMARY if name not in ("test_metric_name", "test_metric")}
    everything = listed | dict(or_not_yet(runs.body(rows, run.id, "metrics"), run))
    return {
        name: float(value)
        for name, value in everything.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _pair(name: str, a: dict[str, float], b: dict[str, float]) -> MetricPair:
    x, y = a.get(name), b.get(name)
    return MetricPair(name=name, a=x, b=y, difference=None if x is None or y is None else y - x)


def _modules(rows: Session, run: Run) -> list[dict[str, Any]]:
    shown = ("name", "inputs", "outputs", "connections", "selectivity", "sufficiency", "reading")
    return [
        {name: row.body.get(name) for name in shown} | {"neurons": row.neurons} for row in runs.modules(rows, run.id)
    ]
