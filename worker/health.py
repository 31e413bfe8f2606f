"""`python -m worker.health`: exit 0 while a worker of this host, or with `--scheduler` the scheduler, is healthy.

For a container's health check. The rows answer, so that a process that exists but hangs is found too.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from store import jobs
from store.database import Database
from store.jobs import leases
from store.settings import Settings
from store.tables import Job

WORKER_SILENCE = timedelta(seconds=60)  # twelve heartbeats
MISSED_TURNS = 4  # times BIMT_RESEND_SECONDS without a message for a waiting job: no scheduler runs


def main(arguments: list[str]) -> int:
    """Print one sentence; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m worker.health", description="Exit 0 while it is healthy.")
    parser.add_argument("--scheduler", action="store_true", help="check the scheduler, not a worker of this host")
    args = parser.parse_args(arguments)
    settings = Settings.from_env(os.environ)
    database = Database(settings.database_url)
    try:
        with database.read() as session:
            now = datetime.now(UTC)
            problem = (
                scheduler_problem(session, now=now, resend_seconds=settings.resend_seconds)
                if args.scheduler
                else worker_problem(session, now=now, host=socket.gethostname())
            )
    finally:
        database.close()
    print(problem or "well")
    return int(problem is not None)


def worker_problem(session: Session, *, now: datetime, host: str) -> str | None:
    """None when a worker of this host has sent a heartbeat in the last minute."""
    names = [worker.name for worker in leases.workers(session, seen_since=now - WORKER_SILENCE)]
    if any(name.endswith(f"@{host}") for name in names):
        return None
    return f"No worker of {host} has sent a heartbeat for {WORKER_SILENCE.seconds} s."


def scheduler_problem(session: Session, *, now: datetime, resend_seconds: float) -> str | None:
    """None when no job has waited much longer for its message than the scheduler allows."""
    longest = MISSED_TURNS * resend_seconds
    unsent = jobs.unsent(session, now=now, resend_after=longest, limit=1)
    if unsent and _queued_before(session, unsent[0].id, now - timedelta(seconds=longest)):
        return f"Job {unsent[0].id} waits, and no message for it has been sent for {longest:.0f} s."
    return None


def _queued_before(session: Session, job_id: str, at: datetime) -> bool:
    job = session.get(Job, job_id)
    return job is not None and job.queued_at < at


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
