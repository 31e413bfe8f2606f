"""The one task. Its name and its argument are all that the two doors share."""

from __future__ import annotations

from worker.app import app
from worker.run_job import run_job
from worker.workplace import workplace


@app.task(name="run_job")
def run_job_task(job_id: str) -> None:
    """Do the job, if it still waits."""
    run_job(job_id, here=workplace())
