"""What a job found: its runs, published in one transaction and read by their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session, undefer

from store import files, progress
from store.errors import NotFound
from store.files import StoredFile
from store.identifiers import new_id
from store.leases import Claim, hold
from store.pages import Page, newest_first, oldest_first
from store.tables import Clustering, Effect, Figure, Graph, Job, Module, Run, RunBody, RunFile

EFFECT_KINDS = ("zero", "mean", "resample", "p", "p_holm")


@dataclass(frozen=True)
class RunResult:
    """Everything that a finished run publishes; plain data, and files that already lie in the store.

    metrics       numbers of the run, by name
    summary       test_metric_name, test_metric, connections, modules, modularity, selectivity, connection_cost:
                  what runs are listed and searched by; any may be absent
    graph         {"neurons": int, "connections": int, "body": node-link document}
    clusterings   [{"method", "modules": int, "modularity": float | None, "body": document}]
    modules       [{"name", "neurons": [ids], "connections": int, "selectivity", "sufficiency", "reading",
                  "effects": {target: {"zero", "mean", "resample", "p", "p_holm"}}, …}]; each is kept whole, too
    effects       document: the whole matrix with its controls
    prune_curve   [{…}], one for each removal
    bodies        further documents by name: communities, readout, dataset, extra
    files         {"weights.safetensors": StoredFile, …}
    figures       {"network.svg": StoredFile, …}
    replicas      so many were trained side by side, this one included
    training_seconds, evidence_seconds   of its steps, over all attempts; of its evidence and pictures
    """

    metrics: Mapping[str, Any]
    summary: Mapping[str, Any]
    graph: Mapping[str, Any]
    clusterings: Sequence[Mapping[str, Any]] = ()
    modules: Sequence[Mapping[str, Any]] = ()
    effects: Mapping[str, Any] = field(default_factory=dict)
    prune_curve: Sequence[Mapping[str, Any]] = ()
    bodies: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, StoredFile] = field(default_factory=dict)
    figures: Mapping[str, StoredFile] = field(default_factory=dict)
    stepper: str | None = None
    device: str | None = None
    replicas: int | None = None
    training_seconds: float | None = None
    evidence_seconds: float | None = None


def start(session: Session, claim: Claim, run_id: str, now: datetime) -> None:
    """The claim's attempt begins with this run: `running`, and what lies after its checkpoint is forgotten.

    Raises LostLease; NotFound where the run has ended or belongs to another job.
    """
    hold(session, claim)
    values = {"state": "running", "attempts": Run.attempts + 1, "started_at": func.coalesce(Run.started_at, now)}
    if not _change(session, claim, run_id, ("queued", "running"), values):
        raise NotFound("run", run_id)
    progress.rewind(session, claim, run_id)


def publish(session: Session, claim: Claim, run_id: str, result: RunResult, now: datetime) -> bool:
    """The run has succeeded, with everything that it found, all at once or not at all.

    Files are put into the store before. False where the run was published before: the first result stays.
    Raises LostLease; NotFound where the run was cancelled or belongs to another job.
    """
    hold(session, claim)
    kept = {**result.files, **result.figures}
    values: dict[str, Any] = {
        "state": "succeeded",
        "reason": None,
        "ended_at": now,
        "started_at": func.coalesce(Run.started_at, now),
        "step": func.max(Run.step, Run.steps) if _is_sqlite(session) else func.greatest(Run.step, Run.steps),
        "stepper": result.stepper,
        "device": result.device,
        "replicas": result.replicas,
        "training_seconds": result.training_seconds,
        "evidence_seconds": result.evidence_seconds,
        "bytes": sum(file.bytes for file in kept.values()),
        "checkpoint_sha256": None,  # nobody will go on from here
        "checkpoint_step": None,
    }
    values |= {name: result.summary.get(name) for name in SUMMARY}
    if not _change(session, claim, run_id, ("queued", "running"), values):
        if _state(session, claim, run_id) == "succeeded":
            return False
        raise NotFound("run", run_id)
    _insert_bodies(session, run_id, result)
    _insert_graph(session, run_id, result)
    _insert_modules(session, run_id, result.modules)
    _insert_files(session, run_id, result, now)
    session.execute(
        update(Job)
        .where(Job.id == claim.job_id)
        .values(revision=Job.revision + 1)
        .execution_options(synchronize_session=False)
    )
    return True


def fail(session: Session, claim: Claim, run_id: str, *, reason: str, now: datetime) -> None:
    """This run failed; the job goes on with its others. Failing twice is the same.

    Raises LostLease; NotFound where the run has ended otherwise or belongs to another job.
    """
    hold(session, claim)
    values = {"state": "failed", "reason": reason, "ended_at": now}
    if (
        not _change(session, claim, run_id, ("queued", "running"), values)
        and _state(session, claim, run_id) != "failed"
    ):
        raise NotFound("run", run_id)


def get(session: Session, team_id: str, run_id: str) -> Run:
    """A run of the team, with its spec. Raises NotFound."""
    run = session.scalar(select(Run).where(Run.id == run_id, Run.team_id == team_id).options(undefer(Run.spec)))
    if run is None:
        raise NotFound("run", run_id)
    return run


def of_job(session: Session, team_id: str, job_id: str) -> list[Run]:
    """The runs of a job in their order, without specs. Raises NotFound for the job."""
    rows = list(session.scalars(select(Run).where(Run.job_id == job_id, Run.team_id == team_id).order_by(Run.number)))
    if not rows:
        raise NotFound("job", job_id)
    return rows


def page_of_job(session: Session, team_id: str, job_id: str, *, after: str | None = None, limit: int = 50) -> Page[Run]:
    """The same, page by page. Raises NotFound for the job."""
    query = select(Run).where(Run.job_id == job_id, Run.team_id == team_id)
    page = oldest_first(session, query, Run.number, after=after, limit=limit)
    if not page.rows and session.scalar(query.limit(1)) is None:
        raise NotFound("job", job_id)
    return page


def page(
    session: Session,
    team_id: str,
    *,
    state: str | None = None,
    job_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
    **evidence: Any,
) -> Page[Run]:
    """The team's runs, newest first, without specs. `evidence` is as in `with_evidence`."""
    query = with_evidence(select(Run).where(Run.team_id == team_id), **evidence)
    if state is not None:
        query = query.where(Run.state == state)
    if job_id is not None:
        query = query.where(Run.job_id == job_id)
    return newest_first(session, query, Run.id, after=after, limit=limit)


