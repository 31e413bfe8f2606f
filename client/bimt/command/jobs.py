"""Jobs: submit them, watch them, end them, and say what their runs have in common."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import click

from .. import formatting
from ..errors import JobEnded
from ..formatting import Args
from ..jobs import Job
from ..progress import job_bar
from .verb import (
    JOB,
    LIMIT,
    NAME,
    WATCH,
    Interrupted,
    Q,
    connect,
    cost_strengths,
    first,
    old_spelling,
    read_json,
    verb,
    whole_numbers,
)


@verb(
    "submit",
    click.option("--recipe", help="The name of a recipe."),
    click.option("--spec", type=click.Path(allow_dash=True), metavar="FILE", help="A spec as JSON; `-`: from stdin."),
    click.option("--dataset", help="Id of a data set."),
    click.option("--seeds", type=whole_numbers, default="0", metavar="NUMBERS", show_default=True,
                 help="Such as 0-4 or 0,3,7."),
    click.option("--cost-strengths", type=cost_strengths, metavar="NUMBERS", help="λ, such as 0.001,0.01, or auto."),
    NAME,
    click.option("--tags", multiple=True, metavar="TAG", help="May repeat."),
    old_spelling("tag", "tags"),
    click.option("--priority", type=int, default=5, show_default=True, help="0 to 9, the most urgent."),
    click.option("--key", help="An Idempotency-Key: the same request with it again gives the same job."),
    WATCH,
)  # fmt: skip
def submit(
    args: Args, spec: str | None, cost_strengths: Any, tags: Any, tag: Any, key: str | None, watch: bool, **request: Any
) -> Any:
    """Queue a job."""
    with connect(args) as client:
        job = client.jobs.submit(
            spec=read_json(spec) if spec else None,
            cost_strengths=cost_strengths or (),
            tags=[*tags, *tag],
            idempotency_key=key,
            **request,
        )
        networks = job.document["runs"]
        formatting.say(args, f"{job.id}  {job.name}: {networks} run{'s' * (networks != 1)}, {job.state}")
        if watch:
            return watch_to_end(args, job)
    formatting.say(args, f"Watch it with: bimt watch {job.id}")
    return job.document


@verb("watch", JOB)
def watch(args: Args, job: str) -> Any:
    """Watch a job until it has ended."""
    with connect(args) as client:
        return watch_to_end(args, client.jobs.get(job))


@verb(
    "jobs",
    Q,
    click.option("--state", type=click.Choice(("queued", "running", "succeeded", "failed", "cancelled")),
                 help="Only those in this state."),
    click.option("--tag", help="Only those with this tag."),
    LIMIT,
)  # fmt: skip
def jobs(args: Args, q: str | None, state: str | None, tag: str | None, limit: int) -> Any:
    """List the jobs."""
    with connect(args) as client:
        found = first(limit, partial(client.jobs.search, q, state=state, tag=tag))
    rows = [(j.id, j.name, j.state, f"{100 * j.progress:.0f} %", f"{j.created_at:%Y-%m-%d %H:%M}") for j in found]
    formatting.table(args, ("id", "name", "state", "done", "submitted (UTC)"), rows)
    return [each.document for each in found]


@verb("cancel", JOB)
def cancel(args: Args, job: str) -> Any:
    """End a job."""
    with connect(args) as client:
        now = client.jobs.get(job).cancel()
    formatting.say(args, f"{now.id} will end shortly." if not now.ended else f"{now.id} is {now.state}.")
    return now.document


@verb("retry", JOB, WATCH)
def retry(args: Args, job: str, watch: bool) -> Any:
    """Queue a failed or cancelled job again."""
    with connect(args) as client:
        now = client.jobs.get(job).retry()
        formatting.say(args, f"{now.id} is {now.state} again; runs that succeeded stay as they are.")
        return watch_to_end(args, now) if watch else now.document


@verb("stability", JOB)
def stability(args: Args, job: str) -> Any:
    """Say how far the runs of a job agree."""
    with connect(args) as client:
        found = client.jobs.get(job).stability()
    formatting.say(args, str(found["reading"]))
    rows = [
        (
            "" if of.get("cost_strength") is None else formatting.number(of["cost_strength"]),
            module["name"],
            ", ".join(module["inputs"]),
            ", ".join(module["outputs"]),
            *(f"{module[count]} of {of['runs']}" for count in ("same_ends_in", "supported_in", "met_in")),
        )
        for of in found.get("cost_strengths") or [found]
        for module in of.get("modules") or []
    ]
    if rows:
        heads = ("λ", "module", "reads", "decides", "same ends in", "supported in", "overlaps in")
        formatting.table(args, heads, rows)
    return found


@verb(
    "pareto",
    JOB,
    click.option("--tolerance", type=float, default=None, metavar="SHARE",
                 help="Share of the targets' variance by which a harmless loss may exceed the best; default: as for "
                 "pruning."),
)  # fmt: skip
def pareto(args: Args, job: str, tolerance: float | None) -> Any:
    """Say what a shorter wiring costs, over the runs of a job."""
    with connect(args) as client:
        found = client.jobs.get(job).pareto(tolerance=tolerance)
    rows = []
    for point in found["points"]:
        strength, loss, wiring = (formatting.number(point[name]) for name in ("cost_strength", "loss", "wiring"))
        best = "yes" if point["efficient"] else ""
        rows.append((point["run"], point["seed"], strength, loss, wiring, point["connections"], best))
    formatting.table(args, ("run", "seed", "λ", "loss", "wiring", "connections", "unbettered"), rows)
    if found.get("reading"):
        formatting.say(args, str(found["reading"]))
    if found["suggested_cost_strength"] is not None:
        strength = f"{found['suggested_cost_strength']:g}"
        formatting.say(args, f"λ {strength} is the largest whose median loss is still harmless.")
    formatting.table(
        args,
        ("λ", "runs", "median loss", "times the best", "wiring", "connections", "harmless"),
        [_strength(row) for row in found.get("cost_strengths") or []],
    )
    return found


def _strength(row: dict[str, Any]) -> tuple[Any, ...]:
    """A cost strength over its seeds, as a row of a table."""
    numbers = (formatting.number(row[name]) for name in ("loss", "times_best", "wiring", "connections"))
    return (formatting.number(row["cost_strength"]), row["runs"], *numbers, "yes" if row["harmless"] else "no")


def watch_to_end(args: Args, job: Job) -> Any:
    """The job when it has ended. Ctrl-C leaves it running. Raises JobEnded, Interrupted."""
    try:
        with job_bar(job.name, wanted=False if args.json else None) as show:
            for event in job.events():
                show(event)
                if args.json:
                    print(json.dumps(event.document, ensure_ascii=False), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        raise Interrupted(f"The job goes on. Watch it again with: bimt watch {job.id}") from None
    job = job.refresh()
    if job.state != "succeeded":
        raise JobEnded(job.id, job.state, job.reason)
    formatting.say(args, f"{job.name} has succeeded.")
    formatting.runs(args, job.runs())
    return job.document
