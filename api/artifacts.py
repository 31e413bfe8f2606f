"""Artifacts: films, exports and summaries, made when they are first requested and then stored."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

import safetensors
import safetensors.numpy
from flask import Response
from pydantic import Field

from api import evidence
from api.auth import Access, caller
from api.evidence import or_not_yet
from api.jobs import JobPath
from api.operations import NOT_YET, OperationOut, WaitQuery, ask, not_yet, succeeded, unless_failed
from api.problems import Problem
from api.routing import Resource, answer, binary
from api.runs import RunPath
from api.schemas import ResponseModel, RunId
from api.services import services
from store import jobs, runs
from store.tables import Run


class ModuleFilePath(RunPath):
    """Which module of which run."""

    module: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,15}$")]


class SnapshotPath(RunPath):
    """Which step of which run."""

    step: Annotated[int, Field(ge=0, le=2**53)]


class JobFigurePath(JobPath):
    """Which job, and in which format."""

    suffix: Literal["svg", "png"]


class ParetoQuery(WaitQuery):
    """What counts as harmless."""

    tolerance: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="How far above the best a harmless loss may be, as a share of Var(y); null: as far as pruning was "
        "allowed to raise it, the runs' `evidence.tolerance`.",
    )


class Numbers(ResponseModel):
    """An array: flat, the last axis running fastest."""

    shape: list[int]
    values: list[float]


class SnapshotWeights(ResponseModel):
    """The network at one step."""

    step: int
    weights: dict[str, Numbers] = Field(description="By parameter, in slot order.")
    orders: dict[str, list[int]] = Field(description="By neuron layer: which neuron sits in each slot.")
    layers: list[dict[str, Any]] | None = Field(
        default=None,
        description="Neuron layers with `neurons`, `copies` and `positions` of the slots; null in older snapshots.",
    )
    connections: list[dict[str, Any]] | None = Field(
        default=None, description="For each weight matrix the layers that it joins: `parameter`, `source`, `target`."
    )


class ReadoutOut(ResponseModel):
    """The network as formulas."""

    readout: dict[str, Any] = Field(
        description="`units`: `data`, raw columns in and raw targets out, or `scores`, raw columns in and scores of "
        "classes out; absent in runs that were read out in the units the network was trained in. The formula of an "
        "output has two verdicts, `meets_network` and `meets_data`, and is `better_than_network` where it fits the "
        "data better; `accepted` is `meets_network` or `better_than_network`. Runs of earlier versions have `accepted` "
        "alone, and it meant what `meets_network` means."
    )


class RepresentationsOut(ResponseModel):
    """What a network that multiplies in a group holds of the group's irreducible representations."""

    representations: dict[str, Any] | None = Field(
        description="Null where the data are not the products of a group. `names`, `dimensions`, `types`, `kernels` "
        "(numbers of elements), `subspaces` (dimensions within all functions on the group) and `characters` (on the "
        "classes of `group`) are of the representations, in one order, which `shares` of a variance have too. "
        "`embedding`: of its dimensions and of all `together`. `neurons`, by id: of the mean activation over the pairs "
        "with the same `product`; of those that read tokens as a function of `a` and of `b` too. `reading` says it in "
        "sentences."
    )


class EmbeddingOut(ResponseModel):
    """What a network has learned about its tokens."""

    tokens: list[str]
    dimensions: list[dict[str, Any]] = Field(description="slot, neuron, and whether the network still reads it.")
    vectors: list[list[float]]
    planes: list[dict[str, Any]] = Field(
        description="Their parts in the irreducible representations that hold the most: name, frequency (for a cyclic "
        "group; else null), share of the variance, points of the tokens along one to three directions."
    )


class ProbeOut(ResponseModel):
    """A network that a browser can run, with examples."""

    format: str
    network: dict[str, Any]
    task: str
    loss: str
    features: list[str]
    targets: list[str]
    tokens: int | None
    input_scaling: dict[str, list[float]] | None
    target_scaling: dict[str, list[float]] | None
    layers: list[dict[str, Any]]
    connections: list[dict[str, Any]]
    parameters: dict[str, Numbers]
    orders: dict[str, list[int]]
    steps: list[int] | None = Field(default=None, description="For sequences: the steps whose outputs count.")
    output_weights: list[float] | None = Field(
        default=None, description="What the squared error of each output is multiplied by; null: 1 each."
    )
    label_groups: list[list[int]] = Field(default=[], description="Outputs of which the largest is the answer.")
    means: dict[str, list[list[float]]] | None = Field(
        default=None,
        description="What an intervention `mean` holds the places of each neuron layer at: a list for each time that "
        "its activation is computed, such as each time step. Null in probes of an older version, and of networks "
        "that a browser does not compute.",
    )
    examples: dict[str, Any]


