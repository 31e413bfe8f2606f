"""The Celery app. Messages are hints: acknowledged at once, without results; the row of the job is the truth."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from store.queue import queue_settings
from store.settings import Settings
from worker.desk import desk
from worker.workplace import workplace

settings = Settings.from_env(os.environ)
app = Celery("bimt", broker=settings.broker_url, include=["worker.tasks"])
app.conf.update(queue_settings())
app.conf.update(
    # A lost message is announced again by the scheduler; a message that comes twice claims nothing the second time.
    task_acks_late=False,
    result_backend=None,
    # One job at a time of each queue, and none held back in a worker that is busy. Threads, because the training is a
    # process of its own: the task's thread only listens to it, and a forked pool would be a third that does nothing.
    worker_pool="threads",
    worker_concurrency=len(workplace().queues),
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # A broker that is away is waited for, for ever: the running job goes on meanwhile.
    broker_connection_max_retries=None,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)


@worker_ready.connect
def _arrive(**_: Any) -> None:
    workplace().be_present()
    if "errands" in workplace().queues:
        desk().open()


@worker_shutting_down.connect
def _go_home(**_: Any) -> None:
    """SIGTERM: the running job makes a checkpoint and goes back to the queue; Celery waits for that."""
    workplace().going_home.set()


@worker_shutdown.connect
def _leave(**_: Any) -> None:
    workplace().leave()
    if "errands" in workplace().queues:
        desk().close()
