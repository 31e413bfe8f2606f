"""Jobs: submit, watch, wait, cancel, try again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .bars import job_bar
from .datasets import Dataset
from .errors import JobEnded
from .following import ENDED, Moment, follow
from .runs import Run
from .things import Thing
from .wire import Wire


@dataclass(frozen=True, repr=False)
class Job(Thing):
    """What is queued: one spec, trained for every seed and every cost strength.

    state      queued, running, succeeded, failed or cancelled
    progress   from 0 to 1
    reason     why it ended as it did
    """

    name: str
    state: str
    progress: float
    tags: list[str]
    priority: int
    pinned: bool
    dataset_id: str | None
    steps: int
    eta_seconds: float | None
    queue_position: int | None
    losses: dict[str, Any] | None
    reason: str | None
    spec: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    def _told(self) -> tuple[Any, ...]:
        return (self.name, f"{self.state} {100 * self.progress:.0f} %" if self.state == "running" else self.state)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def refresh(self) -> Job:
        """The same as it is now."""
        return Job.of(self.wire.get(f"/jobs/{self.id}"), self.wire)

    def events(self, *, timeout: float | None = None) -> Iterator[Moment]:
        """Every change until it has ended, each once, over lines that break.

        timeout   seconds after which TimeoutError is raised; the job goes on
        """
        return follow(self.wire, self.id, timeout=timeout)

    def wait(self, *, timeout: float | None = None, progress: bool | None = None) -> Job:
        """The job once it has succeeded. Ctrl-C ends the waiting, not the job.

        progress   a bar; None: where somebody is looking
        Raises JobEnded where it failed or was cancelled, TimeoutError after `timeout` seconds.
        """
        with job_bar(self.name, wanted=progress) as told:
            for moment in self.events(timeout=timeout):
                told(moment)
        job = self.refresh()
        if job.state in ("failed", "cancelled"):
            raise JobEnded(job.id, job.state, job.reason)
        return job

    def cancel(self) -> Job:
        """Ask for its end. A waiting job ends at once, a running one within a second or two."""
        return Job.of(self.wire.post(f"/jobs/{self.id}/cancel", repeatable=True), self.wire)

    def retry(self) -> Job:
        """Queue it again after it failed or was cancelled; runs that succeeded stay as they are."""
        return Job.of(self.wire.post(f"/jobs/{self.id}/retry"), self.wire)

    def change(self, **fields: Any) -> Job:
        """Another `name`, other `tags`, `pinned` so that it never expires; while it waits, another `priority`."""
        return Job.of(self.wire.patch(f"/jobs/{self.id}", fields), self.wire)

    def runs(self) -> list[Run]:
        """Its networks, in the order of seeds and cost strengths."""
        return [Run.of(document, self.wire) for document in self.wire.items(f"/jobs/{self.id}/runs")]

    def stability(self) -> dict[str, Any]:
        """How far its runs agree: the modules that come back, the connections, a sentence in `reading`."""
        return dict(self.wire.made(f"/jobs/{self.id}/stability")["stability"])

    def pareto(self, *, tolerance: float = 0.05) -> dict[str, Any]:
        """Loss against wiring over its runs: `points`, the `knee`, the largest λ whose loss is still harmless.

        tolerance   how far above the best a harmless loss may be, as a share of the targets' variance
        """
        return dict(self.wire.made(f"/jobs/{self.id}/pareto", tolerance=tolerance))

    def logs(self) -> Iterator[dict[str, Any]]:
        """What the workers said, oldest first: `at`, `level`, `text`, `run_id`."""
        return self.wire.items(f"/jobs/{self.id}/logs")


class Jobs:
    """`client.jobs`"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def submit(
        self,
        *,
        recipe: str | None = None,
        spec: dict[str, Any] | None = None,
        dataset: Dataset | str | None = None,
        roles: dict[str, Any] | None = None,
        seeds: Sequence[int] = (0,),
        cost_strengths: Sequence[float] = (),
        name: str | None = None,
        tags: Sequence[str] = (),
        priority: int = 5,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job: one run for every seed and every cost strength.

        recipe, spec      how to train: one of them, or neither for what is usual
        dataset           what to learn from, unless the recipe or the spec names it
        roles             other columns than the data set's own: `inputs`, `targets`, `task`, …
        idempotency_key   sending the same again with the same key gives the same job. Without one a key is made for
                          this call, so that a line that breaks on the way never makes two jobs.
        """
        body: dict[str, Any] = {"seeds": list(seeds), "priority": priority}
        more = {
            "recipe": recipe,
            "spec": spec,
            "dataset": dataset.id if isinstance(dataset, Dataset) else dataset,
            "roles": roles,
            "cost_strengths": list(cost_strengths) or None,
            "name": name,
            "tags": list(tags) or None,
        }
        body |= {key: value for key, value in more.items() if value is not None}
        return Job.of(self._wire.post("/jobs", body, key=idempotency_key or uuid.uuid4().hex), self._wire)

    def get(self, job_id: str) -> Job:
        return Job.of(self._wire.get(f"/jobs/{job_id}"), self._wire)

    def search(
        self,
        q: str | None = None,
        *,
        state: str | None = None,
        tag: str | None = None,
        owner: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """The team's jobs, newest first.

        q       part of the name
        owner   id of a member; `client.me()["member_id"]` is your own
        """
        for document in self._wire.items("/jobs", q=q, state=state, tag=tag, owner=owner, limit=limit):
            yield Job.of(document, self._wire)
