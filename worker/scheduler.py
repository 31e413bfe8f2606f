"""`python -m worker.scheduler`: sends messages for waiting jobs, requeues those whose worker was lost, submits missing
checks of uploads, compares stored files with their hashes, sends webhooks and deletes what is no longer needed. One is
enough; a second does no harm, since every change is one conditional UPDATE."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from sqlalchemy import func, select

from store import datasets, jobs, operations, teams, webhooks
from store.database import Database
from store.errors import DamagedFile, NotFound
from store.files import Files, collect_garbage, collect_orphans, longest_unchecked, record_checks
from store.jobs import leases, submissions
from store.jobs.outbox import enqueue, queue_settings
from store.log import set_up
from store.settings import Settings
from store.tables import Job
from worker.health import WORKER_SILENCE
from worker.retry import is_outage
from worker.webhook_sender import WebhookSender

log = logging.getLogger("worker.scheduler")
TICK_SECONDS = 1.0  # a job that lost its worker waits no longer than its lease and this
SUSPENDED_SECONDS = 10 * TICK_SECONDS  # a longer pause between two ticks means that the machine was suspended
COLLECT_SECONDS = 600.0
CHECKS_SECONDS = 15.0
ORPHANS_SECONDS = 24 * 3600.0  # lists the whole file store, so once a day
SCRUB_SECONDS = 60.0
SCRUB_BYTES = 64 << 20  # of one turn: 90 GB a day
ABSENT_SECONDS = 3600.0  # a worker without a heartbeat for so long is no longer listed
KEYS_DAYS = 7  # an idempotency key is kept for so long
MAX_MESSAGES = 100  # of one tick


@dataclass
class Scheduler:
    """Each periodic job is one method that runs once.

    count_messages   queue → how many messages the broker holds for it.
    enqueue          (job id, queue, priority) sends a message.
    monotonic        the clock of outages, in seconds.
    """

    settings: Settings
    database: Database
    files: Files
    count_messages: Callable[[str], int]
    enqueue: Callable[[str, str, int], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    away_since: float | None = None
    back_at: float = float("-inf")
    reaped_at: datetime | None = None

    def enqueue_waiting(self) -> int:
        """Send a message for jobs without a recent one; returns how many were sent.

        A worker takes the next job of its queue, whichever one the message names, so a queue needs no more messages
        than jobs: those that the broker still holds are not sent again.
        """
        with self.database.read() as session:
            due = jobs.unsent(session, now=self.now(), resend_after=self.settings.resend_seconds, limit=MAX_MESSAGES)
            counts = select(Job.queue, func.count()).where(Job.state == "queued").group_by(Job.queue)
            waiting = {queue: number for queue, number in session.execute(counts)} if due else {}
        sent = 0
        for queue in sorted({one.queue for one in due}):
            of_queue = [one for one in due if one.queue == queue]
            missing = waiting.get(queue, 0) - self.count_messages(queue)
            for one in of_queue[: max(0, missing)]:
                self.enqueue(one.id, one.queue, one.priority)
                sent += 1
        if due:
            with self.database.write() as session:
                jobs.mark_sent(session, [one.id for one in due], at=self.now())
        return sent

    def requeue_lost(self) -> list[str]:
        """Requeue jobs whose lease has lapsed; their ids.

        When the database was unavailable, or this machine suspended, no worker could renew: then all get half a lease
        to do so first.
        """
        now, before = self.now(), self.reaped_at
        self.reaped_at = now
        if before is not None and (now - before).total_seconds() > max(
            SUSPENDED_SECONDS, self.settings.lease_seconds / 2
        ):
            self.back_at = self.monotonic()
        if self.monotonic() - self.back_at < self.settings.lease_seconds / 2:
            return []
        with self.database.write() as session:
            reaped = jobs.reap(session, now=now, max_attempts=self.settings.max_attempts)
        for job_id in reaped:
            log.warning("%s lost its worker", job_id)
        return reaped

    def submit_missing_checks(self) -> list[str]:
        """Submit the checks of data sets that have none, such as those that the version before left; their ids."""
        with self.database.write() as session:
            missing = operations.submit_missing_checks(session, now=self.now())
        for check in missing:
            self.enqueue(check.id, check.queue, check.priority)
        return [check.id for check in missing]

    def note_missing_workers(self) -> None:
        """Tell those whose jobs wait for a worker that is not there."""
        with self.database.write() as session:
            leases.note_missing_workers(session, seen_since=self.now() - WORKER_SILENCE)

    def collect(self) -> None:
        """Delete what is too old (incomplete uploads, keys, drafts, answers, deliveries), files without references, and
        workers without a heartbeat."""
        now, grace = self.now(), timedelta(hours=self.settings.file_grace_hours)
        self.files.sweep()
        with self.database.write() as session:
            datasets.delete_expired_uploads(session, now=now)
            submissions.delete_keys(session, before=now - timedelta(days=KEYS_DAYS))
            drafts = jobs.delete_drafts(session, ended_before=now - timedelta(days=self.settings.draft_days))
        with self.database.write() as session:
            freed = collect_garbage(session, self.files, now=now, grace=grace)
        with self.database.write() as session:
            leases.delete_silent_workers(session, silent_since=now - timedelta(seconds=ABSENT_SECONDS))
        with self.database.write() as session:
            operations.delete_ended(session, ended_before=now - timedelta(hours=self.settings.operation_hours))
            webhooks.delete_old(session, before=now - timedelta(days=self.settings.webhook_days))
            teams.delete_ended_sessions(session, before=now - timedelta(days=KEYS_DAYS))
        if drafts or freed:
            log.info("deleted %d old jobs and %d files without references", len(drafts), len(freed))

    def scrub(self) -> list[str]:
        """Compare the files that were not looked at for longest with their names; those that are damaged or gone.

        Wrong bytes are never served, since they are compared whenever a file is opened; this finds the damage earlier,
        while a backup or the sender may still have the right ones.
        """
        with self.database.read() as session:
            names = longest_unchecked(session, most_bytes=SCRUB_BYTES)
        damaged = []
        for name in names:
            try:
                self.files.verify(name, again=True)
            except DamagedFile as error:
                log.error("%s", error)
                damaged.append(name)
            except NotFound:
                log.error("The stored file `%s` is gone. Upload the same content again, or restore it.", name)
                damaged.append(name)
        if names:
            with self.database.write() as session:
                record_checks(session, names, damaged, now=self.now())
        return damaged

    def collect_orphans(self) -> None:
        """Delete stored bytes that have no row."""
        with self.database.write() as session:
            collect_orphans(session, self.files, now=self.now(), grace=timedelta(hours=self.settings.file_grace_hours))

    def run_safely(self, function: Callable[[], object]) -> None:
        """Run a periodic job. Where the store or the broker is unavailable, it is left for its next time."""
        name = getattr(function, "__name__", function)
        try:
            function()
        except Exception as error:
            if not (is_outage(error) or isinstance(error, OperationalError | ConnectionError)):
                log.exception("%s failed", name)
                return
            if self.away_since is None:
                log.warning("%s has to wait: %s: %s", name, type(error).__name__, error)
                self.away_since = self.monotonic()
            if is_outage(error):
                self.back_at = self.monotonic()  # still away: the time to renew begins when it is back
            return
        if self.away_since is not None:
            log.info("store and broker are reachable again after %.0f s", self.monotonic() - self.away_since)
            self.away_since = None


@dataclass
class PeriodicJob:
    """A function, how often it runs, and when next."""

    function: Callable[[], object]
    every_seconds: float
    next_at: float = 0.0


def broker_counter(broker_url: str) -> Callable[[str], int]:
    """How many messages wait in a queue of this broker."""
    app = Celery("bimt-counter", broker=broker_url, set_as_current=False)
    app.conf.update(queue_settings())

    def count(queue: str) -> int:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            try:
                return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
            except ChannelError:
                return 0  # the queue has never been used

    return count


def main() -> int:
    """Tick until SIGTERM."""
    settings = Settings.from_env(os.environ)
    set_up(settings.log_level)
    scheduler = Scheduler(
        settings=settings,
        database=Database(settings.database_url, pool=2),
        files=Files(settings.files_url, spool=settings.spool),
        count_messages=broker_counter(settings.broker_url),
        enqueue=lambda job_id, queue, priority: enqueue(settings.broker_url, job_id, queue, priority),
    )
    over = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    periodic_jobs = [
        PeriodicJob(scheduler.requeue_lost, TICK_SECONDS),
        PeriodicJob(scheduler.enqueue_waiting, TICK_SECONDS),
        PeriodicJob(scheduler.submit_missing_checks, CHECKS_SECONDS),
        PeriodicJob(scheduler.note_missing_workers, CHECKS_SECONDS, time.monotonic() + WORKER_SILENCE.total_seconds()),
        PeriodicJob(scheduler.collect, COLLECT_SECONDS, time.monotonic() + 60),
        PeriodicJob(scheduler.scrub, SCRUB_SECONDS, time.monotonic() + 30),
        PeriodicJob(scheduler.collect_orphans, ORPHANS_SECONDS, time.monotonic() + 3600),
    ]
    sender = WebhookSender.of(settings, scheduler.database)
    webhooks_thread = threading.Thread(target=sender.work, args=(over,), name="webhooks")
    webhooks_thread.start()  # a thread of its own: a slow receiver must not delay the periodic jobs
    log.info("the periodic jobs are checked every %.0f s", TICK_SECONDS)
    while not over.wait(TICK_SECONDS):
        for job in periodic_jobs:
            if time.monotonic() >= job.next_at:
                job.next_at = time.monotonic() + job.every_seconds
                scheduler.run_safely(job.function)
    webhooks_thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
