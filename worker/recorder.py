"""Writes a training process's reports into the store: collected for a second, files first, then one transaction."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from bimt_engine.analysis.statements.interior import interior_modules
from store import runs
from store.errors import LostLease
from store.files import Files, StoredFile
from store.jobs.leases import Claim
from store.runs import RunResult
from worker.context import WorkerContext
from worker.retry import StoreRetry, is_outage

log = logging.getLogger("worker")
FLUSH_SECONDS = 1.0  # often enough for a curve that is being watched
FLUSH_SHARE = 0.02  # of the job's age: long jobs are written less often, in larger pieces
MAX_LINE = 4000  # characters of one log line that are kept
OF_SOME_RUNS = ("interior", "representations")  # parts of the evidence that not every run has
OF_A_PARTITION = ("layer", "kind", "largest_interaction", "trained_largest_interaction", "p", "verdict")
# What runs are listed by, taken from the metrics where the evidence has it; the first that is there names the test.
TEST_METRICS = ("test_accuracy", "test_prediction_loss")


class StoredCheckpoint(NamedTuple):
    """A checkpoint in the store."""

    step: int
    sha256: str


@dataclass
class PendingWrites:
    """What is not in the store yet, in the order of the reports."""

    started: list[str] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    snapshots: list[tuple[str, int, str]] = field(default_factory=list)
    checkpoints: dict[str, tuple[int, str]] = field(default_factory=dict)  # the newest of each run
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any((self.started, self.rows, self.snapshots, self.checkpoints, self.lines))

    @property
    def files(self) -> list[str]:
        """The names of the files that belong to it, each once."""
        names = [file for _, _, file in self.snapshots] + [file for _, file in self.checkpoints.values()]
        return list(dict.fromkeys(names))


class Recorder:
    """Collects and writes. While the store is unavailable the pending writes grow, and nothing is lost.

    folder       where the training process leaves its files; they are deleted once they are in the store.
    retry        how retries while the store is unavailable.
    checkpoints  run → its newest checkpoint in the store.
    """

    def __init__(self, context: WorkerContext, claim: Claim, folder: Path, retry: StoreRetry) -> None:
        self._context = context
        self._claim = claim
        self._folder = folder
        self.retry = retry
        self._pending = PendingWrites()
        self._began = self._flushed_at = time.monotonic()
        self.checkpoints: dict[str, StoredCheckpoint] = {
            run.id: StoredCheckpoint(run.checkpoint_step or 0, run.checkpoint_sha256)
            for run in claim.runs
            if run.checkpoint_sha256
        }

    def start(self, run_id: str) -> None:
        """The run starts, or resumes at its checkpoint: what was recorded after that is dropped at the next flush."""
        self._pending.started.append(run_id)
        self._pending.rows.pop(run_id, None)
        self._pending.snapshots = [kept for kept in self._pending.snapshots if kept[0] != run_id]

    def row(self, run_id: str, row: dict[str, Any]) -> None:
        """A row of the run's learning curve."""
        self._pending.rows.setdefault(run_id, []).append(row)

    def snapshot(self, run_id: str, step: int, file: str) -> None:
        """A frame of the run's film."""
        self._pending.snapshots.append((run_id, step, file))

    def checkpoint(self, run_ids: Sequence[str], step: int, file: str) -> None:
        """A checkpoint of all these runs; it replaces older ones that are still pending.

        All get it in one transaction: runs that train side by side resume from one step.
        """
        before = {old for _, old in self._pending.checkpoints.values()}
        self._pending.checkpoints |= dict.fromkeys(run_ids, (step, file))
        for old in before - {new for _, new in self._pending.checkpoints.values()}:
            (self._folder / old).unlink(missing_ok=True)

    def log(self, level: str, text: str, run_id: str | None = None) -> None:
        """A line of the job's log, which users read."""
        at = self._context.now().isoformat(timespec="milliseconds")
        line = {"at": at, "level": level, "text": text[:MAX_LINE]}
        self._pending.lines.append(line | ({"run_id": run_id} if run_id else {}))
        log.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), "%s", text)

    def flush_if_due(self) -> None:
        """Write what is pending when it is time to; where the store is unavailable, try again a little later."""
        age = time.monotonic() - self._began
        due = self._flushed_at + max(FLUSH_SECONDS, FLUSH_SHARE * age)
        if self._pending and time.monotonic() >= due:
            try:
                self._write()
            except LostLease:
                raise
            except Exception as error:
                if not is_outage(error):
                    raise
                self._flushed_at = time.monotonic()
                log.warning("the store is unavailable (%s); training continues", type(error).__name__)

    def flush(self) -> None:
        """Write what is pending now; retries while the store is unavailable."""
        if self._pending:
            self.retry(self._write)

    def commit_with_retry(self, function: Callable[[Session], object]) -> None:
        """Flush, then run one more transaction; retries while the store is unavailable."""
        self.flush()

        def write() -> None:
            with self._context.database.write() as session:
                function(session)

        self.retry(write)

    def _write(self) -> None:
        pending, context, claim, now = self._pending, self._context, self._claim, self._context.now()
        put = {file: context.files.put_path(self._folder / file) for file in pending.files}
        with context.database.write() as session:
            for run_id in pending.started:
                runs.start(session, claim, run_id, now)
            for run_id, rows in pending.rows.items():
                runs.append_history(session, claim, run_id, rows)
            for run_id, step, file in pending.snapshots:
                runs.append_snapshot(session, claim, run_id, step, put[file], now=now)
            for run_id, (step, file) in pending.checkpoints.items():
                runs.save_checkpoint(session, claim, run_id, step, put[file], now=now)
            runs.append_log(session, claim, pending.lines, now=now)
        for run_id, (step, file) in pending.checkpoints.items():
            self.checkpoints[run_id] = StoredCheckpoint(step, put[file].sha256)
        for file in put:
            (self._folder / file).unlink(missing_ok=True)
        self._pending = PendingWrites()
        self._flushed_at = time.monotonic()


