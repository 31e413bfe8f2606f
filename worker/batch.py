"""The runs of a job that train side by side, as replicas of one training, and are evaluated one after another.

A run that trains alone is a batch of one. Its evaluation is evidence, weights and figures, written for the worker to
publish.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimt_engine.errors import BimtError, CheckpointError
from worker.protocol import (
    ActiveRuns,
    CheckpointWritten,
    HistoryRow,
    LogLine,
    ResultWritten,
    RunRequest,
    RunsFailed,
    RunsProgress,
    Sends,
    SnapshotWritten,
    Stopped,
    TrainingStarted,
    is_disk_full,
    write_whole,
)

if TYPE_CHECKING:
    from bimt_engine.analysis.report import Evidence
    from bimt_engine.data.dataset import Dataset
    from bimt_engine.spec import Spec
    from bimt_engine.training.loop import Training, TrainingUpdate

log = logging.getLogger("worker.training")
ROOM_SECONDS = 0.5  # how soon it is noticed that a full disk has room again
ROOM_LOG_SECONDS = 60.0  # how often the log says that the disk is still full
PROGRESS_SECONDS = 0.5  # often enough for a progress bar
EVIDENCE_SECONDS = 4.0  # of a small network, before any run of the job has been evaluated
EVIDENCE_SHARE = 0.1  # of the training's time, where that is more
FIGURES_SHARE = 0.4  # of the evidence's part
MIN_TRAINING_SECONDS = 0.2  # a shorter training says nothing about its speed


class TrainingRun:
    """One run of the request, in the training process.

    left   it is unfinished; finished runs remain members of their batch.
    """

    def __init__(self, request: RunRequest, content: Path | None = None) -> None:
        self.id, self.seed, self.left = request.id, request.seed, request.left
        self.checkpoint, self.checkpoint_step = request.checkpoint, request.checkpoint_step
        self._request, self._content = request, content
        self._dataset: Dataset | None = None

    @cached_property
    def spec(self) -> Spec:
        """Its spec."""
        from bimt_engine.spec import Spec

        return Spec.from_stored(self._request.spec)

    def dataset(self, *, keep: bool = False) -> Dataset:
        """Its data. `keep`: hold them for the next call, which releases them. Raises DataError."""
        from bimt_engine.data.registry import make_dataset

        made = self._dataset or make_dataset(self.spec.dataset, seed=self.seed, content=self._content)
        self._dataset = made if keep else None
        return made


def ids(runs: Iterable[TrainingRun]) -> list[str]:
    """The ids of runs."""
    return [run.id for run in runs]


class Reporter:
    """Reports on runs, writes their files, and knows whether to stop.

    evidence_seconds   what evidence and figures of the previous run took; None where there was none.
    """

    def __init__(self, folder: Path, writer: Sends, stop: threading.Event) -> None:
        self.folder = folder
        self.send = writer.send
        self.stop = stop
        self.evidence_seconds: float | None = None
        self._progress_sent_at = 0.0
        self._stage: tuple[object, ...] = ()

    def write(self, name: str, content: bytes) -> str:
        """Write a file whole, and return its name. A full disk is waited for. Raises Stopped."""
        logged_at = -ROOM_LOG_SECONDS
        while True:
            try:
                return write_whole(self.folder, name, content)
            except OSError as error:
                if not is_disk_full(error):
                    raise
            if (now := time.monotonic()) - logged_at >= ROOM_LOG_SECONDS:
                logged_at = now
                text = f"There is no room on the disk for {name} ({len(content)} bytes); the training waits for room."
                self.send(LogLine(level="warning", text=text))
            if self.stop.wait(ROOM_SECONDS):
                raise Stopped

    def set_active(self, runs: Sequence[TrainingRun]) -> None:
        """Report which runs are worked on from now on: an error until the next call is an error in them."""
        self.send(ActiveRuns(runs=ids(runs)))

    def progress(self, runs: Sequence[TrainingRun], fraction: float, note: str) -> None:
        """Report how far each of these runs is: at most every PROGRESS_SECONDS, and whenever a new stage begins."""
        now, stage = time.monotonic(), (note.partition(":")[0], *ids(runs))
        if now - self._progress_sent_at >= PROGRESS_SECONDS or stage != self._stage:
            self._progress_sent_at, self._stage = now, stage
            self.send(RunsProgress(runs=ids(runs), fraction=round(fraction, 4), note=note))

    def fail(self, runs: Sequence[TrainingRun], sentence: str) -> None:
        """These runs have ended without a result."""
        for run in runs:
            run.left = False
        if runs:
            self.send(RunsFailed(runs=ids(runs), sentence=sentence))

    def stop_if_asked(self) -> None:
        """Raises Stopped."""
        if self.stop.is_set():
            raise Stopped

    @contextmanager
    def fail_on_error(self, runs: Sequence[TrainingRun]) -> Iterator[None]:
        """An error inside fails those of these runs that are left, with a sentence, and no others.

        A full disk is no error of theirs: it is raised, and the job is done again from its checkpoint.
        """
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            if is_disk_full(error):
                raise
            left = [run for run in runs if run.left]
            self.fail(left, _sentence(error, len(left)))


def _sentence(error: Exception, runs: int) -> str:
    """What users read of an error: the engine's sentence, what to do where memory is short, or a fault of ours."""
    if isinstance(error, BimtError):
        return str(error)
    log.error("%s", traceback.format_exc())
    if is_out_of_memory(error):
        if runs > 1:
            return (
                f"Memory did not suffice to train these {runs} runs side by side: submit fewer seeds and cost "
                "strengths in one job, or make the network, the data or `batch_size` smaller."
            )
        return "Memory did not suffice for this run: make the network, the data or `batch_size` smaller."
    those = f"these {runs} runs" if runs > 1 else "this run"
    return f"A fault of the service ended {those} ({type(error).__name__}: {error}); the job's log says where."


