"""What was found in a run, as answers: the same whether it is asked for as a run, a version of a model, or by a link.

Whoever calls has decided that the asker may see this run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from flask import Response, request
from sqlalchemy.orm import Session

from api.door import answer
from api.problems import Problem
from api.schemas.runs import EffectsOut, GraphOut, GraphQuery, ModuleOut, ModulesOut
from api.services import services
from bimt_engine.analysis.graph import Graph
from store import runs
from store.tables import Run

T = TypeVar("T")
FIGURE_TYPES = {"svg": "image/svg+xml", "png": "image/png"}
# A figure is opened by itself too; whatever its text says, nothing in it may run.
FIGURE_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"

# How the two are documented. An address that answers with GRAPH names GraphOut among its `models`.
GRAPH: dict[str, Any] = {
    "description": "OK",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/GraphOut"}},
        "application/graphml+xml": {"schema": {"type": "string"}},
        "text/vnd.graphviz": {"schema": {"type": "string"}},
    },
}
FIGURE: dict[str, Any] = {
    "description": "OK",
    "content": {
        "image/svg+xml": {"schema": {"type": "string"}},
        "image/png": {"schema": {"type": "string", "format": "binary"}},
    },
}


def numbers(rows: Session, run: Run) -> dict[str, Any]:
    """`metrics` and `outputs` of a run: its numbers by name, and how well each target is predicted."""
    found = dict(runs.body(rows, run.id, "metrics") or {})
    return {"outputs": found.pop("outputs", []), "metrics": found}


def graph(rows: Session, run: Run, query: GraphQuery, *, name: str, module: str | None = None) -> Response:
    """The pruned network in the format that was asked for; a download is called `name`.

    module   only this module's neurons and what joins them. Raises the problem that there is none of this letter.
    """
    found = graph_of(rows, run)
    if module is not None:
        found = one_module(found, module)
    found = heaviest(found, query.connections)
    if query.format == "graphml":
        return download(found.to_graphml().encode(), "application/graphml+xml", f"{name}.graphml")
    if query.format == "dot":
        return download(found.to_dot().encode(), "text/vnd.graphviz", f"{name}.dot")
    return answer(GraphOut.model_validate(found.to_json()))


def graph_of(rows: Session, run: Run) -> Graph:
    """The pruned network. Raises the problem that it is not there yet."""
    return Graph.from_json(or_not_yet(runs.graph(rows, run.id), run).body)


def heaviest(graph: Graph, count: int | None) -> Graph:
    """The graph with only so many connections, the heaviest; null: with all."""
    if count is None:
        return graph
    kept = sorted(graph.connections, key=lambda c: (-abs(c.weight), c.source, c.target))[:count]
    return replace(graph, connections=tuple(kept))


def one_module(graph: Graph, name: str) -> Graph:
    """The neurons of one module and what joins them. Raises the problem that there is none of this letter."""
    inside = {neuron.id for neuron in graph.neurons if neuron.module == name}
    if not inside:
        letters = ", ".join(sorted({neuron.module for neuron in graph.neurons if neuron.module}))
        raise Problem("not-found", f"There is no module `{name}` in this network; it has {letters or 'none'}.")
    return replace(
        graph,
        neurons=tuple(n for n in graph.neurons if n.id in inside),
        connections=tuple(c for c in graph.connections if c.source in inside and c.target in inside),
    )


def modules(rows: Session, run: Run) -> ModulesOut:
    """The modules, and how the network was parted into them. Raises the problem that they are not there yet."""
    or_not_yet(runs.body(rows, run.id, "effects"), run)
    found = [ModuleOut.model_validate(row.body) for row in runs.modules(rows, run.id)]
    return ModulesOut(modules=found, communities=runs.body(rows, run.id, "communities") or {})


def effects(rows: Session, run: Run) -> EffectsOut:
    """What each module does to each target. Raises the problem that it is not there yet."""
    return EffectsOut(effects=or_not_yet(runs.body(rows, run.id, "effects"), run))


def figure(rows: Session, run: Run, name: str, suffix: str) -> Response:
    """A picture of the run. Raises the problem that it has none of this name."""
    file_name = f"{name}.{suffix}"
    known = {figure.name: figure.sha256 for figure in runs.figures(rows, run.id)}
    if file_name not in known:
        raise Problem(
            "not-found", f"The run has no figure {file_name}; it has {', '.join(sorted(known)) or 'none yet'}."
        )
    response = stored_bytes(known[file_name], FIGURE_TYPES[suffix])
    response.headers["Content-Security-Policy"] = FIGURE_SECURITY
    return response


def file(rows: Session, run: Run, file_name: str, *, name: str) -> Response:
    """A published file, as a download called `name`. Raises the problem that it is not there yet."""
    files = {file.name: file.sha256 for file in runs.published_files(rows, run.id)}
    response = stored_bytes(or_not_yet(files.get(file_name), run), "application/octet-stream")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def or_not_yet(thing: T | None, run: Run) -> T:
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


def download(content: bytes, content_type: str, name: str) -> Response:
    """Some bytes that a browser saves under this name."""
    response = Response(content, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
