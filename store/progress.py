"""What a run leaves behind on its way: learning curve, snapshots, checkpoints, log lines. All fenced by the claim."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from store import files
from store.errors import NotFound
from store.files import StoredFile
from store.identifiers import new_id
from store.leases import Claim, hold
from store.tables import HistoryChunk, Job, LogChunk, Run, Snapshot


def append_history(session: Session, claim: Claim, run_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the learning curve; each has a `step`, rising. Rows of these steps and later ones are replaced.

    Raises LostLease.
    """
    if not rows:
        return
    hold(session, claim)
    first, last = int(rows[0]["step"]), int(rows[-1]["step"])
    _own_run(session, claim, run_id, step=last)
    session.execute(delete(HistoryChunk).where(HistoryChunk.run_id == run_id, HistoryChunk.first_step >= first))
    session.add(HistoryChunk(run_id=run_id, first_step=first, last_step=last, rows=list(rows)))
    session.flush()


def append_snapshot(session: Session, claim: Claim, run_id: str, step: int, file: StoredFile, *, now: datetime) -> None:
    """Add the network at a step; a second one of that step replaces the first. Raises LostLease."""
    hold(session, claim)
    _own_run(session, claim, run_id)
    files.remember(session, file, now=now)
    session.execute(delete(Snapshot).where(Snapshot.run_id == run_id, Snapshot.step == step))
    session.add(Snapshot(run_id=run_id, step=step, sha256=file.sha256))
    session.flush()


def save_checkpoint(session: Session, claim: Claim, run_id: str, step: int, file: StoredFile, *, now: datetime) -> None:
    """From here the next attempt would go on. The checkpoint before it is no longer needed. Raises LostLease."""
    hold(session, claim)
    files.remember(session, file, now=now)
    _own_run(session, claim, run_id, checkpoint_sha256=file.sha256, checkpoint_step=step)


def rewind(session: Session, claim: Claim, run_id: str) -> None:
    """Drop history and snapshots after the checkpoint, because they will be made again. Raises LostLease."""
    hold(session, claim)
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


def kept(session: Session, job_id: str) -> float:
    """How much of a job another attempt would find done, from 0 to 1: its results, and what led to its checkpoints."""
    runs = session.execute(select(Run.state, Run.checkpoint_step, Run.steps).where(Run.job_id == job_id)).all()
    done = sum(1.0 if run.state == "succeeded" else (run.checkpoint_step or 0) / max(1, run.steps) for run in runs)
    return min(1.0, done / max(1, len(runs)))


def append_log(session: Session, claim: Claim, lines: Sequence[dict[str, Any]], *, now: datetime) -> None:
    """Add lines {at, level, text, run_id?} to the job's log. Raises LostLease."""
    if not lines:
        return
    hold(session, claim)
    session.add(LogChunk(id=new_id("log"), job_id=claim.job_id, attempt=claim.attempt, at=now, lines=list(lines)))
    session.flush()


def log_chunks(session: Session, team_id: str, job_id: str, *, after: str = "", limit: int = 200) -> list[LogChunk]:
    """The job's log after a chunk's id, oldest first. Raises NotFound."""
    _team_s_job(session, team_id, job_id)
    query = select(LogChunk).where(LogChunk.job_id == job_id, LogChunk.id > after)
    return list(session.scalars(query.order_by(LogChunk.id).limit(limit)))


def last_log_lines(session: Session, team_id: str, job_id: str, *, limit: int) -> list[dict[str, Any]]:
    """The end of the job's log, oldest first. Raises NotFound."""
    _team_s_job(session, team_id, job_id)
    query = select(LogChunk.lines).where(LogChunk.job_id == job_id)
    chunks = session.scalars(query.order_by(LogChunk.id.desc()).limit(limit))  # each has a line at least
    return [line for chunk in reversed(list(chunks)) for line in chunk][-limit:]


def _team_s_job(session: Session, team_id: str, job_id: str) -> None:
    """Raises NotFound where the job is another team's, or nobody's."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.team_id == team_id)) is None:
        raise NotFound("job", job_id)


def _own_run(session: Session, claim: Claim, run_id: str, **values: Any) -> None:
    """Change a run of the claimed job that has not ended. Raises NotFound where it is none."""
    values.setdefault("attempts", Run.attempts)  # so that there is always something to set
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
