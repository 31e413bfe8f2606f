"""How workers hear of a job: one message with its id. The row is the truth, so a lost message costs delay only.

The message is Celery's, protocol 2, in the envelope of its Redis transport. It is written here, once for all jobs but
for the id, because Celery's own way to send it takes five times as long, a fifth of what a submission costs; a test
holds it against what Celery sends.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

TASK = "run_job"  # the one task of the one Celery app; named here so that nobody must import it
SEND_SECONDS = 2.0  # a broker that is away must not hold up the one who submits
BETWEEN = "\x06\x16"  # a queue's name and a priority, in the name of a list

_lock = threading.Lock()
_lines: dict[str, Redis] = {}


def announce(broker_url: str, job_id: str, queue: str, priority: int) -> None:
    """Send the id to the queue. Call it after the commit. Raises kombu's OperationalError where the broker is away."""
    place = redis_priority(priority)
    message = json.dumps(_message(job_id, queue, place))
    try:
        _line(broker_url).lpush(f"{queue}{BETWEEN}{place}" if place else queue, message)
    except (RedisError, OSError) as error:
        raise OperationalError(str(error)) from error


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
        _line(broker_url).ping()
    except Exception:  # kombu, redis and the socket each have errors of their own for "nobody there"
        return False
    return True


def _message(job_id: str, queue: str, place: int) -> dict[str, Any]:
    """What a worker of Celery takes for a call of the task with this id."""
    nobody = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([[job_id], {}, nobody]).encode()
    number = str(uuid.uuid4())
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK,
            "id": number,
            "root_id": number,
            "parent_id": None,
            "group": None,
            "group_index": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": repr([job_id]),
            "kwargsrepr": "{}",
            "origin": "bimt",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": number,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": place,
            "body_encoding": "base64",
            "delivery_tag": number,
        },
    }


def _line(broker_url: str) -> Redis:
    """This process's line to the broker, made by kombu, which knows how its addresses are written; threads share it.

    Raises kombu's OperationalError where the broker is away.
    """
    with _lock:
        line = _lines.get(broker_url)
        if line is None:
            app = Celery("bimt-sender", broker=broker_url, set_as_current=False)
            app.conf.update(queue_settings())
            connection = app.connection_for_write()
            connection.ensure_connection(max_retries=1, timeout=SEND_SECONDS)
            line = _lines[broker_url] = connection.default_channel.client
        return line
