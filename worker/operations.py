"""The registry of operations: what each kind needs from the store, how long it may take, and how its result is stored.

Its computation is the handler of the same kind in worker/operation_process.py, which has the engine and knows no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from store import jobs, models, operations, runs
from store.errors import DamagedFile, NotFound, StoreError
from store.files import StoredFile
from store.jobs.leases import Claim
from store.settings import Settings
from store.tables import ModelVersion, Run
from worker.context import WorkerContext
from worker.upload_check import check_job, check_network, check_upload

MAX_SNAPSHOTS = 1000  # a film leaves out the rest


@dataclass(frozen=True)
class OperationResult:
    """The result of an operation: a document, or None, files that are in the store already, figures in base64."""

    document: Any
    files: Mapping[str, StoredFile]
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OperationKind:
    """One kind of operation.

    needs     what is laid beside the request: loaders of INPUTS.
    store     (session, claim, result, now=) stores the result, in the transaction that ends the operation.
    seconds   after so long it has failed.
    compute   (settings, request, poll) → document, where the worker computes it; None: an operation process does.
    """

    needs: tuple[str, ...]
    store: Callable[..., None]
    seconds: float = 60.0
    compute: Callable[[Settings, dict[str, Any], Callable[[], object]], Any] | None = None


class InputLoader:
    """Loads what an operation is about. Paths to stored files are valid until `held` is closed."""

    def __init__(self, context: WorkerContext, claim: Claim, held: ExitStack) -> None:
        self.context, self.claim, self._held = context, claim, held

    def path(self, sha256: str) -> str:
        """A path to a stored file."""
        return str(self._held.enter_context(self.context.files.path(sha256)))

    def run(self) -> Run:
        """The run that the operation names."""
        with self.context.database.read() as session:
            run_id = self.claim.spec["run_id"]
            run = session.scalar(select(Run).where(Run.id == run_id).options(undefer(Run.spec)))
        if run is None:
            raise NotFound("run", run_id)
        return run


def _network(loader: InputLoader) -> dict[str, Any]:
    """Weights, and the data that they were trained on."""
    run = loader.run()
    with loader.context.database.read() as session:
        weights = runs.published_file(session, run.id, "weights.safetensors").sha256
    dataset = run.spec["dataset"]
    uploaded = dataset["kind"] == "uploaded"
    try:
        content = loader.path(dataset["sha256"]) if uploaded else None
    except NotFound:
        raise StoreError("The data set of this run was deleted, and its bytes are gone; upload it again.") from None
    network = run.spec.get("network") or {}  # what a spec does not say is as the engine has it by default
    brought = None
    if network.get("kind") == "uploaded":  # the run's own file of it, which stays when the uploaded one is deleted
        with loader.context.database.read() as session:
            file = runs.published_file(session, run.id, f"network.{network['format']}").sha256
        brought = {"sha256": network["sha256"], "path": loader.path(file)}
    return {
        "run": {"id": run.id, "seed": run.seed, "spec": run.spec},
        "network": brought,
        "weights": {"sha256": weights, "path": loader.path(weights)},
        "content": content,
    }


def _modules(loader: InputLoader) -> dict[str, Any]:
    """Which neurons each module holds, and each group of the primary partition."""
    run_id = loader.claim.spec["run_id"]
    with loader.context.database.read() as session:
        found = runs.modules(session, run_id)
        interior = runs.body(session, run_id, "interior") or {}
    partition = interior["partitions"][interior["primary"]] if interior.get("primary") is not None else {}
    return {
        "modules": [{"name": module.name, "neurons": module.body["neurons"]} for module in found],
        "groups": [{"name": one["name"], "neurons": one["neurons"]} for one in partition.get("groups") or ()],
    }


def _documents(loader: InputLoader) -> dict[str, Any]:
    """What was published of the run."""
    with loader.context.database.read() as session:
        return {"documents": _published(session, loader.claim.spec["run_id"])}


def _published(session: Session, run_id: str) -> dict[str, Any]:
    bodies, graph = runs.bodies(session, run_id), runs.graph(session, run_id)
    modules = [module.body for module in runs.modules(session, run_id)]
    return {name: bodies.get(name) for name in ("metrics", "effects", "interior")} | {
        "graph": graph and graph.body,
        "modules": modules,
    }


def _training(loader: InputLoader) -> dict[str, Any]:
    """The learning curve and the snapshots."""
    run_id = loader.claim.spec["run_id"]
    with loader.context.database.read() as session:
        kept = runs.snapshots(session, run_id, limit=MAX_SNAPSHOTS)
        history = runs.history(session, run_id)
    return {"history": history, "snapshots": [loader.path(one.sha256) for one in kept]}


def _runs(loader: InputLoader) -> dict[str, Any]:
    """The documents of the runs that the operation names."""
    with loader.context.database.read() as session:
        query = select(Run).where(Run.id.in_(loader.claim.spec["run_ids"])).order_by(Run.number)
        found = [
            {"id": run.id, "seed": run.seed, "cost_strength": run.cost_strength, **_published(session, run.id)}
            for run in session.scalars(query)
        ]
    return {"runs": found}


def _upload(loader: InputLoader) -> dict[str, Any]:
    """The uploaded file. What was asked holds its `sha256` and `format`, and the id of what was made of it."""
    try:
        return {"path": loader.path(loader.claim.spec["sha256"])}
    except NotFound:
        raise StoreError("The stored file is missing; upload it again.") from None


def _hashes(loader: InputLoader) -> dict[str, Any]:
    """Nothing; all stored files of the run are compared with their hashes now. Raises StoreError, with all damaged."""
    run_id = loader.claim.spec["run_id"]
    with loader.context.database.read() as session:
        kept = {file.name: file.sha256 for file in runs.published_files(session, run_id)}
        kept |= {f"figure {file.name}": file.sha256 for file in runs.figures(session, run_id)}
        kept |= {f"snapshot {one.step}": one.sha256 for one in runs.snapshots(session, run_id, limit=MAX_SNAPSHOTS)}
    wrong = []
    for name, sha256 in kept.items():
        try:
            loader.context.files.verify(sha256, again=True)
        except DamagedFile:
            wrong.append(f"{name} is damaged")
        except NotFound:
            wrong.append(f"{name} is gone")
    if wrong:
        raise StoreError(
            f"Stored files of the run do not have their bytes any more: {', '.join(wrong)}. Restore them from a "
            "backup, or train the same spec with the same seed on such a machine again, which stores the same bytes."
        )
    return {}


INPUTS: dict[str, Callable[[InputLoader], dict[str, Any]]] = {
    "network": _network,
    "modules": _modules,
    "documents": _documents,
    "training": _training,
    "runs": _runs,
    "upload": _upload,
    "hashes": _hashes,
}


def request_for(context: WorkerContext, claim: Claim, held: ExitStack) -> dict[str, Any]:
    """The request for the operation process. Raises StoreError where something that it needs is gone."""
    loader = InputLoader(context, claim, held)
    request: dict[str, Any] = {"kind": claim.kind, "asked": claim.spec}
    for name in OPERATIONS[claim.kind].needs:
        request |= INPUTS[name](loader)
    return request


def as_answer(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """For the caller alone; it is deleted after a day."""
    operations.succeed(session, claim, result.document, now=now)


def as_files_of_the_run(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """As files of the run."""
    operations.succeed(session, claim, None, now=now)
    for name, file in result.files.items():
        runs.add_file(session, claim.spec["run_id"], name, file, now=now)


def as_document_of_the_run(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """As a document of the run, by the name of the kind."""
    operations.succeed(session, claim, result.document, now=now)
    runs.add_body(session, claim.spec["run_id"], claim.kind, result.document)


def as_document_of_the_job(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """As a document of the job, by the name of the kind, with the runs that it is about; its figures the same way."""
    operations.succeed(session, claim, result.document, now=now)
    about = {"run_ids": claim.spec["run_ids"], "order": claim.spec["order"]}
    for name, document in {claim.kind: result.document, **result.figures}.items():
        jobs.add_body(session, claim.spec["job_id"], name, about | {"document": document})


def as_verification(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """As the verification of a model version, where the operation names one."""
    operations.succeed(session, claim, result.document, now=now)
    if (model_id := claim.spec.get("model_id")) is not None:
        version = session.get(ModelVersion, (model_id, claim.spec["number"]))
        if version is not None:
            models.record_verification(session, version, verification=result.document, now=now)


def as_check_result(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """As the state, preview and roles of the data set."""
    found = result.document
    if "errors" in found:
        operations.finish_check(session, claim, errors=found["errors"], now=now)
        return
    preview, roles = found["preview"], found["roles"]
    operations.finish_check(
        session,
        claim,
        preview=preview,
        roles=roles,
        task=roles["task"],
        rows=preview["rows"],
        columns=len(preview["columns"]),
        now=now,
    )


def as_network_check_result(session: Session, claim: Claim, result: OperationResult, *, now: datetime) -> None:
    """As the state and header of the network."""
    operations.finish_network_check(session, claim, **result.document, now=now)


def _check_network(settings: Settings, request: dict[str, Any], poll: Callable[[], object]) -> dict[str, Any]:
    return check_network(
        Path(request["path"]),
        form=request["asked"]["format"],
        config=request["asked"]["config"],
        memory_bytes=settings.check_memory_bytes,
        seconds=settings.check_seconds,
        poll=poll,
    )


def _check_upload(settings: Settings, request: dict[str, Any], poll: Callable[[], object]) -> dict[str, Any]:
    asked = request["asked"]
    return check_upload(
        Path(request["path"]),
        form=asked["format"],
        roles=asked.get("roles") or {},
        memory_bytes=settings.check_memory_bytes,
        seconds=settings.check_seconds,
        poll=poll,
    )


def _check_job(settings: Settings, request: dict[str, Any], poll: Callable[[], object]) -> dict[str, Any]:
    asked = request["asked"]
    return check_job(
        Path(request["path"]),
        data=asked["data"],
        seeds=asked["seeds"],
        memory_bytes=settings.check_memory_bytes,
        seconds=settings.check_seconds,
        poll=poll,
    )


OPERATIONS: dict[str, OperationKind] = {
    "predict": OperationKind(needs=("network",), store=as_answer),
    "intervention": OperationKind(needs=("network", "modules"), store=as_answer),
    "embedding": OperationKind(needs=("network",), store=as_document_of_the_run),
    "probe": OperationKind(needs=("network",), store=as_files_of_the_run),
    "pareto": OperationKind(needs=("runs",), store=as_document_of_the_job),
    "stability": OperationKind(needs=("runs",), store=as_document_of_the_job),
    "module": OperationKind(needs=("network", "modules"), store=as_files_of_the_run),
    "onnx": OperationKind(needs=("network",), store=as_files_of_the_run),
    "film": OperationKind(needs=("network", "documents", "training"), store=as_files_of_the_run, seconds=600),
    "verify": OperationKind(needs=("hashes", "network", "documents"), store=as_verification, seconds=1800),
    "check_job": OperationKind(needs=("upload",), store=as_answer, seconds=600, compute=_check_job),
    "check_upload": OperationKind(needs=("upload",), store=as_check_result, seconds=600, compute=_check_upload),
    "check_network": OperationKind(
        needs=("upload",), store=as_network_check_result, seconds=600, compute=_check_network
    ),
}