def with_evidence(
    query: Select[Any],
    *,
    min_modules: int | None = None,
    max_modules: int | None = None,
    max_connections: int | None = None,
    min_modularity: float | None = None,
    min_selectivity: float | None = None,
    method: str | None = None,
    dataset_kind: str | None = None,
    dataset_id: str | None = None,
) -> Select[Any]:
    """The query, narrowed to runs in which so much was found; null asks for nothing."""
    least = ((Run.modules, min_modules), (Run.modularity, min_modularity), (Run.selectivity, min_selectivity))
    most = ((Run.modules, max_modules), (Run.connections, max_connections))
    same = ((Run.method, method), (Run.dataset_kind, dataset_kind))
    query = query.where(*(column >= wanted for column, wanted in least if wanted is not None))
    query = query.where(*(column <= wanted for column, wanted in most if wanted is not None))
    query = query.where(*(column == wanted for column, wanted in same if wanted is not None))
    if dataset_id is not None:
        query = query.where(Run.job_id.in_(select(Job.id).where(Job.dataset_id == dataset_id)))
    return query


def body(session: Session, run_id: str, name: str) -> Any:
    """A document of a run: metrics, prune_curve, effects, communities, readout … None where it has none."""
    return session.scalar(select(RunBody.body).where(RunBody.run_id == run_id, RunBody.name == name))


def bodies(session: Session, run_id: str) -> dict[str, Any]:
    """All documents of a run by name."""
    rows = session.execute(select(RunBody.name, RunBody.body).where(RunBody.run_id == run_id))
    return {name: document for name, document in rows}


def add_body(session: Session, run_id: str, name: str, document: Any) -> None:
    """Keep a document that was worked out later, in place of an older one of that name."""
    session.merge(RunBody(run_id=run_id, name=name, body=document))
    session.flush()


def graph(session: Session, run_id: str) -> Graph | None:
    """The pruned graph with its body; None where the run has not been published."""
    return session.scalar(select(Graph).where(Graph.run_id == run_id).options(undefer(Graph.body)))


def clusterings(session: Session, run_id: str) -> list[Clustering]:
    """The ways to part the graph into modules, with their bodies."""
    query = select(Clustering).join(Graph, Graph.id == Clustering.graph_id).where(Graph.run_id == run_id)
    return list(session.scalars(query.order_by(Clustering.method).options(undefer(Clustering.body))))


def modules(session: Session, run_id: str) -> list[Module]:
    """The modules by name."""
    return list(session.scalars(select(Module).where(Module.run_id == run_id).order_by(Module.name)))


def effects(session: Session, run_id: str) -> list[Effect]:
    """What each module does to each target."""
    query = select(Effect).where(Effect.run_id == run_id)
    return list(session.scalars(query.order_by(Effect.module, Effect.target)))


