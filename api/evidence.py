"""What was found in a run, as answers; the routes are written once and mounted for runs, versions and shared links."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from flask import Response, request
from pydantic import Field
from resvg_py import svg_to_bytes
from sqlalchemy.orm import Session

from api.auth import Access
from api.problems import Problem
from api.routing import Resource, answer, binary
from api.schemas import PRINTABLE, InPath, Query, ResponseModel
from api.services import services
from bimt_engine.analysis.graph import Graph
from store import runs
from store.errors import DamagedFile, NotFound
from store.tables import Run

PartName = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]


class EvidenceQuery(Query):
    """Filters on what was found."""

    min_modules: int | None = Field(default=None, ge=0, le=1_000_000)
    max_modules: int | None = Field(default=None, ge=0, le=1_000_000)
    min_interior_modules: int | None = Field(
        default=None, ge=0, le=1_000_000, description="Supported groups of neurons inside the modules."
    )
    max_connections: int | None = Field(default=None, ge=0, le=1_000_000_000)
    min_modularity: float | None = Field(default=None, ge=-1, le=1, description="Layered modularity Q of the parts.")
    min_selectivity: float | None = Field(default=None, ge=0, le=1, description="Mean over the modules.")
    reads: PartName | None = Field(
        default=None,
        description="An input that a module, or a group inside one, reads. With `moves`: one that does both.",
    )
    moves: PartName | None = Field(
        default=None,
        description="An output that a module moves by 1% of its variance, or that a group inside one moves most.",
    )


class GraphQuery(Query):
    """In which format, and which part of the network."""

    format: Literal["json", "graphml", "dot"] = "json"
    connections: int | None = Field(default=None, ge=0, le=1_000_000, description="Only so many, the heaviest.")
    module: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Za-z0-9]+$")] | None = Field(
        default=None, description="Only this module."
    )


class ScoreOut(ResponseModel):
    """How well one target is predicted, by one network on some rows."""

    r2: float | None = Field(default=None, description="Regression: share of the target's variance explained.")
    recall: float | None = Field(
        default=None, description="Classes: share of its rows that are predicted as this class."
    )
    precision: float | None = Field(
        default=None, description="Classes: share of the rows predicted as this class that belong to it."
    )
    mistaken: float | None = Field(
        default=None,
        description="Classes: share of all other rows that are predicted as this class (false-positive rate).",
    )
    standard_error: float | None = Field(
        default=None,
        description="Of what is gained over a constant answer: of its squared errors less the network's, as a share of "
        "the variance, or of `recall` − `mistaken`.",
    )
    learnt: bool | None = Field(
        default=None,
        description="Whether that gain is above its standard error and `r2`, or `recall` − `mistaken`, at least 0.05; "
        "null: the rows are too few to decide, or all equal.",
    )


class OutputOut(ResponseModel):
    """A target (a number, or one class), and how well it is predicted."""

    output: str
    reached: bool = Field(description="Whether a connection of the pruned network leads to it.")
    learnt: bool | None = Field(
        description="Judged by the pruned network on validation rows; the verdict names what is not learnt."
    )
    measure: Literal["r2", "recall"]
    rows: int = Field(description="Validation rows; for a class, those of this class.")
    pruned: ScoreOut = Field(description="The pruned network, on validation rows.")
    trained: ScoreOut = Field(description="The network as trained, before it was pruned, on the same rows.")
    trained_on_training_rows: ScoreOut = Field(
        description="The network as trained, on the rows that it was trained on."
    )
    test: ScoreOut | None = Field(
        default=None,
        description="The pruned network, on test rows, by which nothing was chosen; null: a run of an older version, "
        "whose held-out rows served for validation and test.",
    )


class PruneCurveOut(ResponseModel):
    """How the loss rises as connections go: one row for each size of network."""

    rows: list[dict[str, Any]]


class ModuleOut(ResponseModel):
    """A cluster of neurons, what it reads and what it decides."""

    name: str
    neurons: list[str] = Field(default=[])
    inputs: list[str] = Field(default=[])
    outputs: list[str] = Field(default=[])
    connections: int = 0
    effects: dict[str, Any] = Field(
        default={},
        description="For each target: the share of its variance that changes when the module is set to `zero`, to its "
        "`mean`, or to values from other examples (`resample`) in the pruned network, where modules are separate by "
        "construction; and when the same neurons are set to their mean in the network as trained, before it was pruned "
        "(`trained`). `p`: how often a random group of its size does as well for this target in the pruned network; "
        "`p_holm`: the same, corrected (Holm) for the number of modules and targets tested. The verdict and the "
        "sentence use `p_holm`.",
    )
    selectivity: float | None = None
    sufficiency: float | None = Field(
        default=None, description="Share of its outputs that is left when only this module is kept."
    )
    trained_effect: float | None = Field(
        default=None,
        description="In the network as trained, the share of an output's variance that changes without its neurons, "
        "the least over the outputs of the module; at least 0.5 for a supported module.",
    )
    trained_leak: float | None = Field(
        default=None,
        description="The same for outputs of other modules, the greatest; below 0.01 for a supported module. Null: "
        "there are no others.",
    )
    supported: bool | None = Field(
        default=None, description="Whether it passed every test: in the pruned network, against chance, and as trained."
    )
    verdict: str | None = Field(
        default=None,
        description="supported, not supported, not testable (too few neurons have connections to rule out chance), or "
        "one piece (there is no other module); null in older runs.",
    )
    why_not: str | None = Field(default=None, description="Why it is not supported.")
    random_groups: int | None = Field(
        default=None, description="Groups of neurons of its size that it was compared with."
    )
    reading: str = Field(default="", description="All of this in one sentence.")


class ModulesOut(ResponseModel):
    """The modules of a run, and the communities."""

    modules: list[ModuleOut]
    communities: dict[str, Any] = Field(default={})


class EffectsOut(ResponseModel):
    """What each module does to each target."""

    effects: dict[str, Any] = Field(
        description="`modules` are the rows of every matrix and `outputs` its columns. `matrices` (`zero`, `mean`, "
        "`resample`): the share of the output's variance that changes when the module is ablated this way; `judged_by` "
        "says which of them decides the verdict; all are of the pruned network, where modules are separate by "
        "construction. `trained`: the same in the network as trained, before pruning. `p`: the share of "
        "`random_groups` groups of equal size that change an output of the module as much and the others as little, or "
        "that change another output as little; `p_holm`: the same, corrected (Holm) for the number of tests, which is "
        "what the verdict uses. `selectivity`, `sufficiency`, `interaction` and `upstream` are described with the "
        "modules; `limits` are those of the verdict."
    )


class InteriorOut(ResponseModel):
    """The groups of neurons inside the modules."""

    interior: dict[str, Any] | None = Field(
        description="Null in runs for which it was not computed. `partitions` of the hidden neurons up to a `layer` "
        "into separate `groups`; `kind` `sum`: the outputs add up what the groups compute, `composition`: later layers "
        "combine it. For each two groups the `interaction`, the largest over the outputs, as a share of its variance, "
        "and the same in the network as trained (`trained_interaction`); `leak`: share of what neurons read that comes "
        "from terminals of other groups; `p` among `random_partitions` of the same sizes; `verdict` and `why_not`. A "
        "group has its `neurons`, what it `reads`, what holding it at its mean does to the outputs (`effects`, "
        "`strongest`), the directions in which it changes them (`says`), where the data are the products of a group "
        "the irreducible representations that it `lies_in`, and for perceptrons on plain numbers the formulas of what "
        "it adds to the outputs (`computes`, up to a constant). `primary`: the number of the partition that is drawn. "
        "`layers`: groups and trees at each depth. `cuts`: the cheapest connections without which one module becomes "
        "several parts. `tied_by`: over a token embedding, what puts neurons into one group: similar functions of the "
        "token (`common_functions`), any two equal functions (`functions`), or, in documents without the field, common "
        "dimensions. `reading` says it in words."
    )


class GraphOut(ResponseModel):
    """The pruned network as a node-link document."""

    format: str
    directed: bool
    multigraph: bool
    graph: dict[str, Any]
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


T = TypeVar("T")
Reply = Callable[[Session, Run, str, Any], Response]
FIGURE_TYPES = {"svg": "image/svg+xml", "png": "image/png"}
DOTS_PER_INCH = 160  # of a PNG: sharp on a screen with twice the usual density
# A figure may be opened by itself; no script in it may run.
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
WEIGHTS = binary("application/octet-stream", "The pruned and refitted network.")
NETWORK_FILE = binary("application/octet-stream", "The file that was uploaded, with the numbers of the pruned network.")


def numbers(rows: Session, run: Run) -> dict[str, Any]:
    """`metrics` and `outputs` of a run: its numbers by name, and how well each target is predicted."""
    found = dict(runs.body(rows, run.id, "metrics") or {})
    return {"outputs": found.pop("outputs", []), "metrics": found}


def graph_of(rows: Session, run: Run) -> Graph:
    """The pruned network, with what people call its parts. Raises the problem that it is not there yet."""
    found = Graph.from_json(or_not_yet(runs.graph(rows, run.id), run).body)
    given = {part: {"name": of["name"], "note": of["note"]} for part, of in runs.names(rows, run.id).items()}
    return replace(found, meta={**found.meta, "names": given}) if given else found


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


def or_not_yet(found: T | None, run: Run) -> T:
    """What was found, or the problem that the run has not come that far."""
    if found is None:
        raise Problem("conflict", f"The run is {run.state}; this is there when it has succeeded.")
    return found


def stored_bytes(sha256: str, content_type: str, what: str = "file") -> Response:
    """Bytes of the file store, checked before the status is sent. A browser that has them is answered with 304.

    what   the name of the file, for the problem that it is missing or damaged
    """
    response = _unless_known(sha256, content_type)
    if response.status_code != 304:
        response.content_length, response.response = open_stored(sha256, what)
    return response


def _unless_known(etag: str, content_type: str) -> Response:
    """A response without its bytes yet; 304 where the browser has those of this ETag already."""
    response = Response(content_type=content_type, status=304 if etag in request.if_none_match else 200)
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def figure_names(rows: Session, run_id: str) -> list[str]:
    """The figures of a run, each as SVG and as PNG."""
    stored = {figure.name for figure in runs.figures(rows, run_id)}
    return sorted(stored | {name.removesuffix(".svg") + ".png" for name in stored if name.endswith(".svg")})


def figure_response(rows: Session, run_id: str, name: str) -> Response:
    """One figure. Runs have theirs stored as SVG; a PNG is made when it is asked for, unless an older run has it."""
    stored = {figure.name: figure.sha256 for figure in runs.figures(rows, run_id)}
    stem, _, suffix = name.rpartition(".")
    sha256 = stored.get(name) or stored.get(f"{stem}.svg")
    if sha256 is None:
        raise Problem(
            "not-found",
            f"The run has no figure {name}; it has {', '.join(figure_names(rows, run_id)) or 'none yet'}.",
        )
    if name in stored:
        response = stored_bytes(sha256, FIGURE_TYPES[suffix], name)
    else:
        response = _unless_known(f"{sha256}-png", FIGURE_TYPES["png"])
        if response.status_code != 304:
            response.data = png_of(b"".join(open_stored(sha256, name)[1]))
    response.headers["Content-Security-Policy"] = FIGURE_SECURITY
    return response


def png_of(svg: bytes) -> bytes:
    """A figure of the engine as PNG on white. Its letters are outlines, so no fonts are looked for."""
    found: bytes = svg_to_bytes(svg_string=svg.decode(), background="white", dpi=DOTS_PER_INCH, skip_system_fonts=True)
    return found


def open_stored(sha256: str, what: str) -> tuple[int, Iterator[bytes]]:
    """(size, chunks) of a stored file. Raises the problem that it is missing or damaged; `what` is its name."""
    try:
        return services().files.open(sha256)
    except NotFound:
        sentence = f"The stored file `{what}` is missing; an admin can restore it from a backup."
        raise Problem("file-missing", sentence) from None
    except DamagedFile:
        sentence = f"The stored file `{what}` is damaged; an admin can restore it from a backup."
        raise Problem("file-damaged", sentence) from None


def stored_download(sha256: str, what: str, name: str) -> Response:
    """A stored file, called `what`, that a browser saves under this name. Raises as `open_stored`."""
    size, chunks = open_stored(sha256, what)
    response = Response(chunks, content_type="application/octet-stream", direct_passthrough=True)
    response.content_length = size
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.set_etag(sha256)
    return response


def download(content: bytes, content_type: str, name: str) -> Response:
    """Some bytes that a browser saves under this name."""
    response = Response(content, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


# --- the routes -----------------------------------------------------------------------------------------------

OF_A_LINK = ("graph", "modules", "interior", "effects", "figure")  # what a shared link shows
ALL = (*OF_A_LINK, "prune_curve", "weights", "network_file")


def mount(
    api: Resource,
    at: str,
    *,
    prefix: str,
    path: type[InPath],
    requires: Access,
    find: Callable[[Session, Any], tuple[Run, str]],
    only: tuple[str, ...] = ALL,
    finish: Callable[[Response], Response] = lambda response: response,
) -> None:
    """Declare the evidence routes below one address.

    prefix   begins the operation ids, such as `run` in `run_graph`
    path     the model of the address's parameters
    find     (rows, path) → the run, and the name that its downloads have. Raises NotFound.
    finish   what is done to every response
    """

    class FigurePath(path):  # type: ignore[misc, valid-type]
        """A figure of this run."""

        name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}$")]
        suffix: Literal["svg", "png"]

    def declare(name: str, rule: str, documented: Any, **parameters: Any) -> Callable[[Reply], Reply]:
        """The decorator of one route; `parameters`: the models of path and query where they are not the usual ones."""

        def decorate(reply: Reply) -> Reply:
            def view(path: Any, query: Any = None) -> Response:
                with services().database.read() as rows:
                    run, called = find(rows, path)
                    return finish(reply(rows, run, called, path if query is None else query))

            view.__name__, view.__doc__ = f"{prefix}_{name}", reply.__doc__
            view.__annotations__ = {"path": path, **parameters}
            models = (GraphOut,) if name == "graph" else ()
            api.route(
                "get", f"{at}/{rule}", requires=requires, answers={200: documented}, problems=(409, 410), models=models
            )(view)
            return reply

        return decorate if name in only else lambda reply: reply

    @declare("graph", "graph", GRAPH, query=GraphQuery)
    def graph(rows: Session, run: Run, called: str, query: GraphQuery) -> Response:
        """The pruned network or one module of it, as JSON (node-link), GraphML or DOT."""
        found = graph_of(rows, run)
        if query.module is not None:
            found = one_module(found, query.module)
        found = heaviest(found, query.connections)
        if query.format == "graphml":
            return download(found.to_graphml().encode(), "application/graphml+xml", f"{called}.graphml")
        if query.format == "dot":
            return download(found.to_dot().encode(), "text/vnd.graphviz", f"{called}.dot")
        return answer(GraphOut.model_validate(found.to_json()))

    @declare("prune_curve", "prune-curve", PruneCurveOut)
    def prune_curve(rows: Session, run: Run, called: str, path: Any) -> Response:
        """How the loss rises as connections are taken away, smallest first."""
        curve = runs.body(rows, run.id, "prune_curve")
        if curve is None and run.state == "succeeded":
            curve = []  # nothing was pruned
        return answer(PruneCurveOut(rows=or_not_yet(curve, run)))

    @declare("modules", "modules", ModulesOut)
    def modules(rows: Session, run: Run, called: str, path: Any) -> Response:
        """The modules: their neurons, what they read, what they decide, in words and numbers."""
        or_not_yet(runs.body(rows, run.id, "effects"), run)
        found = [ModuleOut.model_validate(row.body) for row in runs.modules(rows, run.id)]
        return answer(ModulesOut(modules=found, communities=runs.body(rows, run.id, "communities") or {}))

    @declare("interior", "interior", InteriorOut)
    def interior(rows: Session, run: Run, called: str, path: Any) -> Response:
        """The groups of neurons inside the modules, how each partition was tested, and the cheapest cuts."""
        found = runs.body(rows, run.id, "interior")
        return answer(InteriorOut(interior=found if run.state == "succeeded" else or_not_yet(found, run)))

    @declare("effects", "effects", EffectsOut)
    def effects(rows: Session, run: Run, called: str, path: Any) -> Response:
        """What every target loses when a module is set to zero, to its mean, or resampled."""
        return answer(EffectsOut(effects=or_not_yet(runs.body(rows, run.id, "effects"), run)))

    @declare("figure", "figures/<string:name>.<string:suffix>", FIGURE, path=FigurePath)
    def figure(rows: Session, run: Run, called: str, path: FigurePath) -> Response:
        """A picture, such as network.svg."""
        return figure_response(rows, run.id, f"{path.name}.{path.suffix}")

    @declare("weights", "weights.safetensors", WEIGHTS)
    def weights(rows: Session, run: Run, called: str, path: Any) -> Response:
        """The weights of the pruned network as safetensors; the spec stands in its metadata."""
        files = {file.name: file.sha256 for file in runs.published_files(rows, run.id)}
        sha256 = or_not_yet(files.get("weights.safetensors"), run)
        response = stored_bytes(sha256, "application/octet-stream", "weights.safetensors")
        response.headers["Content-Disposition"] = f'attachment; filename="{called}.safetensors"'
        return response

    @declare("network_file", "network", NETWORK_FILE)
    def network_file(rows: Session, run: Run, called: str, path: Any) -> Response:
        """The pruned network in the format in which it was uploaded, ONNX or safetensors, all else as it was."""
        form = run.spec["network"].get("format")
        if form is None:
            raise Problem(
                "conflict", "This network was not uploaded; /weights.safetensors and /model.onnx are its files."
            )
        files = {file.name: file.sha256 for file in runs.published_files(rows, run.id)}
        sha256 = or_not_yet(files.get(f"network.{form}"), run)
        response = stored_bytes(sha256, "application/octet-stream", f"network.{form}")
        response.headers["Content-Disposition"] = f'attachment; filename="{called}-network.{form}"'
        return response
