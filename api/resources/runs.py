"""Addresses of runs: one trained network and everything that was found in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from flask import Response, request

from api.auth import Access, caller
from api.door import Noun, answer, binary
from api.paging import cursor, key_of
from api.problems import Problem
from api.schemas.jobs import JobPath
from api.schemas.runs import (
    EffectsOut,
    FigurePath,
    GraphOut,
    GraphQuery,
    HistoryOut,
    ModuleOut,
    ModulesOut,
    PruneCurveOut,
    RunItem,
    RunOut,
    RunPage,
    RunPath,
    RunsQuery,
    SnapshotOut,
    SnapshotsOut,
    SnapshotsQuery,
)
from api.services import services
from bimt_engine.analysis.graph import Graph
from store import progress, runs
from store.tables import Run

api = Noun("runs", "One network, trained with one seed and one cost strength, and what was found in it.")

T = TypeVar("T")
FIGURE_TYPES = {"svg": "image/svg+xml", "png": "image/png"}
# A figure is opened by itself too; whatever its text says, nothing in it may run.
FIGURE_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


@api.at("get", "/jobs/<string:job_id>/runs", needs=Access.READ, answers={200: RunPage})
def list_runs(path: JobPath) -> Response:
    """The runs of a job, in the order of its seeds and cost strengths."""
    with services().database.read() as rows:
        found = runs.of_job(rows, caller().team_id, path.job_id)
        return answer(RunPage(items=[RunItem.model_validate(row) for row in found]))


@api.at("get", "/runs", needs=Access.READ, answers={200: RunPage})
def list_all_runs(query: RunsQuery) -> Response:
    """The team's runs, newest first."""
    with services().database.read() as rows:
        page = runs.page(
            rows,
            caller().team_id,
            state=query.state,
            min_modules=query.min_modules,
            max_connections=query.max_connections,
            after=key_of(query.after),
            limit=query.limit,
        )
        return answer(RunPage(items=[RunItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("get", "/runs/<string:run_id>", needs=Access.READ, answers={200: RunOut})
def get_run(path: RunPath) -> Response:
    """One run: state, what sums up its evidence, its complete spec."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        item = RunItem.model_validate(run)
        return answer(
            RunOut(
                **item.model_dump(),
                spec=run.spec,
                metrics=runs.body(rows, run.id, "metrics") or {},
                files=[file.name for file in runs.published_files(rows, run.id)],
                figures=[figure.name for figure in runs.figures(rows, run.id)],
            )
        )


@api.at("get", "/runs/<string:run_id>/history", needs=Access.READ, answers={200: HistoryOut})
def run_history(path: RunPath) -> Response:
    """The learning curve, also while it trains."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(HistoryOut(rows=progress.history(rows, run.id)))


@api.at("get", "/runs/<string:run_id>/snapshots", needs=Access.READ, answers={200: SnapshotsOut})
def run_snapshots(path: RunPath, query: SnapshotsQuery) -> Response:
    """The steps of which the network is kept."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        found = progress.snapshots(
            rows, run.id, after=-1 if query.after is None else query.after, limit=query.limit + 1
        )
        items = [SnapshotOut.model_validate(row) for row in found[: query.limit]]
        return answer(SnapshotsOut(items=items, next=items[-1].step if len(found) > query.limit else None))


@api.at(
    "get",
    "/runs/<string:run_id>/graph",
    needs=Access.READ,
    answers={
        200: {
            "description": "OK",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/GraphOut"}},
                "application/graphml+xml": {"schema": {"type": "string"}},
                "text/vnd.graphviz": {"schema": {"type": "string"}},
            },
        }
    },
    problems=(409,),
    models=(GraphOut,),
)
def run_graph(path: RunPath, query: GraphQuery) -> Response:
    """The pruned network: neurons and connections, as JSON (node-link), GraphML or DOT."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        graph = Graph.from_json(_or_not_yet(runs.graph(rows, run.id), run).body)
    if query.connections is not None:
        heaviest = sorted(graph.connections, key=lambda c: (-abs(c.weight), c.source, c.target))[: query.connections]
        graph = replace(graph, connections=tuple(heaviest))
    if query.format == "graphml":
        return _download(graph.to_graphml().encode(), "application/graphml+xml", f"{path.run_id}.graphml")
    if query.format == "dot":
        return _download(graph.to_dot().encode(), "text/vnd.graphviz", f"{path.run_id}.dot")
    return answer(GraphOut.model_validate(graph.to_json()))


@api.at("get", "/runs/<string:run_id>/prune-curve", needs=Access.READ, answers={200: PruneCurveOut}, problems=(409,))
def run_prune_curve(path: RunPath) -> Response:
    """How the loss rises as connections are taken away, smallest first."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(PruneCurveOut(rows=_or_not_yet(runs.body(rows, run.id, "prune_curve"), run)))


@api.at("get", "/runs/<string:run_id>/modules", needs=Access.READ, answers={200: ModulesOut}, problems=(409,))
def run_modules(path: RunPath) -> Response:
    """The modules: their neurons, what they read, what they decide, in words and numbers."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        _or_not_yet(runs.body(rows, run.id, "effects"), run)
        found = [ModuleOut.model_validate(row.body) for row in runs.modules(rows, run.id)]
        return answer(ModulesOut(modules=found, communities=runs.body(rows, run.id, "communities") or {}))


@api.at("get", "/runs/<string:run_id>/effects", needs=Access.READ, answers={200: EffectsOut}, problems=(409,))
def run_effects(path: RunPath) -> Response:
    """What every target loses when a module is set to zero, to its mean, or resampled."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(EffectsOut(effects=_or_not_yet(runs.body(rows, run.id, "effects"), run)))


@api.at(
    "get",
    "/runs/<string:run_id>/figures/<string:name>.<string:suffix>",
    needs=Access.READ,
    answers={
        200: {
            "description": "OK",
            "content": {
                "image/svg+xml": {"schema": {"type": "string"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
def run_figure(path: FigurePath) -> Response:
    """A picture, such as network.svg."""
    here = services()
    file_name = f"{path.name}.{path.suffix}"
    with here.database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        known = {figure.name: figure.sha256 for figure in runs.figures(rows, run.id)}
    if file_name not in known:
        raise Problem(
            "not-found", f"The run has no figure {file_name}; it has {', '.join(sorted(known)) or 'none yet'}."
        )
    response = stored_bytes(known[file_name], FIGURE_TYPES[path.suffix])
    response.headers["Content-Security-Policy"] = FIGURE_SECURITY
    return response


@api.at(
    "get",
    "/runs/<string:run_id>/weights.safetensors",
    needs=Access.READ,
    answers={200: binary("application/octet-stream", "The pruned and refitted network.")},
    problems=(409,),
)
def run_weights(path: RunPath) -> Response:
    """The weights of the pruned network as safetensors; the spec stands in its metadata."""
    here = services()
    with here.database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        files = {file.name: file.sha256 for file in runs.published_files(rows, run.id)}
        sha256 = _or_not_yet(files.get("weights.safetensors"), run)
    response = stored_bytes(sha256, "application/octet-stream")
    response.headers["Content-Disposition"] = f'attachment; filename="{path.run_id}.safetensors"'
    return response


def _or_not_yet(thing: T | None, run: Run) -> T:
    """The thing, or the problem that the run has not come that far."""
    if thing is None:
        raise Problem("conflict", f"The run is {run.state}; this is there when it has succeeded.")
    return thing


def stored_bytes(sha256: str, content_type: str) -> Response:
    """Bytes of the file store. Their name is their hash, so a browser that has them need not fetch them again."""
    response = Response(content_type=content_type)
    response.set_etag(sha256)
    response.headers["Cache-Control"] = "private, max-age=3600"
    if sha256 in request.if_none_match:
        response.status_code = 304
        return response
    response.response = services().files.stream(sha256)
    return response


def _download(content: bytes, content_type: str, name: str) -> Response:
    response = Response(content, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