def is_out_of_memory(error: Exception) -> bool:
    """Python's exception, torch's for a device, or torch's for the CPU, which only its text distinguishes."""
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class Batch:
    """From data to results, for those of its runs that are left.

    members    all its runs, one per replica. Those that have ended train too, because the last bits of the others
               depend on the number of replicas; nothing is reported of them.
    """

    def __init__(self, members: Sequence[TrainingRun], reporter: Reporter) -> None:
        self.members = list(members)
        self.reporter = reporter
        self._checkpoint_step: int | None = None  # of the newest checkpoint

    @property
    def left(self) -> list[TrainingRun]:
        """Those that have not ended."""
        return [run for run in self.members if run.left]

    def run(self) -> None:
        """Train, then evaluate run by run. A run that cannot be trained or evaluated has failed. Raises Stopped."""

        reporter = self.reporter
        reporter.set_active(self.left)
        with reporter.fail_on_error(self.members):
            datasets = self._data()
            if not self.left:
                return
            training = self._training(datasets)
            progress = RunProgress(reporter.evidence_seconds, replicas=len(self.left))
            self._train(training, progress)
        for replica, run in enumerate(self.members):
            if run.left:
                with reporter.fail_on_error([run]), training.state.showing(replica):
                    evaluate(run, datasets[replica], training, reporter=reporter, run_progress=progress)

    def _data(self) -> list[Dataset]:
        """The data of each member. A run whose data cannot be made has failed, and leaves the batch."""
        from bimt_engine.data.registry import differs_by_seed

        datasets: list[Dataset] = []
        members: list[TrainingRun] = []
        for number, run in enumerate(self.members):
            if number:
                self.reporter.progress(self.left, 0.0, "the data are made")
            try:
                same = bool(datasets) and not differs_by_seed(run.spec.dataset)
                datasets.append(datasets[0] if same else run.dataset())  # the same object: its memory is shared
                members.append(run)
            except BimtError as error:
                self.reporter.fail([run] if run.left else [], str(error))
        self.members = members
        return datasets

    # --- training ---------------------------------------------------------------------------------------

    def _training(self, datasets: list[Dataset]) -> Training:
        """The training, resumed or new; reports which."""
        from bimt_engine.training.loop import Training

        specs, seeds = [run.spec for run in self.members], [run.seed for run in self.members]
        training = self._resumed(specs, datasets, seeds)
        if training is None:
            training = Training.begin_replicas(specs, datasets, seeds=seeds)
        self.reporter.send(
            TrainingStarted(
                runs=ids(self.left), stepper=training.stepper_name, replicas=len(seeds), step=training.state.step
            )
        )
        return training

    def _resumed(self, specs: list[Any], datasets: list[Dataset], seeds: list[int]) -> Training | None:
        """The training at its checkpoint; None where there is none, or none that this version can read.

        All that are left have the same one, unless some failed before and are retried: then they resume from the
        oldest, so that no curve has a gap.
        """
        from bimt_engine.training.loop import Training

        oldest = min(self.left, key=lambda run: run.checkpoint_step or 0)
        if oldest.checkpoint is None:
            return None
        content = (self.reporter.folder / oldest.checkpoint).read_bytes()
        try:
            return Training.resume_replicas(specs, datasets, content, seeds=seeds)
        except CheckpointError as error:
            log.warning("The checkpoint cannot be used, so training starts from the beginning: %s", error)
            return None

    def _train(self, training: Training, run_progress: RunProgress) -> None:
        """Train to the end, and report rows, snapshots and checkpoints. Raises Stopped."""
        reporter = self.reporter
        if training.finished:  # only its evidence is missing
            reporter.progress(self.left, run_progress.training(1.0, training.seconds), "training")
            return
        for update in training.updates():
            self._report(update)
            if not self.left:
                return
            reporter.progress(self.left, run_progress.training(update.fraction, training.seconds), "training")
            stopping = reporter.stop.is_set()
            if update.checkpoint_due or stopping:
                self._checkpoint(training)
            if stopping:
                raise Stopped
        if self._checkpoint_step != training.state.step:  # from here the evaluation can be repeated without training
            self._checkpoint(training)

    def _report(self, update: TrainingUpdate) -> None:
        """Report what is new of each run that is left. One that has diverged ends here, alone."""
        reporter = self.reporter
        for replica, run in enumerate(self.members):
            if not run.left:
                continue
            if replica in update.diverged:
                reporter.fail([run], update.diverged[replica])
            if replica in update.rows:
                reporter.send(HistoryRow(run=run.id, row=update.rows[replica]))
            if replica in update.snapshots:
                name = reporter.write(f"{run.id}-snapshot-{update.step}", update.snapshots[replica].to_bytes())
                reporter.send(SnapshotWritten(run=run.id, step=update.step, file=name))

    def _checkpoint(self, training: Training) -> None:
        """Write one for the whole batch, runs that have ended included."""
        step = training.state.step
        name = self.reporter.write(f"{self.members[0].id}-checkpoint-{step}", training.checkpoint())
        self.reporter.send(CheckpointWritten(runs=ids(self.left), step=step, file=name))
        self._checkpoint_step = step


