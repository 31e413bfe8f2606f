"""One training job, from claim to publish."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Any, assert_never

from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from store import jobs, runs
from store.errors import DamagedFile, LostLease, NotFound, StoreError
from store.jobs.leases import Claim
from store.runs import RunResult
from store.runs.tables import Run
from worker.context import WorkerContext
from worker.engine_process import EngineDied, EngineProcess, NeedsTooMuchMemory, need_room, scratch_folder
from worker.lease import Lease
from worker.protocol import (
    ActiveRuns,
    CheckpointWritten,
    DataDamaged,
    DiskFull,
    HistoryRow,
    JobDone,
    JobStopped,
    LogLine,
    Ready,
    ResultWritten,
    RunRequest,
    RunsFailed,
    RunsProgress,
    SnapshotWritten,
    Stop,
    TrainingMessage,
    TrainingRequest,
    TrainingStarted,
    Work,
    write_whole,
)
from worker.recorder import Recorder, read_result
from worker.retry import StoreRetry, StoreUnavailable

log = logging.getLogger("worker")
LISTEN_SECONDS = 0.1  # how soon a lost lease, a cancel or a shutdown is noticed
MAX_CRASHES = 3  # of the training process at one checkpoint of a run, or batch; then it has failed, the others go on
MAX_OUTAGE_SECONDS = 6 * 3600.0  # of the store; an outage of a night costs no training
RELEASE_SECONDS = 5.0  # at a shutdown the store gets so long to take the checkpoint


class CheckpointLost(Exception):
    """The stored checkpoint of this SHA-256 is damaged or gone."""

    def __init__(self, sha256: str, sentence: str) -> None:
        super().__init__(sentence)
        self.sha256 = sha256


class ShuttingDown(Exception):
    """The worker was asked to end while it waited for the store."""


class JobOutcome(Enum):
    """How an attempt at a job ended."""

    DONE = "done"  # all its runs have ended; the job is `succeeded`, or `failed` where a run has failed
    FAILED = "failed"  # something that is no run's own made the job impossible
    CANCELLED = "cancelled"
    RELEASED = "released"  # the worker shuts down; the job is queued again with its newest checkpoint
    STORE_AWAY = "store away"  # or a shutdown while it was; the lease lapses, and another attempt resumes
    LEASE_LOST = "lease lost"  # another attempt holds the job; nothing more was written


def run_waiting_jobs(context: WorkerContext) -> None:
    """Run the jobs of the worker's queue, one after another, until none waits or the worker ends.

    A message for each would do, but Celery's consumer, which takes none ahead, asks for the next up to a second after
    the last job has ended.
    """
    while run_next_job(context) not in (None, JobOutcome.STORE_AWAY):
        if context.shutting_down.is_set():
            return


def run_next_job(context: WorkerContext) -> JobOutcome | None:
    """Claim the next job of the queue and run it. Returns None where none waits."""
    claim = context.claim()
    if claim is None:
        log.debug("the queue is empty")  # so ends every series of jobs; and a message may come after its job was run
        return None
    with ExitStack() as stack:
        stack.enter_context(context.busy(claim.job_id))
        stack.enter_context(bound_contextvars(job=claim.job_id, attempt=claim.attempt_id))
        lease = stack.enter_context(context.lease(claim))
        try:
            folder = waiting_for_the_store(context, lease)(
                lambda: stack.enter_context(scratch_folder(context.spool, claim.job_id))
            )
        except (LostLease, ShuttingDown, StoreUnavailable) as error:
            log.warning("%s", error)
            return JobOutcome.LEASE_LOST if isinstance(error, LostLease) else JobOutcome.STORE_AWAY
        outcome = JobRunner(context, claim, lease, folder).run()
    if not context.shutting_down.is_set():
        context.training_processes.start_waiting()
    return outcome


def waiting_for_the_store(context: WorkerContext, lease: Lease) -> StoreRetry:
    """Retries while the store is unavailable or the disk full, until the lease is lost or the worker ends.

    It raises LostLease and ShuttingDown as well as StoreUnavailable.
    """

    def check_still_wanted() -> None:
        lease.check()
        if context.shutting_down.is_set():
            raise ShuttingDown("The worker ends while the store is unavailable.")

    return StoreRetry(limit_seconds=MAX_OUTAGE_SECONDS, check=check_still_wanted)


class JobRunner:
    """Runs one claimed job."""

    def __init__(self, context: WorkerContext, claim: Claim, lease: Lease, folder: Path) -> None:
        self.context = context
        self.claim = claim
        self.lease = lease
        self.folder = folder
        self.retry = waiting_for_the_store(context, lease)
        self.recorder = Recorder(context, claim, folder, self.retry)
        self.left = {run.id: run for run in claim.runs if run.state in ("queued", "running")}
        # Runs that failed in earlier attempts are failures of the job as well.
        self.failures = {run.id: run.reason or "" for run in claim.runs if run.state == "failed"}
        self.active: list[str] = []  # the runs that train side by side, or the one that is evaluated
        self.reached: dict[str, float] = {}  # the progress of each run in this training process
        self.crashes: dict[str, tuple[int, int]] = {}  # run → its furthest checkpoint, and crashes since then
        self.several_strengths = len({run.cost_strength for run in claim.runs}) > 1

    def run(self) -> JobOutcome:
        """Run the job to one of its ends. What makes it impossible becomes the job's reason."""
        self.recorder.log("info", f"attempt {self.claim.attempt} begins, by worker {self.claim.worker}")
        try:
            if self.claim.kind != "training":
                raise StoreError(f"A `{self.claim.kind}` is an operation; it was put into a queue for trainings.")
            with self._uploads() as uploads:
                outcome = self._train(uploads)
            self._finish(outcome)
        except LostLease as error:
            log.warning("%s", error)
            return JobOutcome.LEASE_LOST
        except (ShuttingDown, StoreUnavailable) as error:  # the lease lapses, and the next attempt resumes
            log.warning("%s", error)
            return JobOutcome.STORE_AWAY
        except StoreError as error:  # its data are damaged or gone, for instance
            self.recorder.log("error", str(error))
            self._end("failed", str(error))
            return JobOutcome.FAILED
        except Exception as error:
            log.exception("the job failed through an error of the service")
            sentence = (
                f"A fault of the service ended this job ({type(error).__name__}: {error}). Retry it, and report it."
            )
            self._end("failed", sentence)
            return JobOutcome.FAILED
        return outcome

    # --- data ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _uploads(self) -> Iterator[dict[str, Any]]:
        """The uploaded files on this machine, as fields of the request: those of data that are generated are absent."""
        with ExitStack() as stack:

            def path_of(sha256: str) -> Path:
                return self.retry(lambda: stack.enter_context(self.context.files.path(sha256)))

            found: dict[str, Any] = {}
            for part, field in (("dataset", "content"), ("network", "network")):
                said = self.claim.spec.get(part) or {}
                if said.get("kind") == "uploaded":
                    found |= {field: path_of(said["sha256"]), f"{field}_sha256": said["sha256"]}
            yield found

    # --- training --------------------------------------------------------------------------------------

    def _train(self, uploads: dict[str, Any]) -> JobOutcome:
        """Use training processes until all runs have ended, or the job is to stop. Raises StoreError, LostLease."""
        processes = self.context.training_processes
        while self.left:
            self._write_request(uploads)
            self.recorder.log("info", "the engine starts")
            self.lease.report(note="the engine starts")
            failed_before = len(self.failures)
            with ExitStack() as held:
                process = self.retry(lambda: held.enter_context(processes.borrow()))
                process.send(Work(folder=self.folder))
                try:
                    end = self._listen(process)
                except EngineDied as death:
                    self._after_crash(str(death))
                    continue
                except NeedsTooMuchMemory as error:
                    self.recorder.flush()
                    self._fail([run for run in self.active if run in self.left] or [next(iter(self.left))], str(error))
                    continue
                if isinstance(end, JobDone) and self.left:
                    self._after_crash("The training process ended the job, but did not report all of its runs.")
                elif isinstance(end, JobDone) and len(self.failures) == failed_before:
                    processes.keep(end.resident_bytes)
            if isinstance(end, JobOutcome):
                return end
            if isinstance(end, DiskFull):
                self._wait_for_room()
        return JobOutcome.DONE

    def _wait_for_room(self) -> None:
        """The disk was full where the training process had to write; it begins again at its newest checkpoint."""
        self.recorder.log("warning", "There is no room on the worker's disk; the job waits until there is.")
        self.recorder.flush()
        self.retry(lambda: need_room(self.folder))

    def _write_request(self, uploads: dict[str, Any]) -> None:
        """Write what the training process is to do: the runs that are left, each from its newest checkpoint.

        Those that have ended are named too: which runs train side by side follows from all of them. A full disk is
        waited for.
        """
        while True:
            try:
                return self.retry(lambda: self._try_to_write_request(uploads))
            except CheckpointLost as lost:
                self._forget_checkpoint(lost)

    def _try_to_write_request(self, uploads: dict[str, Any]) -> None:
        for resumed in self.folder.glob("resume-*"):
            resumed.unlink()
        request = TrainingRequest(
            job=self.claim.job_id,
            **uploads,
            runs=[self._run_request(run) for run in self.claim.runs],
        )
        (self.folder / "request.json").write_text(request.line())
        self.active, self.reached = [], {}

    def _forget_checkpoint(self, lost: CheckpointLost) -> None:
        """Train again from the beginning where the stored checkpoint is damaged or gone: the bits are the same."""
        self.recorder.log("warning", f"{lost} It was a checkpoint: training starts from the beginning.")
        run_ids = [run for run, kept in self.recorder.checkpoints.items() if kept.sha256 == lost.sha256]
        left = [run for run in run_ids if run in self.left]
        self.recorder.commit_with_retry(lambda session: runs.forget_checkpoints(session, self.claim, left))
        for run_id in run_ids:
            del self.recorder.checkpoints[run_id]

    def _run_request(self, run: Run) -> RunRequest:
        request = RunRequest(id=run.id, seed=run.seed, spec=run.spec, left=run.id in self.left)
        kept = self.recorder.checkpoints.get(run.id) if request.left else None
        if kept is None:
            return request
        name = f"resume-{kept.sha256}"
        if not (self.folder / name).exists():  # runs that train side by side share one
            try:
                content = self.context.files.read(kept.sha256)
            except (DamagedFile, NotFound) as error:
                raise CheckpointLost(kept.sha256, str(error)) from error
            write_whole(self.folder, name, content)
        return request.model_copy(update={"checkpoint": name, "checkpoint_step": kept.step})

    def _listen(self, process: EngineProcess[TrainingMessage]) -> JobDone | DiskFull | JobOutcome:
        """Record its messages until the job is done, CANCELLED or RELEASED. Raises EngineDied, LostLease."""
        stopping: JobOutcome | None = None
        deadline = float("inf")
        settings = self.context.settings
        while True:
            self.lease.check()
            if stopping is not JobOutcome.CANCELLED and self.lease.cancel.is_set():
                stopping, deadline = JobOutcome.CANCELLED, time.monotonic() + settings.cancel_seconds
                process.send(Stop())
            elif stopping is None and self.context.shutting_down.is_set():
                stopping, deadline = JobOutcome.RELEASED, time.monotonic() + settings.drain_seconds
                process.send(Stop())
            try:
                message = process.next_message(LISTEN_SECONDS)
            except EngineDied:
                if stopping:
                    return stopping
                raise
            match message:
                case JobDone():
                    return message
                case DiskFull():
                    return stopping or message
                case JobStopped():
                    return stopping or JobOutcome.RELEASED
                case None:
                    pass
                case _:
                    self._handle_message(message)
            if time.monotonic() > deadline and stopping:
                return stopping  # the process is killed; its newest checkpoint is in the store
            process.check_memory(self.context.job_memory_bytes)
            if process.idle_seconds > settings.idle_seconds:
                raise EngineDied(f"The training made no progress for {process.idle_seconds:.0f} s and was ended.")
            self.recorder.flush_if_due()

    def _handle_message(self, message: TrainingMessage) -> None:
        """Record one message. Raises StoreError for data that cannot be trained on."""
        match message:
            case Ready() | JobDone() | JobStopped() | DiskFull():
                pass
            case ActiveRuns():
                self.active = message.runs
            case TrainingStarted():
                self._training_started(message)
            case HistoryRow():
                self.recorder.row(message.run, message.row)
                losses = {name: value for name, value in message.row.items() if value == value}  # without NaN
                self.lease.report(losses=losses)
            case SnapshotWritten():
                self.recorder.snapshot(message.run, message.step, message.file)
            case CheckpointWritten():
                self.recorder.checkpoint(message.runs, message.step, message.file)
            case RunsProgress():
                self.reached |= dict.fromkeys(message.runs, message.fraction)
                ended = len(self.claim.runs) - len(self.left)
                fraction = (ended + sum(self.reached.get(run, 0.0) for run in self.left)) / len(self.claim.runs)
                self.lease.report(fraction=fraction, note=f"{self._label(message.runs)}: {message.note}")
            case ResultWritten():
                self._publish(message.run, message.file)
            case RunsFailed():
                self._fail(message.runs, message.sentence)
            case DataDamaged():
                dataset = f" of the data set {self.claim.dataset_id}" if self.claim.dataset_id else ""
                raise StoreError(
                    f"The stored file {message.expected_sha256}{dataset} is damaged: its bytes have the SHA-256 "
                    f"{message.found_sha256}. Upload the file again."
                )
            case LogLine():
                self.recorder.log(message.level, message.text, _only(self.active))
            case _:
                assert_never(message)

    def _training_started(self, message: TrainingStarted) -> None:
        """Runs are trained from now on, from their checkpoint or from the beginning."""
        self.active = run_ids = message.runs
        for run_id in run_ids:
            self.recorder.start(run_id)
        begin, resume = ("begins", "goes on") if len(run_ids) == 1 else ("begin", "go on")
        what = f"{resume} at step {message.step}" if message.step else begin
        beside = f", {message.replicas} side by side" if message.replicas > 1 else ""
        text = f"{self._label(run_ids)} {what}, stepper {message.stepper}{beside}"
        self.recorder.log("info", text, _only(run_ids))

    def _label(self, run_ids: Sequence[str]) -> str:
        """How these runs are named in log lines: `seed 3`, or how many they are."""
        if len(run_ids) != 1:
            return f"{len(run_ids)} runs"
        run = next(run for run in self.claim.runs if run.id == run_ids[0])
        strength = f" at λ = {run.cost_strength:g}" if self.several_strengths and run.cost_strength is not None else ""
        return f"seed {run.seed}{strength}"

    def _after_crash(self, how: str) -> None:
        """Resume from the newest checkpoint, unless these runs have crashed too many processes."""
        self.recorder.flush()
        if not self.left:
            self.recorder.log("warning", f"{how} All its results had been stored.")
            return
        run_ids = [run for run in self.active if run in self.left] or [next(iter(self.left))]
        for run_id in run_ids:
            furthest, crashes = self.crashes.get(run_id, (0, 0))
            stored = self.recorder.checkpoints.get(run_id)
            step = stored.step if stored is not None else 0
            # A run that gets further each time is not what ends the process.
            self.crashes[run_id] = (step, 1) if step > furthest else (furthest, crashes + 1)
        given_up = [run_id for run_id in run_ids if self.crashes[run_id][1] >= MAX_CRASHES]
        if len(given_up) > 1:
            self._fail(
                given_up,
                f"{how} It died {MAX_CRASHES} times at one checkpoint of these {len(given_up)} runs, which train side "
                "by side, so they were given up. With fewer seeds and cost strengths in a job, or `stepper: kernel`, "
                "fewer are lost.",
            )
        elif given_up:
            self._fail(given_up, f"{how} It died {MAX_CRASHES} times at one checkpoint, so the run was given up.")
        else:
            text = f"{how} It is started again from its newest checkpoint."
            self.recorder.log("warning", text, _only(run_ids))

    # --- results ---------------------------------------------------------------------------------------

    def _publish(self, run_id: str, file: str) -> None:
        """Files first, then one transaction."""
        result = self.retry(lambda: read_result(self.folder / file, self.context.files))
        now = self.context.now()
        self.recorder.commit_with_retry(lambda session: runs.publish(session, self.claim, run_id, result, now))
        found = f"{_counted(result, 'module')}, {_counted(result, 'connection')}"
        self.recorder.log("info", f"{self._label([run_id])} is done: {found}", run_id)
        del self.left[run_id]
        for kept in self.folder.glob(f"{run_id}-*"):
            kept.unlink()

    def _fail(self, run_ids: Sequence[str], sentence: str) -> None:
        """These runs have failed, for one reason and in one transaction."""
        self.recorder.log("error", sentence, _only(run_ids))
        for run_id in run_ids:
            self.failures[run_id] = sentence
            del self.left[run_id]

        def fail(session: Session) -> None:
            for run_id in run_ids:
                runs.fail(session, self.claim, run_id, reason=sentence, now=self.context.now())

        self.recorder.commit_with_retry(fail)

    def _finish(self, outcome: JobOutcome) -> None:
        """Write the job's state."""
        if outcome is JobOutcome.RELEASED:
            self.recorder.log("info", "the worker ends; the job returns to the queue with its newest checkpoint")
            self._release()
        elif outcome is JobOutcome.CANCELLED:
            self.recorder.log("info", "cancelled")
            self._end("cancelled", "The job was cancelled.")
        elif self.failures:
            by_sentence: dict[str, list[str]] = {}
            for run_id, sentence in self.failures.items():
                by_sentence.setdefault(sentence, []).append(self._label([run_id]))
            reasons = "; ".join(f"{', '.join(labels)}: {sentence}" for sentence, labels in by_sentence.items())
            self._end("failed", f"{len(self.failures)} of {len(self.claim.runs)} runs failed: {reasons}")
        else:
            self._end("succeeded", None)

    def _end(self, state: str, reason: str | None) -> None:
        self.recorder.commit_with_retry(
            lambda session: jobs.finish(session, self.claim, state=state, reason=reason, now=self.context.now())
        )

    def _release(self) -> None:
        self.recorder.retry = StoreRetry(limit_seconds=RELEASE_SECONDS)
        reason, now = "The worker was shut down.", self.context.now()
        self.recorder.commit_with_retry(lambda session: jobs.release(session, self.claim, reason=reason, now=now))


def _only(run_ids: Sequence[str]) -> str | None:
    """The run that a line of the log is about; None where there are several."""
    return run_ids[0] if len(run_ids) == 1 else None


def _counted(result: RunResult, noun: str) -> str:
    """1 module, 2 modules."""
    count = result.summary[f"{noun}s"]
    return f"{count} {noun}{'' if count == 1 else 's'}"
