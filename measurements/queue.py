"""Many small jobs: `python -m measurements queue [--jobs N] [--waiting N]`: what the queue itself costs.

1. Claims: how long a worker takes to claim its next job while FEW and while N jobs wait, on PostgreSQL.
2. Jobs of ten steps through the whole stack (API, PostgreSQL, broker, one worker): is each ended once, with one
   attempt and one result? What does a job cost beside its training and its evidence, from claim to publication?
3. Meanwhile a second team submits a job now and then. How long does it wait, in lengths of a job?

Figures are reported; only what is lost, doubled or unfair beyond the targets makes the exit code 1.
Writes reports/queue.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import delete, func, insert, select, text, update

from measurements.load import Connection, crowded_service
from standalone.database import DatabaseError
from standalone.supervisor import AskedToStop, CannotStart, Supervisor
from store import teams
from store.columns import new_id
from store.database import Database
from store.jobs import leases
from store.tables import Attempt, Job, Run, Team

FEW = 100  # waiting jobs that the longer queue is compared with
CLAIMS = 200  # timed, each at another moment of the queue
ROWS_AT_ONCE = 5_000
SLOWER, OVERHEAD_MS, JOB_LENGTHS = 1.5, 100.0, 2.0  # the targets
OTHERS = 20  # jobs of the second team, spread over the time of all; of the first team's, one in ten at most
POLL_SECONDS = 0.5
ENDED = ("succeeded", "failed", "cancelled")
SPEC: dict[str, Any] = {
    "dataset": {"kind": "formula", "formulas": ["x1*x1"], "inputs": 2, "train": 32, "test": 32, "seed": 7},
    "network": {"kind": "mlp", "hidden": [5]},
    "training": {"steps": 10, "device": "cpu", "relocation": {"final_restarts": 1}},
    "evidence": {"refit_evaluations": 20, "random_groups": 10, "formula_searches": 0, "tolerance": 0.05},
}
BODY = json.dumps({"spec": SPEC, "seeds": [0]}).encode()


# --- claims -----------------------------------------------------------------------------------------


Columns = dict[str, Any]


def templates(database: Database, job_id: str) -> tuple[Columns, Columns]:
    """The columns of a queued job, as one that was announced, so that nothing sends it; and those of its run."""
    with database.read() as rows:
        job_columns = [getattr(Job, key) for key in Job.__table__.columns.keys()]  # noqa: SIM118
        run_columns = [getattr(Run, key) for key in Run.__table__.columns.keys()]  # noqa: SIM118
        job = dict(rows.execute(select(*job_columns).where(Job.id == job_id)).mappings().one())
        run = dict(rows.execute(select(*run_columns).where(Run.job_id == job_id)).mappings().one())
    return job | {"announced_at": datetime.now(UTC)}, run


def fill_queue(database: Database, job: Columns, run: Columns, count: int) -> None:
    """Copies of a job and its run, until so many wait."""
    with database.write() as rows:
        there = rows.scalar(select(func.count()).select_from(Job).where(Job.state == "queued")) or 0
        for start in range(there, count, ROWS_AT_ONCE):
            ids = [new_id("job") for _ in range(min(ROWS_AT_ONCE, count - start))]
            rows.execute(insert(Job), [job | {"id": one} for one in ids])
            rows.execute(insert(Run), [run | {"id": new_id("run"), "job_id": one} for one in ids])
        rows.execute(text("ANALYZE"))


def claim_times(database: Database, count: int) -> list[float]:
    """Milliseconds of so many claims, each committed; what was claimed is cancelled outside of the time."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        with database.write() as rows:
            claim = leases.claim_next(rows, "cpu", worker="measured", now=datetime.now(UTC), lease_seconds=60)
        found.append(1e3 * (time.perf_counter() - began))
        assert claim is not None, "the queue was filled"
        with database.write() as rows:
            leases.finish(rows, claim, state="cancelled", now=datetime.now(UTC))
    return found