def read_result(path: Path, files: Files) -> RunResult:
    """The result that the training process left, its files put into the store."""
    result = json.loads(path.read_text())
    document = result["document"]
    graph = document["graph"]
    nodes, connections = len(graph["nodes"]), len(graph.get("edges", graph.get("links", [])))
    communities = document.get("communities") or {}
    return RunResult(
        metrics=document["metrics"],
        summary=_summary(result, connections),
        graph={"neurons": nodes, "connections": connections, "body": graph},
        modules=document["modules"],
        groups=_groups(document.get("interior") or {}),
        effects=document["effects"],
        prune_curve=document["prune_curve"],
        bodies={
            "communities": communities,
            "readout": document.get("readout") or {},
            "dataset": result["dataset"],
        }
        | {name: document[name] for name in OF_SOME_RUNS if name in document},
        files=_put(result["files"], path.parent, files),
        figures=_put(result["figures"], path.parent, files),
        stepper=result["stepper"],
        device=result["device"],
        replicas=result["replicas"],
        training_seconds=result["training_seconds"],
        evidence_seconds=result["evidence_seconds"],
    )


def _put(names: dict[str, str], folder: Path, files: Files) -> dict[str, StoredFile]:
    return {name: files.put_path(folder / file) for name, file in names.items()}


def _summary(result: dict[str, Any], connections: int) -> dict[str, Any]:
    document, metrics = result["document"], result["document"]["metrics"]
    modules, interior = document["modules"], document.get("interior") or {"skipped": "an older engine"}
    name = next((name for name in TEST_METRICS if name in metrics), None)
    selectivities = [module["selectivity"] for module in modules if module.get("selectivity") is not None]
    return {
        "test_metric_name": name,
        "test_metric": metrics.get(name) if name else None,
        "connections": connections,
        "modules": len(modules),
        "interior_modules": None if "skipped" in interior else interior_modules(interior),
        "modularity": (document.get("communities") or {}).get("modularity"),
        "selectivity": sum(selectivities) / len(selectivities) if selectivities else None,
        "connection_cost": metrics.get("connection_cost"),
    }


def _groups(interior: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups of all partitions as rows."""
    return [
        {
            "partition": number,
            "is_primary": number == interior["primary"],
            **{name: partition[name] for name in OF_A_PARTITION},
            **{name: group[name] for name in ("name", "module", "trees", "selectivity")},
            "neurons": len(group["neurons"]),
            "moves": group["strongest"][0]["output"] if group["strongest"] else None,
            "effect": max(group["effects"], default=None),
            "representation": next((part["name"] for part in group.get("lies_in") or ()), None),
            "reads": [(one["name"], one["share"]) for one in group["reads"]],
        }
        for number, partition in enumerate(interior.get("partitions") or ())
        for group in partition["groups"]
    ]
