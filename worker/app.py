"""The Celery app and its one task. Messages are hints, acknowledged at once; the row of the job is the truth."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from store.jobs.outbox import TASK, queue_settings
from store.settings import OPERATION_QUEUES
from worker.context import worker_context
from worker.job_runner import run_waiting_jobs
from worker.operation_queue import operation_queue

context = worker_context()
settings = context.settings
app = Celery("bimt", broker=settings.broker_url)
app.conf.update(queue_settings())
app.conf.update(
    # A lost message is sent again by the scheduler; a message that comes twice claims nothing the second time.
    task_acks_late=False,
    result_backend=None,
    # One job at a time of each queue, and none prefetched by a busy worker. Threads, because the training is a process
    # of its own: the task's thread only reads its messages, and a forked pool would be one idle process more.
    worker_pool="threads",
    worker_concurrency=len(context.queues),
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # A broker that is unavailable is waited for without limit: the running job continues meanwhile.
    broker_connection_max_retries=None,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)


@app.task(name=TASK, bind=True)
def handle_message(self: Any, job_id: str) -> None:
    """Run what waits in the queue that the message came by; `job_id` says why it was sent, the claim decides."""
    queue = self.request.delivery_info["routing_key"]
    if queue in OPERATION_QUEUES:
        operation_queue().serve(queue)
    else:
        run_waiting_jobs(context)


@worker_ready.connect
def _start(**_: Any) -> None:
    context.start_heartbeat()
    if context.serves_operations:
        operation_queue().open()
    else:
        context.training_processes.start_waiting()


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """SIGTERM: the running job writes a checkpoint and returns to the queue; Celery waits for that."""
    context.shutting_down.set()


@worker_shutdown.connect
def _end(**_: Any) -> None:
    context.end_heartbeat()
    if context.serves_operations:
        operation_queue().close()
    else:
        context.training_processes.close()
