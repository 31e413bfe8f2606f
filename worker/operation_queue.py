"""Operations: at most one interactive and one batch operation at a time, each in its own process."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias, assert_never

from structlog.contextvars import bound_contextvars

from store import jobs, operations
from store.errors import LostLease, StoreError
from store.jobs.leases import Claim
from store.settings import OPERATION_QUEUES
from worker.context import WorkerContext, worker_context
from worker.engine_process import (
    EngineDied,
    EngineProcess,
    NeedsTooMuchMemory,
    need_room,
    operation_process,
    scratch_folder,
)
from worker.lease import Lease
from worker.operations import OPERATIONS, OperationKind, OperationResult, request_for
from worker.protocol import (
    Answered,
    DiskFull,
    Failed,
    LogLine,
    OperationMessage,
    OperationProgress,
    Ready,
    Refused,
    Work,
)
from worker.retry import StoreRetry, StoreUnavailable

log = logging.getLogger("worker.operations")
INTERACTIVE = OPERATION_QUEUES[0]
LISTEN_SECONDS = 0.1  # how soon a lost lease, a cancel or a shutdown is noticed
MAX_CRASHES = 2  # of the process in one operation; then the operation has failed
MAX_OUTAGE_SECONDS = 60.0  # of the store; the client waits for an answer
DRAIN_SECONDS = 3.0  # at a shutdown an operation gets so long to end; then it waits for another worker


class Interrupted(Exception):
    """The operation does not come to its end: `how` is `cancelled` or `released`, or a sentence why it failed."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


Outcome: TypeAlias = OperationResult | Refused | Failed | Interrupted


class OneAtATime:
    """A function that never runs twice at once: a call that comes meanwhile makes it run once more afterwards."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._running = self._again = False

    def __call__(self) -> None:
        """Run it, or have it run once more by the thread that is running it."""
        with self._lock:
            if self._running:
                self._again = True
                return
            self._running = True
        while True:
            try:
                self._function()
            except BaseException:
                with self._lock:
                    self._running = self._again = False
                raise
            with self._lock:
                if not self._again:
                    self._running = False
                    return
                self._again = False


class OperationQueue:
    """Claims operations and has them answered by operation processes.

    The process of the interactive queue stays, so that an answer waits for no import. That of the batch queue ends when
    the queue is empty, and returns its memory.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self._processes: dict[str, EngineProcess[OperationMessage]] = {}
        self._folders: dict[str, ExitStack] = {}  # of each process; deleted with it
        self._turns = {queue: OneAtATime(partial(self._serve, queue)) for queue in OPERATION_QUEUES}

    def open(self) -> None:
        """Start the process of the interactive queue."""
        self.process(INTERACTIVE)

    def close(self) -> None:
        """End all processes."""
        for queue in OPERATION_QUEUES:
            self.end_process(queue)

    def serve(self, queue: str) -> None:
        """Answer everything that waits in a queue; where another thread does so already, leave it to that thread."""
        self._turns[queue]()

    def process(self, queue: str) -> EngineProcess[OperationMessage]:
        """The process of a queue, started where there is none or it has ended."""
        process = self._processes.get(queue)
        if process is None or not process.alive:
            self.end_process(queue)
            held = self._folders[queue] = ExitStack()
            folder = held.enter_context(scratch_folder(self.context.spool, f"job_operations-{queue}"))
            process = self._processes[queue] = operation_process(folder, self.context.operation_command)
        return process

    def end_process(self, queue: str) -> None:
        """End the process of a queue, and delete its folder; the next operation gets a new one."""
        if (process := self._processes.pop(queue, None)) is not None:
            process.end()
        if (held := self._folders.pop(queue, None)) is not None:
            held.close()

    def _serve(self, queue: str) -> None:
        context = self.context
        while not context.shutting_down.is_set() and (claim := context.claim(queue)) is not None:
            with ExitStack() as stack:
                stack.enter_context(context.busy(claim.job_id))
                stack.enter_context(bound_contextvars(job=claim.job_id, attempt=claim.attempt_id))
                lease = stack.enter_context(context.lease(claim))
                began = time.monotonic()
                how = OperationRunner(self, claim, lease, queue).run()
                log.info("%s: %s after %.2f s", claim.kind, how, time.monotonic() - began)
        if queue != INTERACTIVE:
            self.end_process(queue)


@cache
def operation_queue() -> OperationQueue:
    """The operation queue of this process."""
    return OperationQueue(worker_context())


