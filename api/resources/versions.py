"""Addresses of versions: what was found in one, notes on its parts, its files, and jobs that begin from it."""

from __future__ import annotations

from typing import Any

from flask import Response
from sqlalchemy.orm import Session

from api import bundles, cards, evidence
from api.auditing import note
from api.auth import Access, caller
from api.comparing import compare, side_of
from api.door import Noun, answer, binary, markdown, text
from api.errands import NOT_YET, ask, not_yet, unless_failed
from api.paging import cursor, key_of
from api.problems import invalid
from api.resources.jobs import shown as shown_job
from api.resources.models import reader, version_out
from api.schemas.errands import ErrandOut, WaitQuery
from api.schemas.jobs import JobOut
from api.schemas.models import (
    CompareOut,
    CompareQuery,
    ForkIn,
    NoteIn,
    NoteOut,
    NotePage,
    NotesQuery,
    VerificationOut,
    VersionChange,
    VersionFigurePath,
    VersionGraphQuery,
    VersionOut,
    VersionPath,
)
from api.schemas.runs import EffectsOut, GraphOut, GraphQuery, ModulesOut, PruneCurveOut
from api.services import services
from api.submission import fork, submit
from bimt_engine.analysis.graph import Graph
from store import annotations as written_notes
from store import models, runs, teams
from store.tables import Annotation, Model, ModelVersion, Run

api = Noun("versions", "One published run: its evidence, notes on its parts, its files.")

AT = "/models/<string:model>/versions/<string:version>"


@api.at("get", AT, needs=Access.READ, answers={200: VersionOut})
def get_version(path: VersionPath) -> Response:
    """One version, by its number, by `newest`, or by a word that points to it."""
    with services().database.read() as rows:
        model, version, _ = _found(rows, path)
        return answer(version_out(rows, model, version))


@api.at("patch", AT, needs=Access.SHARE, answers={200: VersionOut})
def change_version(path: VersionPath, body: VersionChange) -> Response:
    """Write its card anew. What was found never changes."""
    with services().database.write() as rows:
        model, version, _ = _own(rows, path)
        models.change_card(rows, version, body.card)
        note(rows, "version.card", model.id, version=version.number)
        return answer(version_out(rows, model, version))


# --- evidence -------------------------------------------------------------------------------------------------


@api.at("get", f"{AT}/graph", needs=Access.READ, answers={200: evidence.GRAPH}, models=(GraphOut,))
def version_graph(path: VersionPath, query: VersionGraphQuery) -> Response:
    """The pruned network or one module of it, as JSON (node-link), GraphML or DOT."""
    with services().database.read() as rows:
        model, version, run = _found(rows, path)
        asked = GraphQuery(format=query.format, connections=query.connections)
        return evidence.graph(rows, run, asked, name=_file_name(model, version), module=query.module)


@api.at("get", f"{AT}/modules", needs=Access.READ, answers={200: ModulesOut})
def version_modules(path: VersionPath) -> Response:
    """The modules: their neurons, what they read, what they decide, in words and numbers."""
    with services().database.read() as rows:
        return answer(evidence.modules(rows, _found(rows, path)[2]))


@api.at("get", f"{AT}/effects", needs=Access.READ, answers={200: EffectsOut})
def version_effects(path: VersionPath) -> Response:
    """What every target loses when a module is set to zero, to its mean, or resampled."""
    with services().database.read() as rows:
        return answer(evidence.effects(rows, _found(rows, path)[2]))


@api.at("get", f"{AT}/prune-curve", needs=Access.READ, answers={200: PruneCurveOut})
def version_prune_curve(path: VersionPath) -> Response:
    """How the loss rises as connections are taken away."""
    with services().database.read() as rows:
        return answer(PruneCurveOut(rows=runs.body(rows, _found(rows, path)[2].id, "prune_curve") or []))


@api.at("get", f"{AT}/figures/<string:name>.<string:suffix>", needs=Access.READ, answers={200: evidence.FIGURE})
def version_figure(path: VersionFigurePath) -> Response:
    """A picture, such as network.svg."""
    with services().database.read() as rows:
        return evidence.figure(rows, _found(rows, path)[2], path.name, path.suffix)


# --- files ------------------------------------------------------------------------------------------------------


@api.at(
    "get",
    f"{AT}/weights.safetensors",
    needs=Access.READ,
    answers={200: binary("application/octet-stream", "The pruned and refitted network.")},
)
def version_weights(path: VersionPath) -> Response:
    """The weights of the pruned network as safetensors; the spec stands in its metadata."""
    with services().database.read() as rows:
        model, version, run = _found(rows, path)
        return evidence.file(rows, run, "weights.safetensors", name=f"{_file_name(model, version)}.safetensors")