class ParetoPoint(ResponseModel):
    """One run of a sweep."""

    run: RunId
    cost_strength: float | None
    seed: int
    loss: float | None = Field(
        description="Prediction loss of this run on the rows that `rows` names. Each seed draws a split of its own "
        "where one is drawn, so runs of different seeds are held to different rows."
    )
    test_loss: float | None = Field(default=None, description="The same on test rows, which nothing is chosen by.")
    wiring: float | None = Field(description="Connection cost.")
    connections: int | None
    modularity: float | None
    efficient: bool = Field(description="No other run is better in loss or wiring and as good in the other.")


class CostStrengthOut(ResponseModel):
    """What one cost strength comes to over its seeds."""

    cost_strength: float
    runs: int
    empty: int = Field(description="Runs that kept no connection.")
    loss: float = Field(description="Median.")
    lowest_loss: float
    highest_loss: float
    times_best: float | None = Field(description="The median loss over the best one; null: the best one is 0.")
    test_loss: float | None = Field(default=None, description="Median on test rows, which nothing is chosen by.")
    wiring: float = Field(description="Median.")
    connections: float | None = Field(description="Median.")
    harmless: bool = Field(description="The median loss is within the tolerance of the best one.")


class ParetoOut(ResponseModel):
    """What a shorter wiring costs in loss."""

    points: list[ParetoPoint]
    knee: ParetoPoint | None
    suggested_cost_strength: float | None = Field(
        description="The largest λ whose median loss is still harmless. `cost_strengths: auto` asks for this choice."
    )
    cost_strengths: list[CostStrengthOut] = Field(default=[], description="From the smallest λ on.")
    tolerance: float | None = None
    rows: str | None = Field(
        default=None, description="Which rows `loss` is of: `validation`, or `held-out` of runs without such rows."
    )
    reading: str | None = Field(default=None, description="How many runs kept no connection; null: all kept some.")


class StabilityOut(ResponseModel):
    """How far the runs of a job agree."""

    stability: dict[str, Any] = Field(
        description="`empty`: runs that kept no connection. `agreement`: runs that divide inputs and outputs in the "
        "most common way, `partition`. For each of `modules`, `met_in` counts the runs with a module that moves some "
        "of the same outputs, `same_ends_in` those whose module has exactly the same inputs and outputs, and "
        "`supported_in` those of these in which it is supported. `interior`: of the `examined` runs, `counted_in` have "
        "this number of supported `groups` inside their modules, and `same_roles_in` of these have the same `roles`: "
        "what they read and move, or their irreducible representation. `reading` says it in sentences."
    )


ORDER = "order."  # begins the names of neuron orders in a snapshot


