"""From the request of a job to what is queued: data filled in, defaults written out, one spec per run.

Everything that may refuse a request stands in one place, in the order in which it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, ValidationError, field_validator, model_validator
from pydantic import Tag as UnionTag
from sqlalchemy.orm import Session

from api.datasets import READ_BY, Roles
from api.problems import Problem, field_errors, fields_problem, invalid, wrong
from api.recipes import known_recipe
from api.schemas import Body, DatasetId, Label, NetworkId, Tag
from api.services import services
from bimt_engine.analysis.statements.wording import counted
from bimt_engine.data.roles import resolve_roles, role_notes, updated_roles
from bimt_engine.recipes import Recipe
from bimt_engine.spec import (
    LADDER,
    DatasetSpec,
    Spec,
    TrainingSpec,
    UploadedData,
    UploadedNetwork,
    about_bytes,
    least,
    with_absent_fields,
)
from store import datasets, jobs, networks, operations
from store.errors import QuotaExceeded
from store.jobs import JobView, NewRun
from store.runs.search import ended_like
from store.settings import Settings, job_memory
from store.tables import Dataset, Network, Run
from store.teams import Caller

MOST_SEEDS_LOOKED_AT = 100  # a split of 400 000 rows takes 10 ms each
MAX_NAMED = 8  # columns in a sentence
NOT_SCALED = ("cayley", "text", "images", "idx")  # formats whose examples are tokens, or bytes that become 0 … 1
MAX_VALUES = 10_000  # seeds, or cost strengths; how many runs they may make together is BIMT_MAX_RUNS


Seed = Annotated[int, Field(ge=0, lt=2**32)]


CostStrength = Annotated[float, Field(ge=0, le=1e6)]


CostStrengths = Annotated[
    Annotated[list[CostStrength], Field(max_length=MAX_VALUES), UnionTag("numbers")]
    | Annotated[Literal["auto"], UnionTag("auto")],
    Discriminator(lambda given: "auto" if isinstance(given, str) else "numbers"),
]
"""Numbers, or `auto` for `Spec.ladder`. The tags do not stand in the JSON."""


class JobSpec(Spec):
    """A spec whose data may be named by the job instead."""

    dataset: DatasetSpec | None = None  # type: ignore[assignment]

    @field_validator("training")
    @classmethod
    def _trains_what_is_drawn(cls, training: TrainingSpec, info: Any) -> TrainingSpec:
        """The network may be named beside the spec; the complete spec is asked."""
        return training


class JobIn(Body):
    """What to train. Name the data by `dataset` or inside `spec`; say how by `spec` or `recipe`, or leave both out."""

    kind: Literal["train", "analyse"] = Field(
        default="train",
        description="`analyse`: relocate, prune and examine an uploaded network without a training step.",
    )
    network_id: NetworkId | None = Field(
        default=None, description="An uploaded network of your team: training starts from its weights."
    )
    dataset: DatasetId | None = Field(default=None, description="A data set of your team.")
    roles: Roles | None = Field(default=None, description="Other column roles than the data set's own.")
    spec: JobSpec | None = Field(default=None, description="Everything else; see /api/v1/spec-schema.")
    recipe: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        default=None, description="The name of a recipe, whose spec is used."
    )
    seeds: list[Seed] = Field(default=[0], min_length=1, max_length=MAX_VALUES, description="One run for each.")
    cost_strengths: CostStrengths = Field(
        default=[],
        description="λ of the first phase that costs anything; the others keep their proportion to it. "
        "One run for each, times the seeds. Empty: as the spec says. `auto`: seven, from 0.03 to 30 times what the "
        "spec says; the job's `pareto` names the largest whose loss on validation rows is harmless.",
    )
    priority: int = Field(default=5, ge=0, le=9, description="9 is the most urgent.")
    name: Label | None = None
    tags: list[Tag] = Field(default=[], max_length=20)

    @field_validator("seeds", "cost_strengths", "tags")
    @classmethod
    def _each_once(cls, values: list[Any] | str) -> list[Any] | str:
        if not isinstance(values, str) and len(set(values)) < len(values):
            raise ValueError("Every value must be there only once.")
        return values

    @model_validator(mode="after")
    def _one_way_each(self) -> JobIn:
        if self.spec is not None and self.recipe is not None:
            raise ValueError("Give either `spec` or `recipe`, not both.")
        if self.dataset is not None and self.spec is not None and self.spec.dataset is not None:
            raise ValueError("Name the data either in `dataset` or in `spec/dataset`, not in both.")
        if self.kind == "analyse" and self.network_id is None:
            raise ValueError("Only an uploaded network can be analysed without training: name it in `network_id`.")
        if self.network_id is not None and self.spec is not None and "network" in self.spec.model_fields_set:
            raise ValueError("Name the network either in `network_id` or in `spec/network`, not in both.")
        if self.roles is not None and self.dataset is None:
            raise ValueError("`roles` are roles of columns of an uploaded data set; name it in `dataset`.")
        return self


class ForkIn(Body):
    """What should differ. Nothing: the same training with the same seed."""

    changes: dict[str, Any] = Field(
        default={}, description="A JSON merge patch (RFC 7396) on the spec: null takes a field away."
    )
    dataset: DatasetId | None = Field(default=None, description="Other data: a data set of your team.")
    roles: Roles | None = Field(default=None, description="With `dataset`: other column roles than its own.")
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, max_length=MAX_VALUES, description="Null: the same seed."
    )
    cost_strengths: CostStrengths = Field(default=[], description="As of a job.")
    name: Label | None = None
    tags: list[Tag] = Field(default=[], max_length=20)
    priority: int = Field(default=5, ge=0, le=9)


def submit(
    rows: Session, who: Caller, body: JobIn, *, settings: Settings, now: datetime, idempotency_key: str | None = None
) -> JobView:
    """The requested job, queued in this transaction and marked as sent: send its message after the commit.

    settings   its bounds of a job: runs, memory, days

    Raises the problem of every field that is wrong or missing, or of a job that is too large, NotFound for a data set
    of another team, QuotaExceeded, and Conflict for a key that was used for another request.
    """
    spec, dataset_id, asked = _asked_for(rows, who, body, settings)
    network_id = _own_network(rows, who.team_id, spec)
    return jobs.submit(
        rows,
        team_id=who.team_id,
        member_id=who.member_id,
        name=body.name or _name(body),
        tags=body.tags,
        priority=body.priority,
        queue=queue_of(spec),
        dataset_id=dataset_id,
        network_id=network_id,
        spec=spec.model_dump(mode="json"),
        runs=asked,
        idempotency_key=idempotency_key,
        announced_at=now,
        now=now,
    )


def refuse_hopeless(spec: Spec, runs: int, table: int | None, settings: Settings) -> None:
    """Raises the problem of a job that needs more memory than a worker gives, or years.

    table   rows of the uploaded data; None of others
    """
    needs = least(spec, rows=table)
    if needs is None:
        return
    # Where nothing was set, the workers are taken to be on machines like this one.
    memory = job_memory(settings.job_memory_bytes)
    if needs.bytes > memory:
        raise invalid(
            "/spec/training/batch_size",
            f"This needs at least {needs.bytes / 2**30:.1f} GiB of memory, with {needs.examples:,} examples in one "
            f"step and {needs.weights:,} weights, and one job may have {memory / 2**30:.1f} GiB "
            "(BIMT_JOB_MEMORY_BYTES): set `batch_size`, or make the network or the data smaller.",
        )
    days = runs * needs.seconds / 86_400
    if days > settings.job_days:
        raise invalid(
            "/spec/training/steps",
            f"This would keep one processor core busy for at least {days:,.0f} days, with {runs} runs of "
            f"{spec.training.steps:,} steps, {needs.examples:,} examples in each and {needs.weights:,} weights; a job "
            f"may take {settings.job_days:g} (BIMT_JOB_DAYS). Ask for fewer steps or runs, set `batch_size`, or make "
            "the network smaller.",
        )


def refuse_bad_data(who: Caller, body: JobIn) -> None:
    """Raise the problem of uploaded data that cannot be trained on in the roles of a requested job.

    A worker looks at the file, in roles that the check of the upload has not seen, and with the seeds where rows are
    weighted or split by a column. It is waited for as an upload's check is: where the file is large or no worker
    answers, the training reports it instead. Call it outside of database sessions.
    """
    here = services()
    with here.database.read() as rows:
        spec, dataset_id = complete(rows, who.team_id, body)
        data = spec.dataset
        if dataset_id is None or not isinstance(data, UploadedData):
            return
        row = datasets.get(rows, who.team_id, dataset_id)
    if row.bytes > here.settings.check_at_once_bytes or not _is_unseen(data, row.roles or {}):
        return
    request = {
        "sha256": data.sha256,
        "data": data.model_dump(mode="json"),
        "seeds": body.seeds[:MOST_SEEDS_LOOKED_AT],
    }
    try:
        with here.database.write() as rows:
            asked = operations.submit(
                rows,
                team_id=who.team_id,
                member_id=who.member_id,
                kind="check_job",
                about=dataset_id,
                request=request,
                queue="interactive",
                now=here.now(),
            )
    except QuotaExceeded:  # of answers that are waited for; the job has a quota of its own
        return
    here.enqueue(asked.id, asked.queue, asked.priority, marked=True)
    here.wait_until_ended(asked.id, seconds=here.check_wait_seconds)
    with here.database.read() as rows:
        found = operations.get(rows, who.team_id, asked.id).answer or {}
    if errors := found.get("errors"):
        problems = [_of_the_job(error, body, data) for error in errors]
        raise Problem("invalid-fields", problems[0]["detail"], problems)


def _is_unseen(data: UploadedData, roles: Mapping[str, Any]) -> bool:
    """Whether the check of an upload with these roles says nothing of these data."""
    if data.weight is not None or data.split.column is not None:
        return True
    asked = data.model_dump(mode="json")
    return any(roles.get(name) and roles[name] != asked.get(name) for name in READ_BY)


def _of_the_job(error: Mapping[str, Any], body: JobIn, data: UploadedData) -> dict[str, Any]:
    """What is wrong with the data of a job, with its place in the request."""
    column, under = error.get("column"), "/spec/dataset"
    if body.dataset is not None:
        under = "/dataset" if body.roles is None else "/roles"
    pointer = under
    if column is not None and under != "/dataset":
        if column == data.weight:
            pointer = f"{under}/weight"
        elif column == data.split.column:
            pointer = f"{under}/split/column"
        elif column in data.targets:
            pointer = f"{under}/targets/{data.targets.index(column)}"
        else:
            pointer = f"{under}/columns/{column.replace('~', '~0').replace('/', '~1')}"
    more = {name: error[name] for name in ("row", "column") if error.get(name) is not None}
    return wrong(pointer, error["detail"]) | more


def fork(run: Run, asked: ForkIn, *, name: str, team_id: str) -> JobIn:
    """The job that trains a run's spec again, changed as asked.

    Raises the problem of every field that is wrong, and of data that belong to another team.
    """
    spec = merge_patch(with_absent_fields(run.spec), asked.changes)
    document: dict[str, Any] = {
        "seeds": asked.seeds or [run.seed],
        "cost_strengths": asked.cost_strengths,
        "name": name,
        "tags": asked.tags,
        "priority": asked.priority,
        "spec": spec,
    }
    if asked.dataset is not None:
        spec.pop("dataset", None)
        document |= {"dataset": asked.dataset}
        if asked.roles is not None:
            document["roles"] = asked.roles.model_dump(exclude_unset=True)
    if run.team_id != team_id and (spec.get("network") or {}).get("kind") == "uploaded":
        raise Problem("conflict", "It was trained from a network of another team, which only that team can use.")
    if asked.dataset is None and run.team_id != team_id and (spec.get("dataset") or {}).get("kind") == "uploaded":
        raise Problem("conflict", "It was trained on data of another team; name data of your own in `dataset`.")
    try:
        return JobIn.model_validate(document)
    except ValidationError as error:
        errors = field_errors(error, document)
        for entry in errors:
            if entry["pointer"].startswith("/spec"):
                entry["pointer"] = "/changes" + entry["pointer"].removeprefix("/spec")
        raise fields_problem(errors) from None


def merge_patch(document: Any, patch: Any) -> Any:
    """The document with a JSON merge patch (RFC 7396) applied: null takes a field away."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def complete(rows: Session, team_id: str, body: JobIn) -> tuple[Spec, str | None]:
    """The complete spec of a requested job, and the id of its data set when it is one of the team's.

    Raises the problem of every field that is wrong or missing, and NotFound for a data set of another team.
    """
    recipe = _recipe(body)
    if recipe is not None and body.dataset is None and not recipe.needs_dataset and body.network_id is None:
        return recipe.spec, None
    fields = _how(body, recipe)
    if body.network_id is not None:
        fields["network"] = _network_part(networks.get(rows, team_id, body.network_id))
    if body.kind == "analyse":
        fields["training"] = dict(fields.get("training") or {}) | {"steps": 0}
    dataset_id = body.dataset
    if dataset_id is not None:
        fields["dataset"] = _dataset_part(datasets.get(rows, team_id, dataset_id), body.roles)
    if fields.get("dataset") is None:
        raise invalid("/dataset", "Say what to learn from: the id of a data set here, or a maker in `spec/dataset`.")
    if (fields.get("network") or {}).get("kind") == "uploaded" and fields["dataset"].get("kind") == "uploaded":
        fields["dataset"].setdefault("standardise", False)  # its weights belong to the numbers that it was trained on
    try:
        spec = Spec.model_validate(fields)
    except ValidationError as error:
        raise fields_problem(field_errors(error, fields, under="/spec")) from None
    misfits = [wrong("/spec" + pointer, sentence) for pointer, sentence in spec.misfits()]
    if isinstance(spec.network, UploadedNetwork) and isinstance(spec.dataset, UploadedData):
        network = networks.get(rows, team_id, spec.network.network)
        preview = datasets.get(rows, team_id, spec.dataset.dataset_id).preview or {}
        under = "/spec/dataset" if body.dataset is None else "/roles"
        misfits += _network_misfits(network, preview, spec.dataset, under)
    if misfits:
        raise fields_problem(misfits)
    if dataset_id is None and isinstance(spec.dataset, UploadedData):
        dataset_id = _own_upload(rows, team_id, spec.dataset)
    return spec, dataset_id


