"""`python -m worker.health`: exit 0 while the worker of this host, or with `--scheduler` the scheduler, does its work.

For a container's health check. The answer is read from the rows, so that a process that lives but hangs is found too.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from store import jobs, presence
from store.database import Database
from store.settings import Settings
from store.tables import Job

WORKER_SILENCE = timedelta(seconds=60)  # a worker says every few seconds that it is there
MISSED_TURNS = 4  # a job that went unannounced for so many times BIMT_RESEND_SECONDS: nobody sweeps


def main(arguments: list[str]) -> int:
    """Say in one sentence how it is; 1 when it is not well."""
    parser = argparse.ArgumentParser(prog="python -m worker.health", description="Exit 0 while all is well.")
    parser.add_argument("--scheduler", action="store_true", help="ask for the scheduler, not for a worker of this host")
    options = parser.parse_args(arguments)
    settings = Settings.from_env(os.environ)
    database = Database(settings.database_url)
    try:
        with database.read() as session:
            now = datetime.now(UTC)
            complaint = (
                scheduler_complaint(session, now=now, resend_seconds=settings.resend_seconds)
                if options.scheduler
                else worker_complaint(session, now=now, host=socket.gethostname())
            )
    finally:
        database.close()
    print(complaint or "well")
    return int(complaint is not None)


def worker_complaint(session: Session, *, now: datetime, host: str) -> str | None:
    """None when some worker of this host was heard of in the last minute."""
    names = [worker.name for worker in presence.workers(session, seen_since=now - WORKER_SILENCE)]
    if any(name.endswith(f"@{host}") for name in names):
        return None
    return f"No worker of {host} was heard of for {WORKER_SILENCE.seconds} s."


def scheduler_complaint(session: Session, *, now: datetime, resend_seconds: float) -> str | None:
    """None when no job waits unannounced for much longer than the scheduler lets it."""
    longest = MISSED_TURNS * resend_seconds
    unannounced = jobs.to_announce(session, now=now, resend_after=longest, limit=1)
    if unannounced and _queued_before(session, unannounced[0].id, now - timedelta(seconds=longest)):
        return f"Job {unannounced[0].id} waits, and was not announced for {longest:.0f} s."
    return None


def _queued_before(session: Session, job_id: str, moment: datetime) -> bool:
    job = session.get(Job, job_id)
    return job is not None and job.queued_at < moment


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
