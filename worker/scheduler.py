"""`python -m worker.scheduler`: sees to it that what waits is announced, what was left is taken up, webhooks hear, and
what nobody needs is deleted. One is enough; a second does no harm, for every change is one conditional UPDATE."""

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

from store import errands, idempotency, jobs, presence, uploads, webhooks
from store.database import Database
from store.files import Files, collect_garbage, collect_strays
from store.queue import announce, queue_settings
from store.settings import Settings
from store.tables import Job
from worker.courier import Courier
from worker.patience import Patience
from worker.records import log_records

log = logging.getLogger("worker.scheduler")
TICK_SECONDS = 1.0  # a job that lost its worker waits no longer than its lease and this
ASLEEP_SECONDS = 10 * TICK_SECONDS  # whoever ticks so rarely did not tick: the machine slept
COLLECT_SECONDS = 600.0
STRAYS_SECONDS = 24 * 3600.0  # lists the whole file store, so once a day
ABSENT_SECONDS = 3600.0  # a worker that was silent so long is no longer listed
KEYS_DAYS = 7  # nobody sends a request again after a week and means the same one
BATCH = 100  # announcements of one tick


@dataclass
class Scheduler:
    """Each duty is one method that does its work once.

    count_messages   queue → how many messages the broker holds for it
    """

    settings: Settings
    database: Database
    files: Files
    count_messages: Callable[[str], int]
    announce: Callable[[str, str, int], None]
    away_since: float | None = None
    back_at: float = float("-inf")
    looked_at: datetime | None = None

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def announce_what_waits(self) -> int:
        """Tell the workers of jobs that they were not told of, or not lately; how many messages were sent.

        A worker takes the job whose turn it is, whichever one the message names, so a queue needs no more messages
        than jobs: those that the broker still holds are not sent again.
        """
        with self.database.read() as session:
            due = jobs.to_announce(session, now=self.now(), resend_after=self.settings.resend_seconds, limit=BATCH)
            counts = select(Job.queue, func.count()).where(Job.state == "queued").group_by(Job.queue)
            waiting = {queue: number for queue, number in session.execute(counts)} if due else {}
        sent = 0
        for queue in sorted({one.queue for one in due}):
            here = [one for one in due if one.queue == queue]
            missing = waiting.get(queue, 0) - self.count_messages(queue)
            for one in here[: max(0, missing)]:
                self.announce(one.id, one.queue, one.priority)
                sent += 1
        if due:
            with self.database.write() as session:
                jobs.mark_announced(session, [one.id for one in due], at=self.now())
        return sent

    def reap_what_was_left(self) -> list[str]:
        """Take jobs away from workers that fell silent; their ids.

        When the database was away, or this machine asleep, nobody could renew: then everybody gets half a lease to
        do so first.
        """
        now, before = self.now(), self.looked_at
        self.looked_at = now
        if before is not None and (now - before).total_seconds() > max(ASLEEP_SECONDS, self.settings.lease_seconds / 2):
            self.back_at = time.monotonic()
        if time.monotonic() - self.back_at < self.settings.lease_seconds / 2:
            return []
        with self.database.write() as session:
            reaped = jobs.reap(session, now=now, max_attempts=self.settings.max_attempts)
        for job_id in reaped:
            log.warning("%s lost its worker", job_id)
        return reaped

    def collect(self) -> None:
        """Delete what is too old (uploads that nobody completed, keys, drafts, answers, messages), files that nothing
        refers to, and the names of workers long gone."""
        now, grace = self.now(), timedelta(hours=self.settings.file_grace_hours)
        with self.database.write() as session:
            uploads.forget_expired(session, now=now)
            idempotency.forget(session, before=now - timedelta(days=KEYS_DAYS))
            drafts = jobs.delete_drafts(session, ended_before=now - timedelta(days=self.settings.draft_days))
        with self.database.write() as session:
            freed = collect_garbage(session, self.files, now=now, grace=grace)
        with self.database.write() as session:
            presence.forget(session, silent_since=now - timedelta(seconds=ABSENT_SECONDS))
        with self.database.write() as session:
            errands.forget(session, ended_before=now - timedelta(hours=self.settings.errand_hours))
            webhooks.forget(session, before=now - timedelta(days=self.settings.webhook_days))
        if drafts or freed:
            log.info("deleted %d drafts and %d files that nothing needs", len(drafts), len(freed))

    def collect_strays(self) -> None:
        """Delete bytes that never got a row."""
        with self.database.write() as session:
            collect_strays(session, self.files, now=self.now(), grace=timedelta(hours=self.settings.file_grace_hours))

    def attend(self, duty: Callable[[], object]) -> None:
        """Do a duty. A store or broker that is away is noted, and the duty left for the next time."""
        try:
            duty()
        except Exception as error:
            if not (Patience.is_about_the_store(error) or isinstance(error, OperationalError | ConnectionError)):
                log.exception("%s failed", getattr(duty, "__name__", duty))
                return
            if self.away_since is None:
                log.warning("%s has to wait: %s: %s", getattr(duty, "__name__", duty), type(error).__name__, error)
                self.away_since = time.monotonic()
            if Patience.is_about_the_store(error):
                self.back_at = time.monotonic()  # still away: the grace of the reaper begins when it is back
            return
        if self.away_since is not None:
            log.info("all is reachable again after %.0f s", time.monotonic() - self.away_since)
            self.away_since = None


@dataclass
class Duty:
    """What is done, how often, and when next."""

    do: Callable[[], object]
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
                return 0  # nobody ever sent to it, or listened

    return count


def main() -> int:
    """Tick until SIGTERM."""
    settings = Settings.from_env(os.environ)
    log_records(settings.log_level)
    scheduler = Scheduler(
        settings=settings,
        database=Database(settings.database_url, pool=2),
        files=Files(settings.files_url, spool=settings.spool),
        count_messages=broker_counter(settings.broker_url),
        announce=lambda job_id, queue, priority: announce(settings.broker_url, job_id, queue, priority),
    )
    over = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    duties = [
        Duty(scheduler.reap_what_was_left, TICK_SECONDS),
        Duty(scheduler.announce_what_waits, TICK_SECONDS),
        Duty(scheduler.collect, COLLECT_SECONDS, time.monotonic() + 60),
        Duty(scheduler.collect_strays, STRAYS_SECONDS, time.monotonic() + 3600),
    ]
    courier = threading.Thread(target=Courier.of(settings, scheduler.database).work, args=(over,), name="courier")
    courier.start()  # beside the duties: a receiver that is slow must hold up none of them
    log.info("ticking every %.0f s", TICK_SECONDS)
    while not over.wait(TICK_SECONDS):
        for duty in duties:
            if time.monotonic() >= duty.next_at:
                duty.next_at = time.monotonic() + duty.every_seconds
                scheduler.attend(duty.do)
    courier.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