def snapshot_geometry(content: bytes) -> dict[str, Any]:
    """`layers` and `connections` of a snapshot that `read_snapshot` can read; empty in those of older versions."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = json.loads(header.get("__metadata__", {}).get("bimt", "{}")).get("geometry") or {}
    return {name: found.get(name) for name in ("layers", "connections")}


def read_snapshot(content: bytes) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """(parameter → {"shape", "values"}, neuron layer → neuron in each slot); seven digits, the last axis fastest.

    Raises the problem of bytes that are not such a file.
    """
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise Problem("conflict", "The stored snapshot cannot be read; restore it from a backup.") from error
    weights: dict[str, Any] = {}
    orders: dict[str, list[int]] = {}
    for name, array in sorted(arrays.items()):
        if name.startswith(ORDER):
            orders[name.removeprefix(ORDER)] = array.tolist()
        else:
            values = [float(f"{value:.7g}") for value in array.ravel().tolist()]
            weights[name] = {"shape": list(array.shape), "values": values}
    return weights, orders


api = Resource("artifacts", "Films, exports and summaries of a run or a job, made when first requested, then stored.")

OCTETS = "application/octet-stream"
MAKING: dict[str, Any] = {"requires": Access.READ, "problems": (409, 410), "models": (OperationOut,)}


@api.route("get", "/runs/<string:run_id>/model.onnx", answers={200: binary(OCTETS, "ONNX."), 202: NOT_YET}, **MAKING)
def run_onnx(path: RunPath, query: WaitQuery) -> Response:
    """The pruned network for other programs: raw columns as `x`, in the order of the data; what it predicts as `y`."""
    return _file(path.run_id, "onnx", "model.onnx", OCTETS, query.wait)


@api.route(
    "get", "/runs/<string:run_id>/film.mp4", answers={200: binary("video/mp4", "H.264."), 202: NOT_YET}, **MAKING
)
def run_film(path: RunPath, query: WaitQuery) -> Response:
    """The training as a film: connections fade and grow, neurons change places."""
    return _file(path.run_id, "film", "film.mp4", "video/mp4", query.wait)


@api.route(
    "get", "/runs/<string:run_id>/film.gif", answers={200: binary("image/gif", "Smaller."), 202: NOT_YET}, **MAKING
)
def run_film_for_slides(path: RunPath, query: WaitQuery) -> Response:
    """The same film for slides."""
    return _file(path.run_id, "film", "film.gif", "image/gif", query.wait)


@api.route("get", "/runs/<string:run_id>/probe", answers={200: ProbeOut, 202: NOT_YET}, **MAKING)
def run_probe(path: RunPath, query: WaitQuery) -> Response:
    """The pruned network and at most 2 000 examples as one document, for a browser that runs the network itself."""
    return _file(path.run_id, "probe", "probe.json", "application/json", query.wait)


@api.route(
    "get",
    "/runs/<string:run_id>/modules/<string:module>/weights.safetensors",
    answers={200: binary(OCTETS, "A weights file."), 202: NOT_YET},
    **MAKING,
)
def module_weights(path: ModuleFilePath, query: WaitQuery) -> Response:
    """One module alone as a network of its own, which reads its inputs and gives its outputs.

    Of a group inside a module (A2): what it adds to the outputs that it leads to.
    """
    return _module(path, "safetensors", query.wait)


@api.route(
    "get",
    "/runs/<string:run_id>/modules/<string:module>/model.onnx",
    answers={200: binary(OCTETS, "ONNX."), 202: NOT_YET},
    **MAKING,
)
def module_onnx(path: ModuleFilePath, query: WaitQuery) -> Response:
    """One module alone for other programs: the raw columns that it reads as `x`, the targets that it decides as `y`.

    Of a group inside a module (A2), `y` is what it adds to the outputs that it leads to.
    """
    return _module(path, "onnx", query.wait)


@api.route("get", "/runs/<string:run_id>/readout", requires=Access.READ, answers={200: ReadoutOut}, problems=(409,))
def run_readout(path: RunPath) -> Response:
    """The network as formulas in the units of the data, where some were accepted, its symmetries; where not, why."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(ReadoutOut(readout=or_not_yet(runs.body(rows, run.id, "readout"), run)))