@dataclass(frozen=True)
class Plan:
    """What a job would do.

    seconds        of one worker for all runs, by the pace of runs like it; None: none like it has ended.
    like           how many such runs there are.
    memory_bytes   of the training process at most, about; None: how many rows there are is not known before they are
                   made.
    notes          what becomes of the table's cells that have no value, and in what units an uploaded network reads it.
    """

    runs: int
    steps: int
    seconds: float | None
    like: int
    memory_bytes: int | None
    notes: Sequence[str]


def plan(rows: Session, who: Caller, body: JobIn, *, settings: Settings) -> Plan:
    """What the requested job would do; nothing is stored. Raises what `submit` raises of a request that is wrong."""
    spec, dataset_id, written_out = _asked_for(rows, who, body, settings)
    steps = sum(run["steps"] for run in written_out)
    method, kind = spec.training.method, spec.dataset.kind
    wanted = _what_takes_time(spec.model_dump(mode="json"))
    found = ended_like(rows, who.team_id, method=method, dataset_kind=kind)
    like = [run for run in found if _what_takes_time(run.spec) == wanted]
    seconds = None
    if like:
        pace = median((run.training_seconds or 0.0) / max(1, run.steps) for run in like)
        seconds = steps * pace + len(written_out) * median(run.evidence_seconds or 0.0 for run in like)
    memory, notes = None, list[str]()
    if dataset_id is not None and (row := datasets.get(rows, who.team_id, dataset_id)).rows:
        preview = row.preview or {}
        numbers = sum(math.prod(column.get("shape") or [1]) for column in preview.get("columns", ()))
        memory = about_bytes(spec, numbers=row.rows * numbers)
        notes = [*_unit_notes(spec), *role_notes(preview, spec.dataset.model_dump(mode="json"))]
    return Plan(len(written_out), steps, seconds, len(like), memory, notes)


