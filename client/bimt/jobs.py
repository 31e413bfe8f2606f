"""Jobs and recipes: take a complete spec, change it, submit it, watch it, cancel it, queue it again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

from .datasets import Dataset
from .errors import JobEnded
from .events import ENDED, JobEvent, follow
from .http import HttpClient
from .progress import job_bar
from .resource import Resource
from .runs import Figure, Run
from .uploaded_networks import UploadedNetwork


@dataclass(frozen=True, repr=False)
class Job(Resource):
    """One spec, trained for every seed and every cost strength.

    state      queued, running, succeeded, failed or cancelled
    progress   from 0 to 1
    reason     why it failed or was cancelled
    """

    name: str
    state: str
    progress: float
    tags: list[str]
    priority: int
    pinned: bool
    dataset_id: str | None
    network_id: str | None
    steps: int
    eta_seconds: float | None
    queue_position: int | None
    losses: dict[str, Any] | None
    reason: str | None
    spec: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    def _summary(self) -> tuple[Any, ...]:
        return (self.name, f"{self.state} {100 * self.progress:.0f} %" if self.state == "running" else self.state)

    @property
    def ended(self) -> bool:
        """Whether it succeeded, failed or was cancelled."""
        return self.state in ENDED

    def refresh(self) -> Job:
        """The job as it is now."""
        return Job.of(self.http.get(f"/jobs/{self.id}"), self.http)

    def events(self, *, timeout: float | None = None) -> Iterator[JobEvent]:
        """Every change until it has ended, each once, across broken connections.

        timeout   seconds after which TimeoutError is raised; the job goes on
        """
        return follow(self.http, self.id, timeout=timeout)

    def wait(self, *, timeout: float | None = None, progress: bool | None = None) -> Job:
        """The job once it has succeeded. Ctrl-C ends the waiting, not the job.

        progress   show a bar; None: where standard error is a terminal
        Raises JobEnded where it failed or was cancelled, TimeoutError after `timeout` seconds.
        """
        with job_bar(self.name, wanted=progress) as show:
            for event in self.events(timeout=timeout):
                show(event)
        job = self.refresh()
        if job.state in ("failed", "cancelled"):
            raise JobEnded(job.id, job.state, job.reason)
        return job

    def delete(self) -> None:
        """Delete it with its runs and their files. Raises Conflict while it is active, pinned or published."""
        self.http.send("DELETE", f"/jobs/{self.id}")

    def cancel(self) -> Job:
        """Request its end. A queued job ends at once, a running one within a second or two."""
        return Job.of(self.http.post(f"/jobs/{self.id}/cancel", repeatable=True), self.http)

    def retry(self) -> Job:
        """Queue it again after it failed or was cancelled; runs that succeeded stay as they are."""
        return Job.of(self.http.post(f"/jobs/{self.id}/retry"), self.http)

    def change(self, **fields: Any) -> Job:
        """Another `name`, other `tags`, `pinned` so that it never expires; while it waits, another `priority`."""
        return Job.of(self.http.patch(f"/jobs/{self.id}", fields), self.http)

    def runs(self) -> list[Run]:
        """Its networks, in the order of seeds and cost strengths."""
        return [Run.of(document, self.http) for document in self.http.items(f"/jobs/{self.id}/runs")]

    def stability(self) -> dict[str, Any]:
        """How far its runs agree: recurring modules, shared connections, a sentence in `reading`."""
        return dict(self.http.derived(f"/jobs/{self.id}/stability")["stability"])

    def pareto(self, *, tolerance: float | None = None) -> dict[str, Any]:
        """Loss against wiring over its runs: `points`, the `knee`, each of its `cost_strengths`, the largest harmless.

        tolerance   how far a loss may exceed the best one, as a share of the targets' variance; None: as far as pruning
                    was allowed to raise it
        """
        return dict(self.http.derived(f"/jobs/{self.id}/pareto", tolerance=tolerance))

    def figure(self, name: str = "pareto", format: Literal["svg", "png"] = "svg") -> Figure:
        """A picture of all its runs: `pareto` shows loss against wiring, with the cost strength as colour."""
        self.pareto()  # its operation draws the picture as well
        return Figure(name, format, self.http.content(f"/jobs/{self.id}/figures/{name}.{format}"))

    def logs(self) -> Iterator[dict[str, Any]]:
        """The log lines of its workers, oldest first: `at`, `level`, `text`, `run_id`."""
        return self.http.items(f"/jobs/{self.id}/logs")


@dataclass(frozen=True)
class Plan:
    """What a request would do, were it submitted.

    runs           networks that it would train
    steps          optimiser steps of all runs together
    seconds        of one worker for all of them, by the pace of your runs like it; None: none like it has ended
    like           how many such runs there are
    memory_bytes   of the training process at most, about; None: it shows only once the rows are made
    notes          what becomes of the table's cells that have no value
    """

    runs: int
    steps: int
    seconds: float | None
    like: int
    memory_bytes: int | None
    notes: list[str] = field(default_factory=list)


class JobRequest(TypedDict, total=False):
    """What `submit` and `plan` are asked, by name; `submit` says what each means."""

    recipe: str | None
    spec: dict[str, Any] | None
    dataset: Dataset | str | None
    network: UploadedNetwork | str | None
    kind: Literal["train", "analyse"]
    roles: dict[str, Any] | None
    seeds: Sequence[int]
    cost_strengths: Sequence[float] | Literal["auto"]
    name: str | None
    tags: Sequence[str]
    priority: int


def _body(request: JobRequest) -> dict[str, Any]:
    """The JSON of a request, without what was not given."""
    asked: dict[str, Any] = {"seeds": (0,), "priority": 5} | dict(request)
    dataset, network, strengths = asked.get("dataset"), asked.get("network"), asked.get("cost_strengths") or ()
    body = {
        **{name: asked.get(name) for name in ("recipe", "spec", "roles", "name", "priority")},
        "seeds": list(asked["seeds"]),
        "dataset": dataset.id if isinstance(dataset, Dataset) else dataset,
        "network_id": network.id if isinstance(network, UploadedNetwork) else network,
        "kind": None if asked.get("kind") == "train" else asked.get("kind"),
        "cost_strengths": strengths if isinstance(strengths, str) else list(strengths) or None,
        "tags": list(asked.get("tags") or ()) or None,
    }
    return {key: value for key, value in body.items() if value is not None}


class Jobs:
    """`client.jobs`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def submit(
        self,
        *,
        recipe: str | None = None,
        spec: dict[str, Any] | None = None,
        dataset: Dataset | str | None = None,
        network: UploadedNetwork | str | None = None,
        kind: Literal["train", "analyse"] = "train",
        roles: dict[str, Any] | None = None,
        seeds: Sequence[int] = (0,),
        cost_strengths: Sequence[float] | Literal["auto"] = (),
        name: str | None = None,
        tags: Sequence[str] = (),
        priority: int = 5,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job: one run for every seed and every cost strength.

        recipe, spec      how to train: one of them, or neither for the defaults
        dataset           the data, unless the recipe or the spec names it
        network           an uploaded network, from whose weights the training starts
        kind              `analyse`: the network is relocated, pruned and examined without a training step
        cost_strengths    λ, one run for each; `auto`: seven, from 0.03 to 30 times the spec's, of which `pareto` names
                          the largest that is harmless
        roles             instead of the data set's own: `inputs`, `targets`, `task`, …
        idempotency_key   the same request with the same key gives the same job. Without one a key is made for this
                          call, so that a retry after a broken connection never makes two jobs.
        """
        request: JobRequest = {
            "recipe": recipe,
            "spec": spec,
            "dataset": dataset,
            "network": network,
            "kind": kind,
            "roles": roles,
            "seeds": seeds,
            "cost_strengths": cost_strengths,
            "name": name,
            "tags": tags,
            "priority": priority,
        }
        body = _body(request)
        return Job.of(self._http.post("/jobs", body, key=idempotency_key or uuid.uuid4().hex), self._http)

    def plan(self, **request: Unpack[JobRequest]) -> Plan:
        """What `submit` would do with the same arguments: how many networks, how long, how much memory.

        Nothing is stored or queued. Raises what `submit` would raise for the request, with every wrong field.
        """
        found = self._http.post("/jobs/plan", _body(request), repeatable=True)
        return Plan(**{name: found[name] for name in Plan.__dataclass_fields__ if name in found})

    def get(self, job_id: str) -> Job:
        """A job by its id."""
        return Job.of(self._http.get(f"/jobs/{job_id}"), self._http)

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
        for document in self._http.items("/jobs", q=q, state=state, tag=tag, owner=owner, limit=limit):
            yield Job.of(document, self._http)


@dataclass(frozen=True)
class Recipe:
    """A complete spec with a name, known to show what its `claim` says.

    needs_dataset   whether the job must name the data
    spec            with every default filled in; empty in a list of recipes
    """

    name: str
    title: str
    claim: str
    needs_dataset: bool
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Recipe:
        """The recipe that a JSON document describes."""
        names = ("name", "title", "claim", "needs_dataset")
        return cls(**{name: document[name] for name in names}, spec=document.get("spec") or {}, document=document)


class Recipes:
    """`client.recipes`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def all(self) -> list[Recipe]:
        """Every recipe, without its spec."""
        return [Recipe.of(document) for document in self._http.items("/recipes")]

    def get(self, name: str) -> Recipe:
        """One recipe with its spec, which can be changed and submitted."""
        return Recipe.of(self._http.get(f"/recipes/{name}"))

    def spec_schema(self) -> dict[str, Any]:
        """JSON Schema of a spec."""
        return dict(self._http.get("/spec-schema"))
