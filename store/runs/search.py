"""Runs by what was found in them: limits on the summary, and parts of the network by what they read and move.

The rows of groups and of inputs, which only searches read, are written here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, column, exists, insert, or_, select, table
from sqlalchemy.orm import Session, undefer

from store.database import Page, matches, sorted_page
from store.jobs.tables import Job, JobTag
from store.runs.tables import OF_MODULES, Effect, InteriorGroup, PartInput, Run, RunBody

LEAST_EFFECT = 0.01  # of an output's variance: a module that moves an output by less does not move it


def with_evidence(
    query: Select[Any],
    *,
    min_modules: int | None = None,
    max_modules: int | None = None,
    min_interior_modules: int | None = None,
    max_connections: int | None = None,
    min_modularity: float | None = None,
    min_selectivity: float | None = None,
    reads: str | None = None,
    moves: str | None = None,
    method: str | None = None,
    dataset_kind: str | None = None,
    dataset_id: str | None = None,
) -> Select[Any]:
    """The query restricted to runs whose evidence is within these limits; None sets no limit.

    reads, moves   name of an input that a module, or a group inside one, reads; of an output that it moves: a module
                   any by LEAST_EFFECT, a group the one that it moves most. With both, one part does both.
    """
    least = (
        (Run.modules, min_modules),
        (Run.interior_modules, min_interior_modules),
        (Run.modularity, min_modularity),
        (Run.selectivity, min_selectivity),
    )
    most = ((Run.modules, max_modules), (Run.connections, max_connections))
    same = ((Run.method, method), (Run.dataset_kind, dataset_kind))
    query = query.where(*(column >= wanted for column, wanted in least if wanted is not None))
    query = query.where(*(column <= wanted for column, wanted in most if wanted is not None))
    query = query.where(*(column == wanted for column, wanted in same if wanted is not None))
    if dataset_id is not None:
        query = query.where(Run.job_id.in_(select(Job.id).where(Job.dataset_id == dataset_id)))
    if (part := _has_part(reads, moves)) is not None:
        query = query.where(part)
    return query


def _has_part(reads: str | None, moves: str | None) -> ColumnElement[bool] | None:
    """The condition that the run has a part with this role. All rows are found by the run's id."""
    read = and_(PartInput.run_id == Run.id, PartInput.input == reads)
    if moves is None:
        return None if reads is None else exists().where(read)
    module = and_(Effect.run_id == Run.id, Effect.target == moves, Effect.mean >= LEAST_EFFECT)
    group = and_(InteriorGroup.run_id == Run.id, InteriorGroup.moves == moves)
    if reads is None:
        return or_(exists().where(module), exists().where(group))
    by_module = and_(read, PartInput.partition == OF_MODULES, PartInput.part == Effect.module)
    by_group = and_(read, PartInput.partition == InteriorGroup.partition, PartInput.part == InteriorGroup.name)
    return or_(exists().where(module, by_module), exists().where(group, by_group))


SORTED_BY = {
    "test_metric": Run.test_metric,
    "connections": Run.connections,
    "modules": Run.modules,
    "modularity": Run.modularity,
    "selectivity": Run.selectivity,
    "connection_cost": Run.connection_cost,
    "training_seconds": Run.training_seconds,
    "seed": Run.seed,
    "cost_strength": Run.cost_strength,
}
"""What a list of runs may be sorted by, as its parameter names it; the newest first otherwise."""


_DATASET = table("dataset", column("id"), column("name"))  # store/datasets.py imports the tables of jobs and runs


def dataset_name(job_id: Any) -> ScalarSelect[Any]:
    """The name of the data set of a job, as a column of another query; null where its data are made."""
    job = Job.__table__.alias()
    named = select(_DATASET.c.name).join(job, job.c.dataset_id == _DATASET.c.id)
    return named.where(job.c.id == job_id).scalar_subquery()


def listed(
    session: Session,
    team_id: str,
    *,
    state: str | None = None,
    q: str | None = None,
    tag: str | None = None,
    job_id: str | None = None,
    ids: Sequence[str] = (),
    sort: str | None = None,
    falling: bool = False,
    after: str | None = None,
    limit: int,
    **evidence: Any,
) -> Page[Run]:
    """The team's runs that are asked for, newest first or sorted, those without a value last.

    q         part of the name or a tag of their job
    ids       these alone; empty: all
    sort      one of SORTED_BY. A sorted list has one page.
    evidence  as in `with_evidence`
    """
    query = with_evidence(select(Run).where(Run.team_id == team_id), **evidence)
    if state is not None:
        query = query.where(Run.state == state)
    if job_id is not None:
        query = query.where(Run.job_id == job_id)
    if ids:
        query = query.where(Run.id.in_(ids))
    tagged = select(JobTag.job_id).where(JobTag.team_id == team_id)
    if tag is not None:
        query = query.where(Run.job_id.in_(tagged.where(JobTag.tag == tag)))
    if q:
        named = select(Job.id).where(Job.team_id == team_id, matches(Job.name, q))
        query = query.where(or_(Run.job_id.in_(named), Run.job_id.in_(tagged.where(matches(JobTag.tag, q)))))
    by = SORTED_BY[sort] if sort else None
    return sorted_page(session, query, Run.id, by=by, falling=falling, after=after, limit=limit)


def ended_like(session: Session, team_id: str, *, method: str, dataset_kind: str, limit: int = 40) -> list[Run]:
    """The newest runs of the team that were trained by this method on this kind of data, with specs and timings."""
    query = select(Run).where(
        Run.team_id == team_id,
        Run.state == "succeeded",
        Run.method == method,
        Run.dataset_kind == dataset_kind,
        Run.training_seconds.is_not(None),
    )
    return list(session.scalars(query.options(undefer(Run.spec)).order_by(Run.id.desc()).limit(limit)))


def bodies_of(session: Session, run_ids: Sequence[str], name: str) -> dict[str, Any]:
    """Run id → its document of this name, of the runs that have one."""
    query = select(RunBody.run_id, RunBody.body).where(RunBody.run_id.in_(run_ids), RunBody.name == name)
    return {run_id: document for run_id, document in session.execute(query)}


def insert_groups(session: Session, run_id: str, found: Sequence[Mapping[str, Any]]) -> None:
    """The groups inside modules as rows; `reads` of each is [(input, share)]."""
    rows = [{"run_id": run_id} | {name: of for name, of in one.items() if name != "reads"} for one in found]
    if rows:
        session.execute(insert(InteriorGroup), rows)
    read = [(one["partition"], one["name"], name, share) for one in found for name, share in one.get("reads") or ()]
    insert_inputs(session, run_id, read)


def insert_inputs(session: Session, run_id: str, read: Sequence[tuple[int, str, str, float | None]]) -> None:
    """What each part reads: (number of its partition, its name, the input, the share of it)."""
    rows = [
        {"run_id": run_id, "partition": partition, "part": part, "input": name, "share": share}
        for partition, part, name, share in read
    ]
    if rows:
        session.execute(insert(PartInput), rows)