def evaluate(
    run: TrainingRun, dataset: Dataset, training: Training, *, reporter: Reporter, run_progress: RunProgress
) -> None:
    """Gather the evidence for the replica that the training shows, draw it, and report that the run has a result.

    Raises Stopped.
    """
    reporter.set_active([run])

    def report_progress(fraction: float, note: str) -> None:
        reporter.stop_if_asked()
        reporter.progress([run], run_progress.evidence(fraction), note)

    report_progress(0.0, "the evidence begins")
    # Imported after the training, which does not need it: nearly half of what the engine imports.
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.exports.weights import weights_file
    from bimt_engine.networks.uploaded import UploadedNetwork, in_its_format

    began = time.monotonic()
    network = training.network
    evidence = gather_evidence(network, dataset, run.spec, seed=run.seed, progress=report_progress)
    weights = weights_file(network, evidence.network, spec=run.spec, seed=run.seed, dataset=dataset)
    files = {"weights.safetensors": reporter.write(f"{run.id}-weights.safetensors", weights)}
    if isinstance(run.spec.network, UploadedNetwork):
        name = f"network.{run.spec.network.format}"
        files[name] = reporter.write(f"{run.id}-{name}", in_its_format(run.spec.network, evidence.network))
    figures = {
        name: reporter.write(f"{run.id}-{name}", body)
        for name, body in _figures(run, evidence, dataset, reporter, run_progress)
    }
    reporter.progress([run], run_progress.figures(1.0), "writing the results")
    reporter.evidence_seconds = time.monotonic() - began
    result = {
        "document": evidence.document(),
        "dataset": {
            "task": dataset.task,
            "features": list(dataset.column_names),
            **({} if dataset.encoding is None else {"columns": dataset.encoding.to_json()}),
            "targets": list(dataset.target_names),
            "train": len(dataset.train_inputs),
            **({} if dataset.validation_inputs is None else {"validation": len(dataset.validation_inputs)}),
            "test": len(dataset.test_inputs),
        },
        "stepper": training.stepper_name,
        "device": str(next(network.parameters()).device),
        "replicas": training.state.replicas,
        "training_seconds": training.seconds / training.state.replicas,
        "evidence_seconds": reporter.evidence_seconds,
        "files": files,
        "figures": figures,
    }
    file = reporter.write(f"{run.id}-result.json", json.dumps(result).encode())
    reporter.send(ResultWritten(run=run.id, file=file))
    run.left = False


