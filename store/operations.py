"""Operations: questions to a network and other work that a worker does for a waiting client, such as upload checks.

An operation is a job of another kind than `training`: its request is the job's spec, its answer a document of the job.
It is claimed, leased and fenced like any job, but has queues of its own, so that no training delays it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from store import datasets, jobs, networks
from store.datasets import Dataset
from store.errors import NotFound, QuotaExceeded
from store.jobs.leases import Claim, finish
from store.jobs.tables import CHECK_NETWORK, CHECK_UPLOAD, CHECKS, FINAL_STATES, Job, JobView, canonical_queue
from store.networks import Network
from store.settings import OPERATION_QUEUES

MAX_WAITING = 64  # operations of one team that are queued or running; a page or a script sends a few at a time
ANSWER, REFUSAL = "answer", "refusal"  # names of the job's documents

_IS_ACTIVE = (Job.kind != "training", Job.state.in_(("queued", "running")))


@dataclass(frozen=True)
class Operation:
    """An operation as it is shown.

    answer    its document, once it has succeeded; None before that, and if its result is a file
    refusal   {"detail", "problems": [[JSON Pointer, sentence]]} if it failed because of its request
    """

    id: str
    kind: str
    state: str
    progress: float
    note: str | None
    reason: str | None
    created_at: datetime
    ended_at: datetime | None
    answer: Any = None
    refusal: dict[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES


def submit(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    kind: str,
    about: str,
    request: Mapping[str, Any],
    queue: str,
    now: datetime,
    once: bool = False,
    priority: int = 5,
    dataset_id: str | None = None,
    network_id: str | None = None,
) -> JobView:
    """A new operation, `queued`. Enqueue it right after the commit: see outbox.enqueue.

    about        id of what it is about, and optionally more; shown in the worker's log
    once         its result is stored: if the team waits for the same kind and `about` already, return that one
    dataset_id   the data set that an upload check is of; network_id, the network

    Raises QuotaExceeded if the team has too many operations queued or running.
    """
    queue = canonical_queue(queue)
    if queue not in OPERATION_QUEUES:
        raise ValueError(f"`{queue}` is no queue of operations; those are {' and '.join(OPERATION_QUEUES)}.")
    name = f"{kind} {about}"[:200]
    if once:
        same = select(Job.id).where(*_IS_ACTIVE, Job.team_id == team_id, Job.name == name).order_by(Job.id).limit(1)
        if (job_id := session.scalar(same)) is not None:
            return jobs.get_view(session, team_id, job_id)
    if kind not in CHECKS:  # uploads are limited by the quota of bytes
        counted = (*_IS_ACTIVE, Job.team_id == team_id, Job.kind.not_in(CHECKS))
        waiting = session.scalar(select(func.count()).select_from(Job).where(*counted)) or 0
        if waiting >= MAX_WAITING:
            raise QuotaExceeded(
                "operations",
                f"The team waits for {waiting} answers already, which is as many as it may; wait for some first.",
            )
    return jobs.submit(
        session,
        team_id=team_id,
        member_id=member_id,
        kind=kind,
        name=name,
        spec=dict(request),
        runs=(),
        queue=queue,
        priority=priority,
        dataset_id=dataset_id,
        network_id=network_id,
        now=now,
        announced_at=now,
    )


def get(session: Session, team_id: str, operation_id: str) -> Operation:
    """An operation of the team. Raises NotFound."""
    query = select(Job).where(Job.id == operation_id, Job.team_id == team_id, Job.kind != "training")
    job = session.scalar(query.execution_options(populate_existing=True))
    if job is None:
        raise NotFound("operation", operation_id)
    return Operation(
        id=job.id,
        kind=job.kind,
        state=job.state,
        progress=job.progress,
        note=job.note,
        reason=job.reason,
        created_at=job.created_at,
        ended_at=job.ended_at,
        answer=jobs.body(session, job.id, ANSWER) if job.state == "succeeded" else None,
        refusal=jobs.body(session, job.id, REFUSAL) if job.state == "failed" else None,
    )


def get_state(session: Session, operation_id: str) -> str | None:
    """Its state alone, cheap enough to poll; None if there is no such operation."""
    return session.scalar(select(Job.state).where(Job.id == operation_id))


def succeed(session: Session, claim: Claim, answer: Any, *, now: datetime) -> None:
    """End the operation as `succeeded` with this answer, which may be None. Raises LostLease."""
    finish(session, claim, state="succeeded", now=now)
    if answer is not None:
        jobs.add_body(session, claim.job_id, ANSWER, answer)


def refuse(session: Session, claim: Claim, sentence: str, *, problems: Sequence[Any], now: datetime) -> None:
    """End the operation as `failed` because of its request; `problems` as in Operation. Raises LostLease."""
    finish(session, claim, state="failed", reason=sentence, now=now)
    jobs.add_body(session, claim.job_id, REFUSAL, {"detail": sentence, "problems": list(problems)})


def delete_ended(session: Session, *, ended_before: datetime, limit: int = 1000) -> int:
    """Delete operations that ended before that time, with their answers; returns their number."""
    old = select(Job.id).where(Job.kind != "training", Job.ended_at < ended_before).limit(limit)
    ids = list(session.scalars(old.with_for_update(skip_locked=True)))
    if ids:
        session.execute(delete_rows(Job).where(Job.id.in_(ids)), execution_options={"synchronize_session": False})
    return len(ids)


# --- upload checks ---


def submit_check(session: Session, dataset: Dataset, *, now: datetime) -> JobView:
    """The operation that checks a data set in state `checking`; the active one if there is one already.

    Its request is {"dataset_id", "sha256", "format", "roles"}. A check that fails or is cancelled instead of
    being ended by `finish_check` refuses the data set: see leases.job_ended.
    """
    request = {"dataset_id": dataset.id, "roles": dataset.roles}
    return _submit_check(session, dataset, CHECK_UPLOAD, request, now, dataset_id=dataset.id)


def submit_network_check(session: Session, network: Network, *, now: datetime) -> JobView:
    """The same for a network in state `checking`; its request is {"network_id", "sha256", "format", "config"}."""
    request = {"network_id": network.id, "config": network.config}
    return _submit_check(session, network, CHECK_NETWORK, request, now, network_id=network.id)


def _submit_check(
    session: Session,
    of: Dataset | Network,
    kind: str,
    request: Mapping[str, Any],
    now: datetime,
    *,
    dataset_id: str | None = None,
    network_id: str | None = None,
) -> JobView:
    return submit(
        session,
        team_id=of.team_id,
        member_id=of.member_id,
        kind=kind,
        about=of.id,
        request={"sha256": of.sha256, "format": of.format, **request},
        # A network is imported into torch and run, for many seconds: predictions must not wait for that.
        queue="batch" if kind == CHECK_NETWORK else "interactive",
        once=True,
        dataset_id=dataset_id,
        network_id=network_id,
        now=now,
    )


def finish_check(session: Session, claim: Claim, *, now: datetime, **found: Any) -> bool:
    """End a check and set its result, `ready` or, with errors, `refused`, in one transaction. Raises LostLease.

    found   what `datasets.set_check_result` takes
    False if the data set was deleted or no longer waits for a check.
    """
    succeed(session, claim, None, now=now)
    return datasets.set_check_result(session, claim.spec["dataset_id"], now=now, **found)


def finish_network_check(session: Session, claim: Claim, *, now: datetime, **found: Any) -> bool:
    """The same for a network; `found` is what `networks.set_check_result` takes. Raises LostLease."""
    succeed(session, claim, None, now=now)
    return networks.set_check_result(session, claim.spec["network_id"], now=now, **found)


def submit_missing_checks(session: Session, *, now: datetime, limit: int = 100) -> list[JobView]:
    """Submit checks of data sets in state `checking` that have none, such as those of the version before."""
    active = exists().where(*_IS_ACTIVE, Job.kind == CHECK_UPLOAD, Job.dataset_id == Dataset.id)
    unchecked = select(Dataset).where(Dataset.state == "checking", ~active).order_by(Dataset.id).limit(limit)
    return [submit_check(session, dataset, now=now) for dataset in session.scalars(unchecked)]