def figures(session: Session, run_id: str) -> list[Figure]:
    """The pictures by name."""
    return list(session.scalars(select(Figure).where(Figure.run_id == run_id).order_by(Figure.name)))


def figure(session: Session, run_id: str, name: str) -> Figure:
    """One picture. Raises NotFound."""
    found = session.get(Figure, (run_id, name))
    if found is None:
        raise NotFound("figure", name)
    return found


def add_figure(session: Session, run_id: str, name: str, file: StoredFile, *, now: datetime) -> None:
    """Keep a picture or film that was drawn later, in place of an older one of that name."""
    files.remember(session, file, now=now)
    session.merge(Figure(run_id=run_id, name=name, sha256=file.sha256, bytes=file.bytes))
    session.flush()


def published_files(session: Session, run_id: str) -> list[RunFile]:
    """The files by name."""
    return list(session.scalars(select(RunFile).where(RunFile.run_id == run_id).order_by(RunFile.name)))


def published_file(session: Session, run_id: str, name: str) -> RunFile:
    """One file. Raises NotFound."""
    found = session.get(RunFile, (run_id, name))
    if found is None:
        raise NotFound("file", name)
    return found


def add_file(session: Session, run_id: str, name: str, file: StoredFile, *, now: datetime) -> None:
    """Keep a file that was made later, such as the film, in place of an older one of that name; it counts as stored."""
    files.remember(session, file, now=now)
    before = session.get(RunFile, (run_id, name))
    more = file.bytes - (before.bytes if before else 0)
    session.merge(RunFile(run_id=run_id, name=name, sha256=file.sha256, bytes=file.bytes))
    session.execute(
        update(Run).where(Run.id == run_id).values(bytes=Run.bytes + more).execution_options(synchronize_session=False)
    )
    session.flush()


SUMMARY = (
    "test_metric_name",
    "test_metric",
    "connections",
    "modules",
    "modularity",
    "selectivity",
    "connection_cost",
)


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _change(session: Session, claim: Claim, run_id: str, states: Sequence[str], values: dict[str, Any]) -> bool:
    """One conditional UPDATE of one run of the claimed job; whether the condition held."""
    changed = update(Run).where(Run.id == run_id, Run.job_id == claim.job_id, Run.state.in_(states)).values(values)
    changed = changed.execution_options(synchronize_session=False)
    return session.scalar(changed.returning(Run.id)) is not None


def _state(session: Session, claim: Claim, run_id: str) -> str | None:
    return session.scalar(select(Run.state).where(Run.id == run_id, Run.job_id == claim.job_id))


def _insert_bodies(session: Session, run_id: str, result: RunResult) -> None:
    documents = {
        "metrics": dict(result.metrics),
        "effects": dict(result.effects),
        "prune_curve": [dict(row) for row in result.prune_curve],
        **result.bodies,
    }
    session.execute(
        insert(RunBody), [{"run_id": run_id, "name": name, "body": document} for name, document in documents.items()]
    )


def _insert_graph(session: Session, run_id: str, result: RunResult) -> None:
    graph_id = new_id("graph")
    session.execute(insert(Graph), [{"id": graph_id, "run_id": run_id, **result.graph}])
    if result.clusterings:
        rows = [
            {
                "id": new_id("clustering"),
                "graph_id": graph_id,
                "method": one["method"],
                "modules": one["modules"],
                "modularity": one.get("modularity"),
                "body": one.get("body") or {},
            }
            for one in result.clusterings
        ]
        session.execute(insert(Clustering), rows)


def _insert_modules(session: Session, run_id: str, found: Sequence[Mapping[str, Any]]) -> None:
    if not found:
        return
    rows = [
        {
            "run_id": run_id,
            "name": one["name"],
            "neurons": len(one["neurons"]),
            "connections": one.get("connections", 0),
            "selectivity": one.get("selectivity"),
            "sufficiency": one.get("sufficiency"),
            "reading": one.get("reading", ""),
            "body": dict(one),
        }
        for one in found
    ]
    session.execute(insert(Module), rows)
    effects_rows = [
        {"run_id": run_id, "module": one["name"], "target": target, **{kind: effect.get(kind) for kind in EFFECT_KINDS}}
        for one in found
        for target, effect in (one.get("effects") or {}).items()
    ]
    if effects_rows:
        session.execute(insert(Effect), effects_rows)


def _insert_files(session: Session, run_id: str, result: RunResult, now: datetime) -> None:
    for file in {**result.files, **result.figures}.values():
        files.remember(session, file, now=now)
    for table, named in ((RunFile, result.files), (Figure, result.figures)):
        rows = [{"run_id": run_id, "name": n, "sha256": f.sha256, "bytes": f.bytes} for n, f in named.items()]
        if rows:
            session.execute(insert(table), rows)