@api.route(
    "get",
    "/runs/<string:run_id>/representations",
    requires=Access.READ,
    answers={200: RepresentationsOut},
    problems=(409,),
)
def run_representations(path: RunPath) -> Response:
    """In which irreducible representations of the data's group its embedding and its hidden neurons lie."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        found = runs.body(rows, run.id, "representations")
    if run.state != "succeeded":
        or_not_yet(found, run)
    return answer(RepresentationsOut(representations=found))


@api.route("get", "/runs/<string:run_id>/embedding", answers={200: EmbeddingOut, 202: NOT_YET}, **MAKING)
def run_embedding(path: RunPath, query: WaitQuery) -> Response:
    """The vector of each token, the dimensions that the network still reads, and their parts by representation."""
    run = succeeded(path.run_id, "this can be made")
    with services().database.read() as rows:
        kept = runs.body(rows, run.id, "embedding")
    if kept is None:
        outcome = unless_failed(ask("embedding", {"run_id": run.id}, about=run.id, wait=query.wait, once=True), 409)
        if not outcome.is_final:
            return not_yet(outcome)
        kept = outcome.answer
    return answer(EmbeddingOut.model_validate(kept))


@api.route(
    "get",
    "/runs/<string:run_id>/snapshots/<int:step>",
    requires=Access.READ,
    answers={200: SnapshotWeights},
    problems=(409,),
)
def run_snapshot(path: SnapshotPath) -> Response:
    """The network at one step of its training: its weights, and which neuron is in which slot."""
    here = services()
    with here.database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        found = runs.snapshots(rows, run.id, after=path.step - 1, limit=1)
    if not found or found[0].step != path.step:
        raise Problem("not-found", f"There is no snapshot of step {path.step}; /snapshots lists those that there are.")
    _, chunks = evidence.open_stored(found[0].sha256, f"snapshot {path.step}")
    content = b"".join(chunks)
    weights, orders = read_snapshot(content)
    return answer(SnapshotWeights(step=path.step, weights=weights, orders=orders, **snapshot_geometry(content)))


@api.route("get", "/jobs/<string:job_id>/pareto", answers={200: ParetoOut, 202: NOT_YET}, **MAKING)
def job_pareto(path: JobPath, query: ParetoQuery) -> Response:
    """Loss, wiring and modularity of its runs: the Pareto front, its knee, and the largest harmless λ."""
    found = _of_job(path.job_id, "pareto", query.wait, tolerance=query.tolerance)
    return found if isinstance(found, Response) else answer(ParetoOut.model_validate(found))


@api.route(
    "get",
    "/jobs/<string:job_id>/figures/pareto.<string:suffix>",
    answers={200: evidence.FIGURE, 202: NOT_YET},
    **MAKING,
)
def job_pareto_figure(path: JobFigurePath, query: WaitQuery) -> Response:
    """Loss against wiring of its runs as a picture: a dot for each run, the Pareto front joined."""
    found = _of_job(path.job_id, "pareto", query.wait, figure="pareto.svg", tolerance=None)
    if isinstance(found, Response):
        return found
    if found is None:
        raise Problem("not-found", "There is no picture: fewer than two runs of the job can be compared.")
    svg = base64.b64decode(found)
    drawn = svg if path.suffix == "svg" else evidence.png_of(svg)
    response = Response(drawn, content_type=evidence.FIGURE_TYPES[path.suffix])
    response.headers["Content-Security-Policy"] = evidence.FIGURE_SECURITY
    return response


@api.route("get", "/jobs/<string:job_id>/stability", answers={200: StabilityOut, 202: NOT_YET}, **MAKING)
def job_stability(path: JobPath, query: WaitQuery) -> Response:
    """How far its runs agree: the modules and connections that recur."""
    found = _of_job(path.job_id, "stability", query.wait)
    return found if isinstance(found, Response) else answer(StabilityOut(stability=found))


def _of_job(job_id: str, kind: str, wait: float, *, figure: str | None = None, **order: Any) -> Any:
    """The document over all runs that have succeeded so far, or the answer that it is being computed.

    figure   the name of the one that is asked for instead, which no order changes; None where there is nothing to draw
    """
    with services().database.read() as rows:
        found = runs.of_job(rows, caller().team_id, job_id)
        run_ids = [run.id for run in found if run.state == "succeeded"]
        kept = jobs.body(rows, job_id, figure or kind)
    if not run_ids:
        raise Problem("conflict", "No run of the job has succeeded yet; this is there when one has.")
    if kept is not None and kept["run_ids"] == run_ids and (figure or kept.get("order") == order):
        return kept["document"]
    asked = {"job_id": job_id, "run_ids": run_ids, "order": order, **order}
    outcome = unless_failed(ask(kind, asked, about=job_id, wait=wait), 409)
    if not outcome.is_final:
        return not_yet(outcome)
    if figure is None:
        return outcome.answer
    with services().database.read() as rows:
        kept = jobs.body(rows, job_id, figure)
    return kept["document"] if kept is not None and kept["run_ids"] == run_ids else None


def _module(path: ModuleFilePath, ending: str, wait: float) -> Response:
    name = f"module-{path.module}.{ending}"
    return _file(path.run_id, "module", name, OCTETS, wait, module=path.module)


def _file(run_id: str, kind: str, name: str, content_type: str, wait: float, **order: Any) -> Response:
    """A file of the run, made now where it was not made before; or the answer that it is being made."""
    run = succeeded(run_id, "this can be made")
    sha256 = _kept(run, name)
    if sha256 is None:
        about = " ".join([run.id, *map(str, order.values())])
        outcome = unless_failed(ask(kind, {"run_id": run.id, **order}, about=about, wait=wait, once=True), 409)
        if not outcome.is_final:
            return not_yet(outcome)
        sha256 = or_not_yet(_kept(run, name), run)
    response = evidence.stored_bytes(sha256, content_type, name)
    if content_type == OCTETS:
        response.headers["Content-Disposition"] = f'attachment; filename="{run.id}-{name}"'
    return response


def _kept(run: Run, name: str) -> str | None:
    with services().database.read() as rows:
        return {file.name: file.sha256 for file in runs.published_files(rows, run.id)}.get(name)
