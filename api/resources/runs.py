"""Addresses of runs: one trained network and everything that was found in it."""

from __future__ import annotations

from flask import Response

from api import bundles, cards, evidence
from api.auth import Access, caller
from api.door import Noun, answer, binary, markdown, text
from api.evidence import or_not_yet
from api.paging import cursor, key_of
from api.schemas.base import PageQuery
from api.schemas.jobs import JobPath
from api.schemas.runs import (
    EffectsOut,
    FigurePath,
    GraphOut,
    GraphQuery,
    HistoryOut,
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
from store import progress, runs

api = Noun("runs", "One network, trained with one seed and one cost strength, and what was found in it.")

# What runs are searched by, as store.runs.with_evidence names it.
EVIDENCE = {
    "min_modules",
    "max_modules",
    "max_connections",
    "min_modularity",
    "min_selectivity",
    "method",
    "dataset_kind",
}


@api.at("get", "/jobs/<string:job_id>/runs", needs=Access.READ, answers={200: RunPage})
def list_runs(path: JobPath, query: PageQuery) -> Response:
    """The runs of a job, in the order of its seeds and cost strengths."""
    with services().database.read() as rows:
        page = runs.page_of_job(rows, caller().team_id, path.job_id, after=key_of(query.after), limit=query.limit)
        return answer(RunPage(items=[RunItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("get", "/runs", needs=Access.READ, answers={200: RunPage})
def list_all_runs(query: RunsQuery) -> Response:
    """The team's runs, newest first, narrowed to those in which so much was found."""
    with services().database.read() as rows:
        page = runs.page(
            rows,
            caller().team_id,
            state=query.state,
            **query.model_dump(include=EVIDENCE),
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
                **evidence.numbers(rows, run),
                spec=run.spec,
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
    answers={200: evidence.GRAPH},
    problems=(409,),
    models=(GraphOut,),
)
def run_graph(path: RunPath, query: GraphQuery) -> Response:
    """The pruned network: neurons and connections, as JSON (node-link), GraphML or DOT."""
    with services().database.read() as rows:
        return evidence.graph(rows, runs.get(rows, caller().team_id, path.run_id), query, name=path.run_id)


@api.at("get", "/runs/<string:run_id>/prune-curve", needs=Access.READ, answers={200: PruneCurveOut}, problems=(409,))
def run_prune_curve(path: RunPath) -> Response:
    """How the loss rises as connections are taken away, smallest first."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(PruneCurveOut(rows=or_not_yet(runs.body(rows, run.id, "prune_curve"), run)))


@api.at("get", "/runs/<string:run_id>/modules", needs=Access.READ, answers={200: ModulesOut}, problems=(409,))
def run_modules(path: RunPath) -> Response:
    """The modules: their neurons, what they read, what they decide, in words and numbers."""
    with services().database.read() as rows:
        return answer(evidence.modules(rows, runs.get(rows, caller().team_id, path.run_id)))


@api.at("get", "/runs/<string:run_id>/effects", needs=Access.READ, answers={200: EffectsOut}, problems=(409,))
def run_effects(path: RunPath) -> Response:
    """What every target loses when a module is set to zero, to its mean, or resampled."""
    with services().database.read() as rows:
        return answer(evidence.effects(rows, runs.get(rows, caller().team_id, path.run_id)))


@api.at(
    "get",
    "/runs/<string:run_id>/figures/<string:name>.<string:suffix>",
    needs=Access.READ,
    answers={200: evidence.FIGURE},
)
def run_figure(path: FigurePath) -> Response:
    """A picture, such as network.svg."""
    with services().database.read() as rows:
        return evidence.figure(rows, runs.get(rows, caller().team_id, path.run_id), path.name, path.suffix)


@api.at(
    "get",
    "/runs/<string:run_id>/weights.safetensors",
    needs=Access.READ,
    answers={200: binary("application/octet-stream", "The pruned and refitted network.")},
    problems=(409,),
)
def run_weights(path: RunPath) -> Response:
    """The weights of the pruned network as safetensors; the spec stands in its metadata."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return evidence.file(rows, run, "weights.safetensors", name=f"{path.run_id}.safetensors")


@api.at(
    "get",
    "/runs/<string:run_id>/card.md",
    needs=Access.READ,
    answers={200: text("text/markdown", "The card, in Markdown.")},
    problems=(409,),
)
def run_card(path: RunPath) -> Response:
    """The card: what was found, in words and numbers, and how it was trained."""
    with services().database.read() as rows:
        return markdown(cards.of_run(rows, runs.get(rows, caller().team_id, path.run_id)))


@api.at(
    "get",
    "/runs/<string:run_id>/bundle.zip",
    needs=Access.READ,
    answers={200: binary("application/zip", "Spec, weights, graph, modules, effects, curves, figures, card.")},
    problems=(409,),
)
def run_bundle(path: RunPath) -> Response:
    """Everything that was found in one file, with the SHA-256 of each part in manifest.json."""
    with services().database.read() as rows:
        return bundles.sent(bundles.of_run(rows, runs.get(rows, caller().team_id, path.run_id)), path.run_id)
