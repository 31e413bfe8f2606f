"""The kinds of errand: what each needs from the store, how long it may take, and what becomes of its answer.

What is worked out stands in worker/answers.py, by the same names; that side has the engine and knows no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from store import errands, jobs, models, progress, runs
from store.errors import NotFound, StoreError
from store.files import StoredFile
from store.leases import Claim
from store.tables import ModelVersion, Run
from worker.workplace import Workplace

MOST_SNAPSHOTS = 1000  # a film thins out what is too many


@dataclass(frozen=True)
class Said:
    """What came of an errand: a document, or null, and files that already lie in the store."""

    document: Any
    files: Mapping[str, StoredFile]


@dataclass(frozen=True)
class Kind:
    """One kind of errand.

    needs     what is laid beside the order: names of MATERIALS
    keep      (session, claim, what came of it, now=) → what becomes of it, in the transaction that ends the errand
    seconds   after so long it has failed
    """

    needs: tuple[str, ...]
    keep: Callable[..., None]
    seconds: float = 60.0


class Materials:
    """What an errand is about, from the store. Files stay where they are, or lie in the folder, as long as it lives."""

    def __init__(self, here: Workplace, claim: Claim, folder: Path, held: ExitStack) -> None:
        self.here, self.claim, self.folder, self._held = here, claim, folder, held

    def path(self, sha256: str) -> str:
        """A path to a stored file."""
        return str(self._held.enter_context(self.here.files.path(sha256)))

    def run(self) -> Run:
        """The run that the order names."""
        with self.here.database.read() as session:
            run_id = self.claim.spec["run_id"]
            run = session.scalar(select(Run).where(Run.id == run_id).options(undefer(Run.spec)))
        if run is None:
            raise NotFound("run", run_id)
        return run


def _network(of: Materials) -> dict[str, Any]:
    """Weights, and the data that they were trained on."""
    run = of.run()
    with of.here.database.read() as session:
        weights = runs.published_file(session, run.id, "weights.safetensors").sha256
    dataset = run.spec["dataset"]
    uploaded = dataset["kind"] == "uploaded"
    try:
        content = of.path(dataset["sha256"]) if uploaded else None
    except NotFound:
        raise StoreError("The data set of this run was deleted, and its bytes are gone; upload it again.") from None
    return {
        "run": {"id": run.id, "seed": run.seed, "spec": run.spec},
        "weights": {"sha256": weights, "path": of.path(weights)},
        "content": content,
    }


def _modules(of: Materials) -> dict[str, Any]:
    """Which neurons each module holds."""
    with of.here.database.read() as session:
        found = runs.modules(session, of.claim.spec["run_id"])
        return {"modules": [{"name": module.name, "neurons": module.body["neurons"]} for module in found]}


def _documents(of: Materials) -> dict[str, Any]:
    """What was published of the run."""
    with of.here.database.read() as session:
        return {"documents": _published(session, of.claim.spec["run_id"])}


def _published(session: Session, run_id: str) -> dict[str, Any]:
    bodies, graph = runs.bodies(session, run_id), runs.graph(session, run_id)
    modules = [module.body for module in runs.modules(session, run_id)]
    return {name: bodies.get(name) for name in ("metrics", "effects")} | {
        "graph": graph and graph.body,
        "modules": modules,
    }


def _training(of: Materials) -> dict[str, Any]:
    """How it came about: the learning curve and the snapshots."""
    run_id = of.claim.spec["run_id"]
    with of.here.database.read() as session:
        kept = progress.snapshots(session, run_id, limit=MOST_SNAPSHOTS)
        history = progress.history(session, run_id)
    return {"history": history, "snapshots": [of.path(one.sha256) for one in kept]}


def _runs(of: Materials) -> dict[str, Any]:
    """The documents of the runs that the order names."""
    with of.here.database.read() as session:
        query = select(Run).where(Run.id.in_(of.claim.spec["run_ids"])).order_by(Run.number)
        found = [
            {"id": run.id, "seed": run.seed, "cost_strength": run.cost_strength, **_published(session, run.id)}
            for run in session.scalars(query)
        ]
    return {"runs": found}


MATERIALS: dict[str, Callable[[Materials], dict[str, Any]]] = {
    "network": _network,
    "modules": _modules,
    "documents": _documents,
    "training": _training,
    "runs": _runs,
}


def order_for(here: Workplace, claim: Claim, folder: Path, held: ExitStack) -> dict[str, Any]:
    """Everything that the bench is told. Raises StoreError where something of it is gone."""
    of = Materials(here, claim, folder, held)
    order: dict[str, Any] = {"kind": claim.kind, "order": claim.spec}
    for name in KINDS[claim.kind].needs:
        order |= MATERIALS[name](of)
    return order


def as_answer(session: Session, claim: Claim, said: Said, *, now: datetime) -> None:
    """Whoever asked reads it, and in a day it is gone."""
    errands.answered(session, claim, said.document, now=now)


def as_files_of_the_run(session: Session, claim: Claim, said: Said, *, now: datetime) -> None:
    """The run keeps them, and nobody waits for them again."""
    errands.answered(session, claim, None, now=now)
    for name, file in said.files.items():
        runs.add_file(session, claim.spec["run_id"], name, file, now=now)


def as_document_of_the_run(session: Session, claim: Claim, said: Said, *, now: datetime) -> None:
    """The run keeps it under the name of the errand."""
    errands.answered(session, claim, said.document, now=now)
    runs.add_body(session, claim.spec["run_id"], claim.kind, said.document)


def as_document_of_the_job(session: Session, claim: Claim, said: Said, *, now: datetime) -> None:
    """The job keeps it under the name of the errand, with the runs that it is about."""
    errands.answered(session, claim, said.document, now=now)
    kept = {"run_ids": claim.spec["run_ids"], "order": claim.spec["order"], "document": said.document}
    jobs.add_body(session, claim.spec["job_id"], claim.kind, kept)


def as_verification(session: Session, claim: Claim, said: Said, *, now: datetime) -> None:
    """The version remembers it, where the order names one."""
    errands.answered(session, claim, said.document, now=now)
    if (model_id := claim.spec.get("model_id")) is not None:
        version = session.get(ModelVersion, (model_id, claim.spec["number"]))
        if version is not None:
            models.record_verification(session, version, verification=said.document, now=now)


KINDS: dict[str, Kind] = {
    "predict": Kind(needs=("network",), keep=as_answer),
    "intervention": Kind(needs=("network", "modules"), keep=as_answer),
    "embedding": Kind(needs=("network",), keep=as_document_of_the_run),
    "probe": Kind(needs=("network",), keep=as_files_of_the_run),
    "pareto": Kind(needs=("runs",), keep=as_document_of_the_job),
    "stability": Kind(needs=("runs",), keep=as_document_of_the_job),
    "module": Kind(needs=("network", "modules"), keep=as_files_of_the_run),
    "onnx": Kind(needs=("network",), keep=as_files_of_the_run),
    "film": Kind(needs=("network", "documents", "training"), keep=as_files_of_the_run, seconds=600),
    "verify": Kind(needs=("network", "documents"), keep=as_verification, seconds=1800),
}
