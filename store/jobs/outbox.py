"""How workers learn of a queued job: a Celery message with its id, sent after the commit.

The row is the truth, so a lost message costs delay only: the scheduler sends again what `unsent` lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.jobs.tables import IS_QUEUED, Job

TASK = "run_job"  # name of the one Celery task; sent by name, so that the API never imports worker code
SEND_SECONDS = 2.0  # socket timeout: a broker that is unavailable must not hold up a submission


@dataclass(frozen=True)
class Message:
    """A queued job whose message is still to be sent."""

    id: str
    queue: str
    priority: int


def unsent(session: Session, *, now: datetime, resend_after: float, limit: int = 100) -> list[Message]:
    """Queued jobs of which no message was sent, then those whose message is older than `resend_after` seconds.

    Which job a worker takes is decided when it claims: see leases.claim_next.
    """
    query = select(Job.id, Job.queue, Job.priority).where(IS_QUEUED)
    never = query.where(Job.announced_at.is_(None)).order_by(Job.id).limit(limit)
    found = [Message(*row) for row in session.execute(never)]
    if len(found) < limit:
        stale = query.where(Job.announced_at < now - timedelta(seconds=resend_after))
        stale = stale.order_by(Job.announced_at, Job.id).limit(limit - len(found))
        found += [Message(*row) for row in session.execute(stale)]
    return found


def mark_sent(session: Session, job_ids: Sequence[str], *, at: datetime | None) -> None:
    """Record when the message of these jobs was sent; None if sending failed after all."""
    session.execute(
        update(Job)
        .where(Job.id.in_(job_ids), Job.state == "queued")
        .values(announced_at=at)
        .execution_options(synchronize_session=False)
    )


def enqueue(broker_url: str, job_id: str, queue: str, priority: int) -> None:
    """Send the job's id to the queue; to be called after the commit. Raises kombu's OperationalError."""
    try:
        sender(broker_url).send_task(
            TASK, args=[job_id], queue=queue, priority=redis_priority(priority), ignore_result=True, retry=False
        )
    except (RedisError, OSError) as error:
        raise OperationalError(str(error)) from error


def redis_priority(priority: int) -> int:
    """The priority of the message: 9 is our most urgent job, 0 is Redis's most urgent message."""
    return 9 - priority


def queue_settings() -> dict[str, Any]:
    """The settings of Celery that sender and worker must share."""
    return {
        "task_default_queue": "cpu",
        "task_create_missing_queues": True,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "broker_transport_options": {
            "priority_steps": list(range(10)),
            "queue_order_strategy": "priority",
            "socket_timeout": SEND_SECONDS,
            "socket_connect_timeout": SEND_SECONDS,
        },
        "broker_connection_retry_on_startup": True,
    }


def answers(broker_url: str) -> bool:
    """Whether the broker can be reached now."""
    try:
        with sender(broker_url).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=SEND_SECONDS)
            connection.default_channel.client.ping()
    except Exception:  # kombu, redis and the socket module each raise errors of their own
        return False
    return True


@cache
def sender(broker_url: str) -> Celery:
    """The Celery app of this process that sends to this broker; it pools its connections and threads may share it."""
    app = Celery("bimt-sender", broker=broker_url, set_as_current=False)
    app.conf.update(queue_settings())
    return app
