"""Runs: what they record while they train, what they publish at the end in one transaction, and reading both.

All that changes a run stands in one place, so that its rules of state can be read together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, delete, func, insert, select, update
from sqlalchemy.orm import Session, undefer

from store import files
from store.columns import new_id
from store.database import Page, newest_first, oldest_first
from store.errors import Conflict, NotFound
from store.files import StoredFile
from store.jobs.leases import Claim, assert_held
from store.jobs.tables import Job
from store.runs.search import insert_groups, insert_inputs, with_evidence
from store.runs.tables import (
    OF_MODULES,
    Effect,
    Figure,
    Graph,
    HistoryChunk,
    InteriorGroup,
    LogChunk,
    Module,
    Run,
    RunBody,
    RunFile,
    Snapshot,
)

EFFECT_KINDS = ("zero", "mean", "resample", "p", "p_holm")
NAMES = "names"  # the document of what people call its parts
MAX_INPUTS = 1_000  # that one part reads and searches find
SUMMARY = (
    "test_metric_name",
    "test_metric",
    "connections",
    "modules",
    "interior_modules",
    "modularity",
    "selectivity",
    "connection_cost",
)


@dataclass(frozen=True)
class RunResult:
    """Everything that a finished run publishes: plain data, and files that are stored already.

    metrics       numbers of the run, by name
    summary       SUMMARY: the columns by which runs are listed and searched; any may be absent
    graph         {"neurons": int, "connections": int, "body": node-link document}
    modules       [{"name", "neurons": [ids], "connections": int, "selectivity", "sufficiency", "reading",
                  "effects": {target: {"zero", "mean", "resample", "p", "p_holm"}}, …}]; also stored as documents
    groups        inside the modules: [{a column of InteriorGroup: value, …, "reads": [(name, share)]}]
    effects       document: the complete matrix with its controls
    prune_curve   [{…}], one for each removal
    bodies        further documents by name: communities, readout, interior, dataset, extra
    files         {"weights.safetensors": StoredFile, …}
    figures       {"network.svg": StoredFile, …}
    replicas      number of networks trained in one batch, this one included
    training_seconds, evidence_seconds   time of all steps, over all attempts; time of evaluation and figures
    """

    metrics: Mapping[str, Any]
    summary: Mapping[str, Any]
    graph: Mapping[str, Any]
    modules: Sequence[Mapping[str, Any]] = ()
    groups: Sequence[Mapping[str, Any]] = ()
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
    """Set the run `running` and delete what it recorded after its checkpoint.

    Raises LostLease; NotFound if the run has ended or belongs to another job.
    """
    assert_held(session, claim)
    values = {"state": "running", "attempts": Run.attempts + 1, "started_at": func.coalesce(Run.started_at, now)}
    if not _change(session, claim, run_id, ("queued", "running"), values):
        raise NotFound("run", run_id)
    rewind(session, claim, run_id)


def publish(session: Session, claim: Claim, run_id: str, result: RunResult, now: datetime) -> bool:
    """Set the run `succeeded` and store its result, in this transaction; its files are stored before.

    False if the run was published before: the first result stays.
    Raises LostLease; NotFound if the run was cancelled or belongs to another job.
    """
    assert_held(session, claim)
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
        "checkpoint_sha256": None,
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
    insert_groups(session, run_id, result.groups)
    _insert_files(session, run_id, result, now)
    _count_records(session, run_id)
    session.execute(
        update(Job)
        .where(Job.id == claim.job_id)
        .values(revision=Job.revision + 1)
        .execution_options(synchronize_session=False)
    )
    return True


def fail(session: Session, claim: Claim, run_id: str, *, reason: str, now: datetime) -> None:
    """Set the run `failed`; the job continues with its other runs. Repeating it has no effect.

    Raises LostLease; NotFound if the run has ended otherwise or belongs to another job.
    """
    assert_held(session, claim)
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
    """The same in pages. Raises NotFound for the job."""
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
    """The team's runs, newest first, without specs. `evidence` is as in `search.with_evidence`."""
    query = with_evidence(select(Run).where(Run.team_id == team_id), **evidence)
    if state is not None:
        query = query.where(Run.state == state)
    if job_id is not None:
        query = query.where(Run.job_id == job_id)
    return newest_first(session, query, Run.id, after=after, limit=limit)


def body(session: Session, run_id: str, name: str) -> Any:
    """A document of a run: metrics, prune_curve, effects, communities, readout … None if it has none."""
    return session.scalar(select(RunBody.body).where(RunBody.run_id == run_id, RunBody.name == name))


def bodies(session: Session, run_id: str) -> dict[str, Any]:
    """All documents of a run by name."""
    rows = session.execute(select(RunBody.name, RunBody.body).where(RunBody.run_id == run_id))
    return {name: document for name, document in rows}


def add_body(session: Session, run_id: str, name: str, document: Any) -> None:
    """Store a document that was computed later, replacing one of that name."""
    session.merge(RunBody(run_id=run_id, name=name, body=document))
    session.flush()