def _figures(
    run: TrainingRun, evidence: Evidence, dataset: Dataset, reporter: Reporter, run_progress: RunProgress
) -> Iterator[tuple[str, bytes]]:
    """Every figure of the registry as SVG; the API makes a PNG of it where one is asked for. Raises Stopped."""
    from bimt_engine.figures.registry import draw_run_figures
    from bimt_engine.figures.style import to_svg

    reporter.progress([run], run_progress.figures(0), "pictures")
    pictures = draw_run_figures(evidence, dataset)
    for number, (name, picture) in enumerate(pictures.items()):
        reporter.stop_if_asked()
        reporter.progress([run], run_progress.figures(number / len(pictures)), f"pictures: {name.replace('-', ' ')}")
        yield f"{name}.svg", to_svg(picture)


class RunProgress:
    """How far a run is, from 0 to 1: training first, then evidence and figures, each with its share of the time.

    evidence_seconds   what evidence and figures took in a run like this one; None where there was none.
    replicas           so many runs share the time of their training; their evidence comes one after another.

    The shares are fixed as soon as the speed of the training is known, and until then progress stays at 0, so that it
    never falls.
    """

    def __init__(self, evidence_seconds: float | None = None, *, replicas: int = 1) -> None:
        self._expected = evidence_seconds
        self._replicas = replicas
        self._training_share: float | None = None

    def training(self, fraction: float, seconds: float) -> float:
        """Progress at a fraction of the training, which took `seconds`, those of earlier attempts included."""
        if self._training_share is None:
            if fraction < 1 and (fraction <= 0 or seconds < MIN_TRAINING_SECONDS):
                return 0.0
            whole = seconds / fraction / self._replicas
            evidence = self._expected or max(EVIDENCE_SECONDS, EVIDENCE_SHARE * whole)
            self._training_share = whole / (whole + evidence)
        return self._training_share * fraction

    def evidence(self, fraction: float) -> float:
        """Progress at a fraction of the evidence, after the training."""
        return self._after_training((1 - FIGURES_SHARE) * fraction)

    def figures(self, fraction: float) -> float:
        """Progress at a fraction of the figures, after the evidence."""
        return self._after_training(1 - FIGURES_SHARE + FIGURES_SHARE * fraction)

    def _after_training(self, fraction: float) -> float:
        share = self._training_share or 0.0
        return share + (1 - share) * fraction
