"""What there is to learn from: a team's uploaded files and the makers it named."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session, undefer

from store import files, teams
from store.errors import Conflict, NotFound, QuotaExceeded
from store.identifiers import new_id
from store.pages import Page, matches, newest_first
from store.tables import Dataset, Job
from store.usage import stored_bytes


def register(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    name: str,
    kind: str,
    now: datetime,
    maker: dict[str, Any] | None = None,
    sha256: str | None = None,
    bytes: int = 0,
    format: str | None = None,
    preview: dict[str, Any] | None = None,
    roles: dict[str, Any] | None = None,
    task: str | None = None,
    rows: int | None = None,
    columns: int | None = None,
    state: str = "ready",
    reserved: int = 0,
) -> Dataset:
    """A new data set of the team: `uploaded` with a stored file, or `made` with a maker.

    state      `checking` where the file is still to be looked at; see `judge`.
    reserved   bytes that the team's quota counts for it already, because they were announced as an upload.
    Raises QuotaExceeded.
    """
    if sha256 is not None:
        check_quota(session, team_id, bytes - reserved)
        files.remember(session, files.StoredFile(sha256, bytes), now=now)
    dataset = Dataset(
        id=new_id("dataset"),
        team_id=team_id,
        member_id=member_id,
        name=name,
        kind=kind,
        state=state,
        maker=maker,
        sha256=sha256,
        bytes=bytes,
        format=format,
        rows=rows,
        columns=columns,
        task=task,
        roles=roles,
        preview=preview,
        errors=None,
        created_at=now,
        checked_at=None if state == "checking" else now,
    )
    session.add(dataset)
    session.flush()
    return dataset


def judge(
    session: Session,
    dataset_id: str,
    *,
    now: datetime,
    preview: dict[str, Any] | None = None,
    roles: dict[str, Any] | None = None,
    task: str | None = None,
    rows: int | None = None,
    columns: int | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> bool:
    """The check is over: `ready`, or `refused` where there are errors. False where it was judged before."""
    verdict = {
        "state": "refused" if errors else "ready",
        "preview": preview,
        "task": task,
        "rows": rows,
        "columns": columns,
        "errors": errors,
        "checked_at": now,
    }
    if roles is not None:
        verdict["roles"] = roles
    changed = (
        update(Dataset)
        .where(Dataset.id == dataset_id, Dataset.state == "checking")
        .values(verdict)
        .returning(Dataset.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(changed) is not None


def change(session: Session, dataset: Dataset, **values: Any) -> Dataset:
    """Write these columns of a data set that is as it was read. Raises Conflict where it has changed meanwhile."""
    as_read = (Dataset.id == dataset.id, Dataset.state == dataset.state, Dataset.checked_at == dataset.checked_at)
    changed = update(Dataset).where(*as_read).values(values).returning(Dataset.id)
    if session.scalar(changed.execution_options(synchronize_session=False)) is None:
        raise Conflict(f"Data set `{dataset.id}` was changed or deleted meanwhile; look at it and try again.")
    session.expire_all()
    return get(session, dataset.team_id, dataset.id)


def take_check(session: Session, *, now: datetime, silent_since: datetime) -> Dataset | None:
    """The oldest data set that waits for its check, ours from now on; None where there is none.

    While a check is under way `checked_at` is the last sign of life of whoever does it. One that was silent since
    `silent_since` is gone, and its check begins anew here.
    """
    nobody = or_(Dataset.checked_at.is_(None), Dataset.checked_at < silent_since)
    oldest = select(Dataset.id).where(Dataset.state == "checking", nobody).order_by(Dataset.id).limit(1)
    taken = (
        update(Dataset)
        .where(Dataset.id.in_(oldest.with_for_update(skip_locked=True)), Dataset.state == "checking", nobody)
        .values(checked_at=now)
        .returning(Dataset)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(taken)


def hold_check(session: Session, dataset_id: str, *, since: datetime, now: datetime | None) -> bool:
    """Say that its check goes on; `now` None gives it back, for anybody to begin. False where it is no longer ours.

    since   the moment of our last sign of life
    """
    ours = (Dataset.id == dataset_id, Dataset.state == "checking", Dataset.checked_at == since)
    held = update(Dataset).where(*ours).values(checked_at=now).returning(Dataset.id)
    return session.scalar(held.execution_options(synchronize_session=False)) is not None


def get(session: Session, team_id: str, dataset_id: str) -> Dataset:
    """A data set of the team, with its preview. Raises NotFound."""
    query = select(Dataset).where(Dataset.id == dataset_id, Dataset.team_id == team_id)
    dataset = session.scalar(query.options(undefer(Dataset.preview), undefer(Dataset.errors)))
    if dataset is None:
        raise NotFound("dataset", dataset_id)
    return dataset


def page(
    session: Session,
    team_id: str,
    *,
    state: str | None = None,
    kind: str | None = None,
    q: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[Dataset]:
    """The team's data sets, newest first, without previews."""
    query = select(Dataset).where(Dataset.team_id == team_id)
    if state is not None:
        query = query.where(Dataset.state == state)
    if kind is not None:
        query = query.where(Dataset.kind == kind)
    if q:
        query = query.where(matches(Dataset.name, q))
    return newest_first(session, query, Dataset.id, after=after, limit=limit)


def with_content(session: Session, team_id: str, sha256: str) -> Dataset | None:
    """The team's newest data set with these bytes, if it has one."""
    query = select(Dataset).where(Dataset.team_id == team_id, Dataset.sha256 == sha256)
    return session.scalar(query.order_by(Dataset.id.desc()).limit(1))


def delete(session: Session, team_id: str, dataset_id: str) -> str | None:
    """Forget a data set; the name of its file, which can be freed afterwards unless others need it: see files.free.

    Raises NotFound, and Conflict while jobs wait for it or learn from it.
    """
    dataset = get(session, team_id, dataset_id)
    busy = select(Job.id).where(Job.dataset_id == dataset_id, Job.state.in_(("queued", "running")))
    if (job_id := session.scalar(busy.limit(1))) is not None:
        raise Conflict(f"Job `{job_id}` still needs data set `{dataset_id}`; cancel it or wait until it has ended.")
    session.delete(dataset)
    session.flush()
    return dataset.sha256


def check_quota(session: Session, team_id: str, more: int) -> None:
    """Raises QuotaExceeded where so many bytes more would be too many."""
    limit = teams.get_team(session, team_id).max_stored_bytes
    if limit is not None and (used := stored_bytes(session, team_id)) + more > limit:
        raise QuotaExceeded(
            "stored_bytes",
            f"The team stores {used} of its {limit} bytes, and {more} more do not fit; delete data sets or jobs.",
        )