def names(session: Session, run_id: str) -> dict[str, dict[str, Any]]:
    """Part → {name, note, number, member_id, at}: what people call the modules and groups of a run, and say of them."""
    return body(session, run_id, NAMES) or {}


def give_name(
    session: Session,
    run: Run,
    part: str,
    *,
    name: str,
    note: str,
    replaces: int | None,
    member_id: str,
    now: datetime,
) -> dict[str, dict[str, Any]]:
    """What people call the parts after this one was given a name and a note; where both are empty it has neither.

    replaces   the `number` that its author has seen; None: there was none. Raises Conflict where it is another by now.
    """
    session.scalar(select(Run.id).where(Run.id == run.id).with_for_update())  # names are one document: one at a time
    given = dict(names(session, run.id))
    seen = given.get(part, {}).get("number")
    if seen != replaces:
        raise Conflict(f"Someone else has named {part} meanwhile; look at it again before you replace it.")
    if name or note:
        said = {"name": name, "note": note, "member_id": member_id, "at": now.isoformat()}
        given[part] = said | {"number": (seen or 0) + 1}
    else:
        given.pop(part, None)
    add_body(session, run.id, NAMES, given)
    return given


def graph(session: Session, run_id: str) -> Graph | None:
    """The pruned graph with its body; None if the run is not published."""
    return session.scalar(select(Graph).where(Graph.run_id == run_id).options(undefer(Graph.body)))


def modules(session: Session, run_id: str) -> list[Module]:
    """The modules by name."""
    return list(session.scalars(select(Module).where(Module.run_id == run_id).order_by(Module.name)))


def groups(session: Session, run_id: str) -> list[InteriorGroup]:
    """The groups inside the modules, by partition and name."""
    query = select(InteriorGroup).where(InteriorGroup.run_id == run_id)
    return list(session.scalars(query.order_by(InteriorGroup.partition, InteriorGroup.name)))


def figures(session: Session, run_id: str) -> list[Figure]:
    """The figures by name."""
    return list(session.scalars(select(Figure).where(Figure.run_id == run_id).order_by(Figure.name)))


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
    """Store a file that was made later, replacing one of that name; it counts against the quota."""
    files.upsert(session, file, now=now)
    before = session.get(RunFile, (run_id, name))
    more = file.bytes - (before.bytes if before else 0)
    session.merge(RunFile(run_id=run_id, name=name, sha256=file.sha256, bytes=file.bytes))
    _add_bytes(session, run_id, more)
    session.flush()


def _add_bytes(session: Session, run_id: str, more: int) -> None:
    session.execute(
        update(Run).where(Run.id == run_id).values(bytes=Run.bytes + more).execution_options(synchronize_session=False)
    )


def _count_records(session: Session, run_id: str) -> None:
    """Add what the run stores beside its files: documents, graph, learning curve, and the frames of its film."""
    sums = [
        select(func.sum(func.length(column, type_=BigInteger))).where(table.run_id == run_id)
        for table, column in ((RunBody, RunBody.body), (Graph, Graph.body), (HistoryChunk, HistoryChunk.rows))
    ]
    frames = select(func.sum(files.File.bytes)).join(Snapshot, Snapshot.sha256 == files.File.sha256)
    sums.append(frames.where(Snapshot.run_id == run_id))
    session.flush()
    _add_bytes(session, run_id, sum(int(session.scalar(one) or 0) for one in sums))


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _change(session: Session, claim: Claim, run_id: str, states: Sequence[str], values: dict[str, Any]) -> bool:
    """One conditional UPDATE of one run of the claimed job; returns whether the condition held."""
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
    session.execute(insert(Graph), [{"id": new_id("graph"), "run_id": run_id, **result.graph}])


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
    insert_inputs(session, run_id, [(OF_MODULES, one["name"], name, None) for one in found for name in _read(one)])


def _read(module: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(module.get("inputs") or ()))[:MAX_INPUTS]


def _insert_files(session: Session, run_id: str, result: RunResult, now: datetime) -> None:
    for file in {**result.files, **result.figures}.values():
        files.upsert(session, file, now=now)
    for table, named in ((RunFile, result.files), (Figure, result.figures)):
        rows = [{"run_id": run_id, "name": n, "sha256": f.sha256, "bytes": f.bytes} for n, f in named.items()]
        if rows:
            session.execute(insert(table), rows)


# --- progress ---