class OperationRunner:
    """Runs one claimed operation."""

    def __init__(self, operations: OperationQueue, claim: Claim, lease: Lease, queue: str) -> None:
        self.operations, self.context = operations, operations.context
        self.claim, self.lease = claim, lease
        self.queue = queue
        self.folder = Path()  # made by run
        self.retry = StoreRetry(limit_seconds=MAX_OUTAGE_SECONDS, check=lease.check)
        self._deadline = float("inf")
        self._released_at: float | None = None

    def run(self) -> str:
        """Load the inputs, compute, store the result. Returns the outcome in a word."""
        try:
            kind = OPERATIONS.get(self.claim.kind)
            if kind is None:
                raise StoreError(f"This worker does not know the operation `{self.claim.kind}`; start a newer one.")
            with ExitStack() as held:
                spool, name = self.context.spool, self.claim.job_id
                self.folder = self.retry(lambda: held.enter_context(scratch_folder(spool, name)))
                request = self.retry(lambda: request_for(self.context, self.claim, held))
                self._deadline = time.monotonic() + kind.seconds
                try:
                    outcome: Outcome = self._compute(kind, request)
                except Interrupted as interrupted:
                    outcome = interrupted
                return self._finish(kind, outcome)
        except LostLease as error:
            log.warning("%s", error)
            return "lease lost"
        except StoreUnavailable as error:
            log.warning("%s", error)
            # Where the database is unavailable as well, the lease lapses.
            with contextlib.suppress(Exception), self.context.database.write() as session:
                jobs.release(session, self.claim, reason=str(error), now=self.context.now())
            return "store away"
        except StoreError as error:  # the run was deleted or its data are damaged, for instance
            self._write(jobs.finish, state="failed", reason=str(error))
            return "failed"
        except Exception as error:
            log.exception("the operation failed through an error of the service")
            fault = f"{type(error).__name__}: {error}"
            sentence = f"A fault of the service ended this operation ({fault}). Ask again, and report it."
            self._write(jobs.finish, state="failed", reason=sentence)
            return "failed"

    def _finish(self, kind: OperationKind, outcome: Outcome) -> str:
        match outcome:
            case OperationResult():
                self._write(kind.store, outcome)
                return "answered"
            case Refused():
                self._write(operations.refuse, outcome.sentence, problems=outcome.problems)
                return "refused"
            case Failed():
                self._write(jobs.finish, state="failed", reason=outcome.sentence)
                return "failed"
            case Interrupted(how="cancelled"):
                self._write(jobs.finish, state="cancelled", reason="The operation was cancelled.")
                return "cancelled"
            case Interrupted(how="released"):
                self._write(jobs.release, reason="The worker was shut down.")
                return "released"
            case Interrupted():
                self._write(jobs.finish, state="failed", reason=outcome.how)
                return "failed"
            case _:
                assert_never(outcome)

    # --- computing -------------------------------------------------------------------------------------

    def _compute(self, kind: OperationKind, request: dict[str, Any]) -> OperationResult | Refused | Failed:
        """The result, from the worker itself where the kind says so, else from an operation process."""
        if kind.compute is not None:
            return OperationResult(kind.compute(self.context.settings, request, self._check), {})
        self.retry(lambda: (self.folder / "request.json").write_text(json.dumps(request)))
        crashes = 0
        while crashes < MAX_CRASHES:
            process = self.retry(lambda: self.operations.process(self.queue))
            process.send(Work(folder=self.folder))
            try:
                outcome = self._listen(process)
                if not isinstance(outcome, DiskFull):
                    return outcome
                self.retry(lambda: need_room(self.folder))
            except NeedsTooMuchMemory as error:
                self.operations.end_process(self.queue)
                return Failed(sentence=str(error))
            except EngineDied as death:
                log.warning("%s", death)
                self.operations.end_process(self.queue)
                last = str(death)
                crashes += 1
            except (Interrupted, LostLease):
                self.operations.end_process(self.queue)  # else it would go on computing
                raise
        return Failed(sentence=f"{last} It died {MAX_CRASHES} times at this; perhaps it asks for too much.")

    def _listen(self, process: EngineProcess[OperationMessage]) -> OperationResult | Refused | Failed | DiskFull:
        """Its messages up to the last. Raises EngineDied, Interrupted, LostLease."""
        while True:
            message = process.next_message(LISTEN_SECONDS)
            match message:
                case None | Ready():
                    pass
                case OperationProgress():
                    self.lease.report(fraction=message.fraction, note=message.note)
                case LogLine():
                    log.log(logging.getLevelNamesMapping().get(message.level.upper(), logging.INFO), "%s", message.text)
                case Answered():
                    return self._result()
                case Refused() | Failed() | DiskFull():
                    return message
                case _:
                    assert_never(message)
            process.check_memory(self.context.job_memory_bytes)
            self._check()

    def _check(self) -> None:
        """Raise LostLease, or Interrupted where the operation is to end or has taken too long."""
        self.lease.check()
        now = time.monotonic()
        if self.lease.cancel.is_set():
            raise Interrupted("cancelled")
        if self.context.shutting_down.is_set():
            self._released_at = self._released_at or now + DRAIN_SECONDS
            if now > self._released_at:
                raise Interrupted("released")
        if now > self._deadline:
            seconds = OPERATIONS[self.claim.kind].seconds
            raise Interrupted(f"This took longer than {seconds:.0f} s; ask for less at once.")

    # --- results ---------------------------------------------------------------------------------------

    def _result(self) -> OperationResult:
        """What the process wrote, its files put into the store."""
        answer = json.loads((self.folder / "answer.json").read_text())
        files = self.context.files
        return self.retry(
            lambda: OperationResult(
                answer["document"],
                {name: files.put_path(self.folder / file) for name, file in answer["files"].items()},
                answer.get("figures", {}),
            )
        )

    def _write(self, function: Callable[..., None], *arguments: Any, **more: Any) -> None:
        """One transaction: function(session, claim, …, now=)."""

        def write() -> None:
            with self.context.database.write() as session:
                function(session, self.claim, *arguments, **more, now=self.context.now())

        self.retry(write)