def _unit_notes(spec: Spec) -> list[str]:
    """The units in which an uploaded network sees the columns of a table: those of the file, or scaled."""
    data = spec.dataset
    if not (isinstance(spec.network, UploadedNetwork) and isinstance(data, UploadedData)) or data.format in NOT_SCALED:
        return []
    if data.standardise:
        return [
            "The network will see columns scaled to mean 0 and variance 1: untick “scale to mean 0, variance 1” "
            "(`standardise: false`) if it was trained on raw ones."
        ]
    return ["The network will see the columns as they are: scale them (`standardise: true`) if it was trained so."]


def _what_takes_time(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two specs must have in common for a step to take as long in both."""
    data, training = spec["dataset"], spec["training"]
    return (
        {name: value for name, value in spec["network"].items() if name != "geometry"},
        data.get("sha256") or data,
        data.get("inputs"),
        training.get("batch_size"),
        training.get("precision"),
    )


def _asked_for(rows: Session, who: Caller, body: JobIn, settings: Settings) -> tuple[Spec, str | None, list[NewRun]]:
    """The complete spec of a request, the id of its data set, and its runs.

    Raises for more runs than one job may have, and for those that are too large.
    """
    several = len(LADDER) if body.cost_strengths == "auto" else max(1, len(body.cost_strengths))
    asked, most = len(body.seeds) * several, settings.max_runs
    if asked > most:  # before a spec is written out for each of them
        sentence = f"The job asks for {asked} runs (seeds × cost strengths), and one job may have at most {most}"
        raise invalid("/seeds", f"{sentence}; submit several jobs.")
    spec, dataset_id = complete(rows, who.team_id, body)
    table = None if dataset_id is None else datasets.get(rows, who.team_id, dataset_id).rows
    refuse_hopeless(spec, asked, table, settings)
    return spec, dataset_id, runs_of(spec, body)


def runs_of(spec: Spec, body: JobIn) -> list[NewRun]:
    """Seeds × cost strengths, each with the spec it is trained with."""
    strengths: list[float | None] = [None]
    if body.cost_strengths == "auto":
        strengths = [*_ladder(spec)]
    elif body.cost_strengths:
        strengths = [*body.cost_strengths]
    asked: list[NewRun] = []
    for index, strength in enumerate(strengths):
        try:
            written_out = spec.at_cost_strength(strength).expanded().model_dump(mode="json")
        except ValidationError:
            sentence = (
                f"At λ = {strength} another phase of the spec would cost more than is allowed; choose a smaller λ."
            )
            raise invalid(f"/cost_strengths/{index}", sentence) from None
        for seed in body.seeds:
            asked.append(
                NewRun(
                    seed=seed,
                    cost_strength=strength,
                    spec=written_out,
                    steps=spec.training.steps,
                    method=spec.training.method,
                    dataset_kind=spec.dataset.kind,
                )
            )
    return asked


def _ladder(spec: Spec) -> list[float]:
    try:
        return spec.ladder()
    except ValidationError:
        sentence = f"At {LADDER[-1]:g} times the λ of the spec a phase would cost more than is allowed; lower its λ."
    except ValueError as error:
        sentence = str(error)
    raise invalid("/cost_strengths", sentence)


def queue_of(spec: Spec) -> str:
    """The queue whose workers can do it."""
    return "gpu" if spec.training.device == "cuda" else "cpu"


def _name(body: JobIn) -> str:
    """What a job is called that was given no name."""
    if body.recipe:
        return body.recipe
    if body.spec is not None and body.spec.dataset is not None:
        return body.spec.dataset.kind
    return "job"


def _recipe(body: JobIn) -> Recipe | None:
    if body.recipe is None:
        return None
    try:
        return known_recipe(body.recipe)
    except Problem as problem:
        raise invalid("/recipe", problem.detail) from None


def _how(body: JobIn, recipe: Recipe | None) -> dict[str, Any]:
    if recipe is not None:
        return dict(recipe.spec_fields)
    return {} if body.spec is None else body.spec.model_dump(mode="json", exclude_unset=True)


def _dataset_part(row: Dataset, roles: Roles | None) -> dict[str, Any]:
    if row.state != "ready":
        why = "is still being checked; wait until it is ready" if row.state == "checking" else "was refused"
        raise Problem("conflict", f"The data set `{row.name}` {why}.")
    if row.kind == "made":
        if roles is not None:
            raise invalid("/roles", "This data set is made, not uploaded: it has no columns whose roles could differ.")
        return dict(row.maker or {})
    resolved = dict(row.roles or {})
    if roles is not None:
        asked = roles.model_dump(exclude_unset=True)
        resolved |= resolve_roles(row.preview or {}, updated_roles(resolved, asked), under="/roles")
    return {"kind": "uploaded", "dataset_id": row.id, "sha256": row.sha256, "format": row.format} | resolved


def _network_part(row: Network) -> dict[str, Any]:
    if row.state != "ready":
        why = "is still being checked; wait until it is ready" if row.state == "checking" else "was refused"
        raise Problem("conflict", f"The network `{row.name}` {why}.")
    return {"kind": "uploaded", "network": row.id, "sha256": row.sha256, "format": row.format, "config": row.config}


def _network_misfits(row: Network, preview: Mapping[str, Any], data: UploadedData, under: str) -> list[dict[str, Any]]:
    """What is wrong where an uploaded network reads or gives other numbers than columns of a table have.

    Where how many numbers a column becomes is known only when it is read, nothing is said: the training says it.

    under   where the roles stand in the request
    """
    header, found = row.header or {}, []
    reads, gives = (((header.get(end) or {}).get("shape") or [None])[1:] for end in ("input", "output"))
    if str((header.get("input") or {}).get("type")).startswith("int"):  # tokens
        return []
    columns = {column["name"]: column for column in preview.get("columns", ())}
    widths = [_width(name, columns, data) for name in data.inputs or []]
    if (
        widths
        and None not in widths
        and reads
        and None not in reads
        and math.prod(reads) != sum(width or 0 for width in widths)
    ):
        sentence = _other_numbers(row, "reads", math.prod(reads), list(data.inputs or []), widths)
        found.append(wrong(f"{under}/inputs", sentence))
    if len(gives) != 1 or gives[0] is None:
        return found
    widths = [_width(name, columns, data) for name in data.targets]
    if data.task == "regression":
        if None not in widths and gives[0] != sum(width or 0 for width in widths):
            found.append(wrong(f"{under}/targets", _other_numbers(row, "gives", gives[0], data.targets, widths)))
        return found
    classes = columns.get(data.targets[0], {}).get("distinct")
    every_row_is_kept = all(of.missing != "drop" for of in data.columns.values())
    if classes and every_row_is_kept and gives[0] != classes and (gives[0], classes) != (1, 2):
        sentence = (
            f"The network `{row.name}` gives {counted(gives[0], 'number')}, one for each class, and "
            f"`{data.targets[0]}` has {classes} classes: choose the target that it was trained on."
        )
        found.append(wrong(f"{under}/targets", sentence))
    return found


def _width(name: str, columns: Mapping[str, Mapping[str, Any]], data: UploadedData) -> int | None:
    """How many numbers a column of a table becomes; None: that is known when it is read."""
    column = columns.get(name)
    if column is None:
        return 1 if columns.get(name.partition("[")[0], {}).get("shape") else None  # one number of an array
    if column.get("shape"):
        return math.prod(column["shape"])
    if not data.columns:
        return 1
    of = data.columns.get(name)
    has_indicator = of is not None and of.missing not in ("drop", "refuse") and column.get("missing")
    return 1 if of is not None and of.type in ("number", "integer", "boolean") and not has_indicator else None


def _other_numbers(row: Network, does: str, asked: int, names: Sequence[str], widths: Sequence[int | None]) -> str:
    """The sentence of a network that reads or gives so many numbers, and columns that have others."""
    there = sum(width or 0 for width in widths)
    role, one = {"reads": ("input", "an input"), "gives": ("target", "a target")}[does]
    shown = ", ".join(f"`{name}`" for name in names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")
    more = abs(there - asked)
    if there != len(names):
        advice = "choose the columns that it was trained on"
    elif there > asked:
        advice = f"take {'a column' if more == 1 else f'{more} columns'} out of the {role}s"
    else:
        advice = f"make another column {one}" if more == 1 else f"make {more} more columns {role}s"
    are = f"{role} is" if there == 1 else f"{role}s are"
    return (
        f"The network `{row.name}` {does} {counted(asked, 'number')} of a row, and the {are} "
        f"{counted(there, 'number')} ({shown}): {advice}, in the order of its training."
    )


def _own_network(rows: Session, team_id: str, spec: Spec) -> str | None:
    """The id of the uploaded network that a spec names, which must be the team's and be that file."""
    named = spec.network
    if not isinstance(named, UploadedNetwork):
        return None
    row = networks.get(rows, team_id, named.network)
    if row.state != "ready" or any(
        getattr(named, field) != getattr(row, field) for field in ("sha256", "format", "config")
    ):
        sentence = f"The network `{row.id}` has other bytes, or another format or config; name it in `network_id`."
        raise invalid("/spec/network/sha256", sentence)
    return row.id


def _own_upload(rows: Session, team_id: str, data: UploadedData) -> str:
    """The id of the upload that a spec names, which must be the team's and have those bytes."""
    row = datasets.get(rows, team_id, data.dataset_id)
    if row.sha256 != data.sha256 or row.format != data.format:
        raise invalid(
            "/spec/dataset/sha256", f"The data set `{row.id}` has other bytes or another format than the spec says."
        )
    if row.state != "ready":
        raise Problem("conflict", f"The data set `{row.name}` is {row.state}.")
    return row.id
