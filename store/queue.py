"""How workers hear of a job: one message with its id. The row is the truth, so a lost message costs delay only."""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery

TASK = "run_job"  # the one task of the one Celery app; named here so that nobody must import it
SEND_SECONDS = 2.0  # a broker that is away must not hold up the one who submits

_lock = threading.Lock()
_senders: dict[str, Celery] = {}


def announce(broker_url: str, job_id: str, queue: str, priority: int) -> None:
    """Send the id to the queue. Call it after the commit. Raises kombu's OperationalError where the broker is away."""
    _sender(broker_url).send_task(
        TASK, args=[job_id], queue=queue, priority=redis_priority(priority), ignore_result=True, retry=False
    )


def redis_priority(priority: int) -> int:
    """Our 9 is the most urgent; on Redis 0 is. This is the only place where the two meet."""
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
    """Whether the broker can be reached just now."""
    try:
        with _sender(broker_url).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=SEND_SECONDS)
            connection.default_channel.client.ping()
    except Exception:  # kombu, redis and the socket each have errors of their own for "nobody there"
        return False
    return True


def _sender(broker_url: str) -> Celery:
    """One sending app for each broker in this process; it keeps its connections."""
    with _lock:
        app = _senders.get(broker_url)
        if app is None:
            app = Celery("bimt-sender", broker=broker_url, set_as_current=False)
            app.conf.update(queue_settings())
            _senders[broker_url] = app
        return app