@api.at("get", f"{AT}/card.md", needs=Access.READ, answers={200: text("text/markdown", "The card, in Markdown.")})
def version_card(path: VersionPath) -> Response:
    """The card: what its author says, then what was found, in words and numbers."""
    with services().database.read() as rows:
        return markdown(cards.of_version(rows, *_found(rows, path)))


@api.at(
    "get",
    f"{AT}/bundle.zip",
    needs=Access.READ,
    answers={200: binary("application/zip", "Spec, weights, graph, modules, effects, figures, card, notes.")},
)
def version_bundle(path: VersionPath) -> Response:
    """Everything there is of it in one file, with the SHA-256 of each part in manifest.json."""
    with services().database.read() as rows:
        model, version, run = _found(rows, path)
        parts = bundles.of_version(rows, model, version, run, notes=_notes(rows, written_notes.current(rows, version)))
        return bundles.sent(parts, _file_name(model, version))


# --- notes --------------------------------------------------------------------------------------------------------


@api.at("get", f"{AT}/annotations", needs=Access.READ, answers={200: NotePage})
def list_notes(path: VersionPath, query: NotesQuery) -> Response:
    """The notes as they are now; or, with `about` and `target`, everything that was ever written about one part."""
    with services().database.read() as rows:
        version = _found(rows, path)[1]
        part: dict[str, Any] = {"after": key_of(query.after), "limit": query.limit}
        if query.about is None and query.target is None:
            page = written_notes.page(rows, version, **part)
        elif query.about is None:
            raise invalid("/about", "Say what the target is: run, module, neuron or connection.", place="query")
        else:
            page = written_notes.history(rows, version, about=query.about, target=query.target or "", **part)
        return answer(NotePage(items=_notes(rows, page.rows), next=cursor(page.after)))


@api.at("post", f"{AT}/annotations", needs=Access.SHARE, answers={201: NoteOut}, problems=(409,))
def write_note(path: VersionPath, body: NoteIn) -> Response:
    """Write a note about the run, a module, a neuron or a connection, or write it anew.

    Whoever writes a note anew says which one they saw: where somebody else wrote meanwhile, that is a conflict.
    """
    here = services()
    with here.database.write() as rows:
        model, version, run = _own(rows, path)
        _must_have(evidence.graph_of(rows, run), body.about, body.target)
        row = written_notes.annotate(
            rows,
            version,
            about=body.about,
            target=body.target,
            text=body.text,
            member_id=caller().member_id,
            replaces=body.replaces,
            now=here.now(),
        )
        note(rows, "version.note", model.id, version=version.number, about=body.about, target=body.target)
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


# --- looking again ---------------------------------------------------------------------------------------------


@api.at(
    "post",
    f"{AT}/verify",
    needs=Access.SUBMIT,
    answers={200: VerificationOut, 202: NOT_YET},
    problems=(409,),
    models=(ErrandOut,),
)
def verify_version(path: VersionPath, query: WaitQuery) -> Response:
    """Have a worker work the claims out again from the stored weights, and say of each whether they agree.

    The version remembers what came out. With 202, ask the address in `Location` again.
    """
    with services().database.write() as rows:
        model, version, run = _own(rows, path)
        order = {"run_id": run.id, "model_id": model.id, "number": version.number}
        note(rows, "version.verify", model.id, version=version.number)
    about = f"{model.id}/{version.number}"
    outcome = unless_failed(ask("verify", order, about=about, wait=query.wait, once=True))
    return answer(VerificationOut.model_validate(outcome.answer)) if outcome.is_final else not_yet(outcome)


# --- beginning from it ----------------------------------------------------------------------------------------


@api.at("post", f"{AT}/fork", needs=Access.SUBMIT, answers={202: JobOut}, problems=(409,))
def fork_version(path: VersionPath, body: ForkIn) -> Response:
    """Its spec as a new job of yours, changed where you say so."""
    here = services()
    with here.database.write() as rows:
        model, version, run = _found(rows, path)
        asked = fork(run, body, name=body.name or f"{model.name} v{version.number}", team_id=caller().team_id)
        job = submit(rows, caller(), asked, now=here.now())
        note(rows, "job.submit", job.id, forked=f"{model.id}/{version.number}")
        shown = shown_job(here, rows, job)
    here.tell(job.id, job.queue, job.priority, marked=True)
    return answer(shown, 202, Location=f"/api/v1/jobs/{job.id}")


@api.at("get", "/compare", needs=Access.READ, answers={200: CompareOut}, problems=(404, 409))
def compare_two(query: CompareQuery) -> Response:
    """Two runs or versions side by side: where their specs differ, their numbers, their modules matched."""
    with services().database.read() as rows:
        return answer(compare(rows, side_of(rows, query.a), side_of(rows, query.b)))


# --- finding --------------------------------------------------------------------------------------------------


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


def _file_name(model: Model, version: ModelVersion) -> str:
    return f"{model.name}-v{version.number}"
