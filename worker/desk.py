"""Where errands are taken: one that somebody waits for at a time, and one chore beside, each at a bench of its own."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

from structlog.contextvars import bound_contextvars

from store import errands, jobs
from store.errors import LostLease, StoreError
from store.job_tables import ERRAND_QUEUES
from store.leases import Claim
from worker.engine_process import EngineDied, EngineProcess
from worker.errand_kinds import KINDS, Said, order_for
from worker.lease import Lease
from worker.patience import GaveUp, Patience
from worker.scratch import scratch_folder
from worker.workplace import Workplace, workplace

log = logging.getLogger("worker.desk")
LISTEN_SECONDS = 0.1  # between two looks at the lease, at cancel and at the way home
DEATHS = 2  # of the bench at one errand; then that has failed
AWAY_SECONDS = 60.0  # whoever waits for an answer does not wait for a store that is away for longer
LAST_SECONDS = 3.0  # on the way home an errand gets so long to be done; then it waits for another worker


class OneAtATime:
    """A deed that is never done twice at once: a call that comes meanwhile has it done once more afterwards."""

    def __init__(self, deed: Callable[[], None]) -> None:
        self._deed = deed
        self._lock = threading.Lock()
        self._at_it = self._again = False

    def __call__(self) -> None:
        with self._lock:
            if self._at_it:
                self._again = True
                return
            self._at_it = True
        while True:
            try:
                self._deed()
            except BaseException:
                with self._lock:
                    self._at_it = self._again = False
                raise
            with self._lock:
                if not self._again:
                    self._at_it = False
                    return
                self._again = False


class Desk:
    """Takes errands and has them done at benches, which are processes with the engine at hand.

    The bench of `errands` stays, so that an answer waits for no import. That of `chores` ends with each chore and gives
    its memory back.
    """

    def __init__(self, here: Workplace) -> None:
        self.here = here
        self._benches: dict[str, EngineProcess] = {}
        self._held = ExitStack()
        self._turns = {queue: OneAtATime(partial(self._serve, queue)) for queue in ERRAND_QUEUES}

    def open(self) -> None:
        """Have the first bench ready before anybody asks."""
        self.bench("errands")

    def close(self) -> None:
        """End all benches."""
        for bench in self._benches.values():
            bench.end()
        self._benches.clear()
        self._held.close()

    def serve(self, queue: str) -> None:
        """Do all that waits in a queue, or leave it to whoever is at it."""
        self._turns[queue]()

    def bench(self, queue: str) -> EngineProcess:
        """The bench of a queue, started where there is none or it died."""
        bench = self._benches.get(queue)
        if bench is None or not bench.alive:
            if bench is not None:
                bench.end()
            folder = self._held.enter_context(scratch_folder(Path(self.here.settings.spool), f"job_bench-{queue}"))
            bench = self._benches[queue] = EngineProcess(folder, command=self.here.bench, called="bench")
        return bench

    def clear(self, queue: str) -> None:
        """End the bench of a queue; the next errand gets a new one."""
        if (bench := self._benches.pop(queue, None)) is not None:
            bench.end()

    def _serve(self, queue: str) -> None:
        while not self.here.going_home.is_set() and (claim := self.here.claim(queue)) is not None:
            with ExitStack() as stack:
                stack.enter_context(self.here.busy(claim.job_id))
                stack.enter_context(bound_contextvars(job=claim.job_id, attempt=claim.attempt_id))
                folder = stack.enter_context(scratch_folder(Path(self.here.settings.spool), claim.job_id))
                lease = stack.enter_context(self.here.lease(claim))
                began = time.monotonic()
                how = ErrandAtHand(self, claim, lease, folder, queue).do()
                log.info("%s: %s after %.2f s", claim.kind, how, time.monotonic() - began)
        if queue != "errands":
            self.clear(queue)


@cache
def desk() -> Desk:
    """The one of this process."""
    return Desk(workplace())


class ErrandAtHand:
    """A claimed errand with all that is needed to do it."""

    def __init__(self, desk: Desk, claim: Claim, lease: Lease, folder: Path, queue: str) -> None:
        self.desk, self.here = desk, desk.here
        self.claim, self.lease = claim, lease
        self.folder, self.queue = folder, queue
        self.patience = Patience(limit_seconds=AWAY_SECONDS, give_up=lease.check)

    def do(self) -> str:
        """The errand as a list: gather, ask, keep. How it ended, in a word or two."""
        try:
            kind = KINDS.get(self.claim.kind)
            if kind is None:
                raise StoreError(f"This worker does not know how to do a `{self.claim.kind}`; start a newer one.")
            with ExitStack() as stack:
                order = self.patience.until_done(lambda: order_for(self.here, self.claim, self.folder, stack))
                (self.folder / "order.json").write_text(json.dumps(order))
                said = self._ask(kind.seconds)
                match said["say"]:
                    case "answer":
                        self._keep()
                    case "refused":
                        self._finish(errands.refused, said["sentence"], problems=said["problems"])
                    case "failed":
                        self._finish(jobs.finish, state="failed", reason=said["sentence"])
                    case "cancelled":
                        self._finish(jobs.finish, state="cancelled", reason="The errand was cancelled.")
                    case "handed back":
                        self._finish(jobs.hand_back, reason="The worker was shut down.")
                return str(said["say"])
        except LostLease as why:
            log.warning("%s", why)
            return "lost"
        except GaveUp as why:  # nothing can be written: the lease lapses, and the next attempt begins anew
            log.warning("%s", why)
            return "left"
        except StoreError as why:  # the run was deleted or its data are damaged, for instance
            self._finish(jobs.finish, state="failed", reason=str(why))
            return "failed"
        except Exception as fault:
            log.exception("the errand ends by a fault of ours")
            sentence = f"A fault of ours ended this errand ({type(fault).__name__}: {fault}). Ask again, and tell us."
            self._finish(jobs.finish, state="failed", reason=sentence)
            return "failed"

    def _ask(self, seconds: float) -> dict[str, Any]:
        """What the bench says in the end; of a bench that dies or takes too long, what we say in its place."""
        for _ in range(DEATHS):
            bench = self.desk.bench(self.queue)
            bench.tell(f"do {self.folder}")
            try:
                return self._listen(bench, seconds)
            except EngineDied as death:
                log.warning("%s", death)
                self.desk.clear(self.queue)
                last = str(death)
        return {"say": "failed", "sentence": f"{last} It died {DEATHS} times at this; perhaps it asks for too much."}

    def _listen(self, bench: EngineProcess, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        home_by: float | None = None
        while True:
            try:
                self.lease.check()
            except LostLease:
                self.desk.clear(self.queue)
                raise
            message = bench.hear(LISTEN_SECONDS)
            now = time.monotonic()
            if message is not None:
                match message["say"]:
                    case "progress":
                        self.lease.tell(fraction=message["fraction"], note=message["note"])
                    case "log":
                        log.log(logging.getLevelNamesMapping().get(message["level"].upper(), 20), "%s", message["text"])
                    case "answer" | "refused" | "failed":
                        return message
            if home_by is None and self.here.going_home.is_set():
                home_by = now + LAST_SECONDS
            ending = (
                {"say": "cancelled"}
                if self.lease.cancel.is_set()
                else {"say": "handed back"}
                if home_by is not None and now > home_by
                else {"say": "failed", "sentence": f"This took longer than {seconds:.0f} s; ask for less at once."}
                if now > deadline
                else None
            )
            if ending is not None:
                self.desk.clear(self.queue)  # it would go on for nobody
                return ending

    def _keep(self) -> None:
        """Files first, then one transaction."""
        answer = json.loads((self.folder / "answer.json").read_text())
        put = self.patience.until_done(
            lambda: {name: self.here.files.put_path(self.folder / file) for name, file in answer["files"].items()}
        )
        said = Said(answer["document"], put)
        self._finish(KINDS[self.claim.kind].keep, said)

    def _finish(self, deed: Callable[..., None], *what: Any, **more: Any) -> None:
        def write() -> None:
            with self.here.database.write() as session:
                deed(session, self.claim, *what, **more, now=self.here.now())

        self.patience.until_done(write)