def append_history(session: Session, claim: Claim, run_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows, by rising `step`, to the learning curve; rows of these steps and later ones are replaced.

    Raises LostLease.
    """
    if not rows:
        return
    assert_held(session, claim)
    first, last = int(rows[0]["step"]), int(rows[-1]["step"])
    _update_run(session, claim, run_id, step=last)
    session.execute(delete(HistoryChunk).where(HistoryChunk.run_id == run_id, HistoryChunk.first_step >= first))
    session.add(HistoryChunk(run_id=run_id, first_step=first, last_step=last, rows=list(rows)))
    session.flush()


def append_snapshot(session: Session, claim: Claim, run_id: str, step: int, file: StoredFile, *, now: datetime) -> None:
    """Add the network at a step, replacing one of that step. Raises LostLease."""
    assert_held(session, claim)
    _update_run(session, claim, run_id)
    files.upsert(session, file, now=now)
    session.execute(delete(Snapshot).where(Snapshot.run_id == run_id, Snapshot.step == step))
    session.add(Snapshot(run_id=run_id, step=step, sha256=file.sha256))
    session.flush()


def save_checkpoint(session: Session, claim: Claim, run_id: str, step: int, file: StoredFile, *, now: datetime) -> None:
    """Set the checkpoint at which the next attempt resumes, replacing the previous one. Raises LostLease."""
    assert_held(session, claim)
    files.upsert(session, file, now=now)
    _update_run(session, claim, run_id, checkpoint_sha256=file.sha256, checkpoint_step=step)


def forget_checkpoints(session: Session, claim: Claim, run_ids: Sequence[str]) -> None:
    """These runs begin anew, since their stored checkpoints cannot be read. Raises LostLease."""
    assert_held(session, claim)
    for run_id in run_ids:
        _update_run(session, claim, run_id, checkpoint_sha256=None, checkpoint_step=None)


def rewind(session: Session, claim: Claim, run_id: str) -> None:
    """Delete history and snapshots after the checkpoint, which will be recorded again. Raises LostLease."""
    assert_held(session, claim)
    query = select(Run.checkpoint_step).where(Run.id == run_id, Run.job_id == claim.job_id)
    step = session.scalar(query)
    since = -1 if step is None else step
    session.execute(delete(HistoryChunk).where(HistoryChunk.run_id == run_id, HistoryChunk.first_step > since))
    session.execute(delete(Snapshot).where(Snapshot.run_id == run_id, Snapshot.step > since))


def history(session: Session, run_id: str, *, after: int = -1) -> list[dict[str, Any]]:
    """The learning curve after a step, by rising steps, each step once."""
    chunks = session.scalars(
        select(HistoryChunk)
        .where(HistoryChunk.run_id == run_id, HistoryChunk.last_step > after)
        .order_by(HistoryChunk.first_step)
    )
    rows = {row["step"]: row for chunk in chunks for row in chunk.rows}
    return [rows[step] for step in sorted(rows) if step > after]


def snapshots(session: Session, run_id: str, *, after: int = -1, limit: int = 1000) -> list[Snapshot]:
    """The snapshots after a step, by rising steps."""
    query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.step > after)
    return list(session.scalars(query.order_by(Snapshot.step).limit(limit)))


def saved_fraction(session: Session, job_id: str) -> float:
    """The fraction of a job that another attempt need not repeat: published runs and steps up to checkpoints."""
    runs = session.execute(select(Run.state, Run.checkpoint_step, Run.steps).where(Run.job_id == job_id)).all()
    done = sum(1.0 if run.state == "succeeded" else (run.checkpoint_step or 0) / max(1, run.steps) for run in runs)
    return min(1.0, done / max(1, len(runs)))


def append_log(session: Session, claim: Claim, lines: Sequence[dict[str, Any]], *, now: datetime) -> None:
    """Add lines {at, level, text, run_id?} to the job's log. Raises LostLease."""
    if not lines:
        return
    assert_held(session, claim)
    session.add(LogChunk(id=new_id("log"), job_id=claim.job_id, attempt=claim.attempt, at=now, lines=list(lines)))
    session.flush()


def log_chunks(session: Session, team_id: str, job_id: str, *, after: str = "", limit: int = 200) -> list[LogChunk]:
    """The job's log after a chunk's id, oldest first. Raises NotFound."""
    _check_job(session, team_id, job_id)
    query = select(LogChunk).where(LogChunk.job_id == job_id, LogChunk.id > after)
    return list(session.scalars(query.order_by(LogChunk.id).limit(limit)))


def last_log_lines(session: Session, team_id: str, job_id: str, *, limit: int) -> list[dict[str, Any]]:
    """The end of the job's log, oldest first. Raises NotFound."""
    _check_job(session, team_id, job_id)
    query = select(LogChunk.lines).where(LogChunk.job_id == job_id)
    chunks = session.scalars(query.order_by(LogChunk.id.desc()).limit(limit))  # each has a line at least
    return [line for chunk in reversed(list(chunks)) for line in chunk][-limit:]


def _check_job(session: Session, team_id: str, job_id: str) -> None:
    """Raises NotFound unless the team has this job."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.team_id == team_id)) is None:
        raise NotFound("job", job_id)


def _update_run(session: Session, claim: Claim, run_id: str, **values: Any) -> None:
    """Update a run of the claimed job that has not ended. Raises NotFound if there is none."""
    values.setdefault("attempts", Run.attempts)  # an UPDATE needs at least one column
    if "step" in values:
        values["step"] = func.coalesce(values["step"], Run.step)
    changed = (
        update(Run)
        .where(Run.id == run_id, Run.job_id == claim.job_id, Run.state.in_(("queued", "running")))
        .values(values)
        .returning(Run.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(changed) is None:
        raise NotFound("run", run_id)