def measure_claims(supervisor: Supervisor, database: Database, token: str, waiting: int) -> dict[str, Any]:
    """Medians of claims beside few and beside many waiting jobs, and their ratio."""
    connection = Connection(supervisor.address, token)
    job, run = templates(database, _submitted(connection))
    connection.close()
    found = {}
    for name, count in (("few", FEW + CLAIMS), ("many", waiting)):
        fill_queue(database, job, run, count)
        claim_times(database, CLAIMS // 10)  # plans and pages are in memory then, as on a service that runs
        times = sorted(claim_times(database, CLAIMS if name == "many" else min(CLAIMS, FEW)))
        found[name] = {
            "waiting": count,
            "median_ms": statistics.median(times),
            "p95_ms": times[int(0.95 * (len(times) - 1))],
        }
    with database.write() as rows:
        rows.execute(delete(Run))
        rows.execute(delete(Attempt))
        rows.execute(delete(Job))
    return found | {"ratio": found["many"]["median_ms"] / found["few"]["median_ms"]}


# --- jobs through the stack -------------------------------------------------------------------------


def measure_jobs(
    supervisor: Supervisor, database: Database, token: str, count: int, stopping: threading.Event, console: Console
) -> dict[str, Any]:
    """Submit, wait until all have ended, and count in the rows what became of them."""
    with database.write() as rows:
        other = teams.create_team(rows, "the others", now=datetime.now(UTC))
        member = teams.create_member(rows, other.id, "Bob", role="admin", now=datetime.now(UTC))
        scopes = teams.ROLE_SCOPES["admin"]
        theirs, _ = teams.mint_token(rows, member.id, scopes=scopes, expires_at=None, now=datetime.now(UTC), name="b")
        rows.execute(update(Team).values(max_queued_jobs=None, max_queued_steps=None))
    began = time.monotonic()
    ours = Connection(supervisor.address, token)
    promised = [_submitted(ours) for _ in range(count)]
    ours.close()
    late: list[str] = []
    with Progress(console=console) as progress:
        task = progress.add_task("jobs of ten steps", total=count)
        while (ended := _ended(database, promised)) < count:
            progress.update(task, completed=ended)
            if len(late) < min(OTHERS, count // 10) * ended / count:
                others = Connection(supervisor.address, theirs)  # one left open in between would be closed
                late.append(_submitted(others))
                others.close()
            if stopping.wait(POLL_SECONDS):
                raise AskedToStop
    while _ended(database, late) < len(late):
        if stopping.wait(POLL_SECONDS):
            raise AskedToStop
    elapsed = time.monotonic() - began
    return {"jobs": count, "seconds": elapsed} | outcome(database, promised, late)


def outcome(database: Database, promised: Sequence[str], late: Sequence[str]) -> dict[str, Any]:
    """What the rows say of these jobs.

    lost, doubled   promised and not there; with more than one attempt, or with a number of results that is not one
    states          how often a job ended how
    overhead_ms     of an attempt, without the training and the evidence of its run
    waits           of the second team's jobs until they were claimed, in median lengths of an attempt
    """
    asked = [*promised, *late]
    with database.read() as rows:
        there = {job.id: job for job in rows.scalars(select(Job).where(Job.id.in_(asked)))}
        attempts: dict[str, list[Attempt]] = {}
        for attempt in rows.scalars(select(Attempt).where(Attempt.job_id.in_(asked))):
            attempts.setdefault(attempt.job_id, []).append(attempt)
        runs: dict[str, list[Run]] = {}
        for run in rows.scalars(select(Run).where(Run.job_id.in_(asked))):
            runs.setdefault(run.job_id, []).append(run)
        once = [one for one in there if len(attempts.get(one, [])) == len(runs.get(one, [])) == 1]
        lengths = [_seconds(attempts[one][0]) for one in once]
        beside = [
            1e3 * (length - (runs[one][0].training_seconds or 0) - (runs[one][0].evidence_seconds or 0))
            for one, length in zip(once, lengths, strict=True)
        ]
        length = statistics.median(lengths)
        waits = [
            (attempts[one][0].started_at - there[one].created_at).total_seconds() / length
            for one in late
            if one in once
        ]
        return {
            "lost": len(set(asked) - set(there)),
            "doubled": len(there) - len(once) + len(asked) - len(set(asked)),
            "states": dict(Counter(job.state for job in there.values())),
            "job_ms": 1e3 * length,
            "overhead_ms": {"median": statistics.median(beside), "p95": sorted(beside)[int(0.95 * (len(beside) - 1))]},
            "waits": {"median": statistics.median(waits), "worst": max(waits)} if waits else {},
        }


def _seconds(attempt: Attempt) -> float:
    assert attempt.ended_at is not None, "counted once all have ended"
    return (attempt.ended_at - attempt.started_at).total_seconds()


def _submitted(connection: Connection) -> str:
    """The id of a small job. Raises CannotStart where the service refuses it."""
    status, answer, _ = connection.ask("POST", "/jobs", BODY)
    if status != 202:
        raise CannotStart(f"A job was refused with {status}: {answer.decode()}")
    found: str = json.loads(answer)["id"]
    return found


def _ended(database: Database, asked: Sequence[str]) -> int:
    with database.read() as rows:
        query = select(func.count()).select_from(Job).where(Job.id.in_(asked), Job.state.in_(ENDED))
        return rows.scalar(query) or 0


# --- the report -------------------------------------------------------------------------------------


def shortfalls(report: dict[str, Any]) -> list[str]:
    """In sentences, what fell short of the targets; every lost or doubled job counts."""
    found, claims, through = [], report["claims"], report["jobs"]
    if claims["ratio"] > SLOWER:
        found.append(f"{claims['many']['waiting']:,} waiting jobs slow claims {claims['ratio']:.2f} times")
    if through["lost"] or through["doubled"]:
        found.append(f"{through['lost']} jobs lost, {through['doubled']} doubled")
    if set(through["states"]) != {"succeeded"}:
        found.append(f"not all succeeded: {through['states']}")
    if through["overhead_ms"]["median"] > OVERHEAD_MS:
        found.append(f"a job costs {through['overhead_ms']['median']:.0f} ms beside training and evidence")
    if through["waits"].get("worst", 0) > JOB_LENGTHS:
        found.append(f"a job of the second team waited for {through['waits']['worst']:.1f} lengths of a job")
    return found


def main(arguments: list[str]) -> int:
    """Measure, print, and write reports/queue.json. 1: something fell short; a sentence says what."""
    parser = argparse.ArgumentParser(prog="python -m measurements queue", description="What the queue itself costs.")
    parser.add_argument("--jobs", type=int, default=2_000, help="through the whole stack; default %(default)s")
    parser.add_argument(
        "--waiting", type=int, default=100_000, help="beside which claims are timed; default %(default)s"
    )
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console, stopping = Console(highlight=False), threading.Event()
    report: dict[str, Any] = {}
    try:
        with crowded_service(api=1, durable=True, console=console) as (supervisor, database, token):
            report["claims"] = measure_claims(supervisor, database, token, max(args.waiting, FEW + CLAIMS))
        with crowded_service(api=1, durable=True, console=console, workers=1) as (supervisor, database, token):
            report["jobs"] = measure_jobs(supervisor, database, token, args.jobs, stopping, console)
    except (CannotStart, DatabaseError) as why:
        console.print(f"Not measured: {why}")
        return 1
    except AskedToStop:
        return 130
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "queue.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    claims, through = report["claims"], report["jobs"]
    said = "claims: {few[median_ms]:.2f} ms beside {few[waiting]:,} waiting jobs, {many[median_ms]:.2f} ms beside "
    console.print((said + "{many[waiting]:,}: {ratio:.2f} times as long").format(**claims), soft_wrap=True)
    said = "{jobs} jobs in {seconds:.0f} s, {job_ms:.0f} ms each, of which {overhead_ms[median]:.0f} ms (p95 "
    said += "{overhead_ms[p95]:.0f} ms) are neither training nor evidence; {lost} lost, {doubled} doubled"
    console.print(said.format(**through), soft_wrap=True)
    if through["waits"]:
        said = "the second team's jobs waited {median:.2f} lengths of a job in the median, {worst:.2f} at most"
        console.print(said.format(**through["waits"]), soft_wrap=True)
    missed = shortfalls(report)
    for sentence in missed:
        console.print(f"[bold red]short[/]  {sentence}")
    return 1 if missed else 0
