"""The one task. Its name and its argument are all that the two doors share."""

from __future__ import annotations

from typing import Any

from store.job_tables import ERRAND_QUEUES
from worker.app import app
from worker.desk import desk
from worker.run_job import run_job
from worker.workplace import workplace


@app.task(name="run_job", bind=True)
def run_job_task(self: Any, job_id: str) -> None:
    """Do the job, if it still waits."""
    queue = self.request.delivery_info["routing_key"]
    if queue in ERRAND_QUEUES:
        desk().serve(queue)
    else:
        run_job(job_id, here=workplace())
