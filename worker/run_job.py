"""One job, from claim to publish."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from store import jobs, runs
from store.errors import LostLease, StoreError
from store.leases import Claim, ClaimedRun
from store.runs import RunResult
from worker.engine_process import EngineDied, EngineProcess
from worker.lease import Lease
from worker.patience import GaveUp, Patience
from worker.publish import read_result
from worker.recorder import Recorder
from worker.scratch import scratch_folder
from worker.workplace import Workplace

log = logging.getLogger("worker")
LISTEN_SECONDS = 0.1  # between two looks at the lease, at cancel and at the way home
DEATHS = 3  # of the training process during one run, or one batch; then that has failed, and the others go on
AWAY_SECONDS = 6 * 3600.0  # so long an absence of the store is waited out; a night's outage costs no training
LAST_WORDS_SECONDS = 5.0  # on the way home the store gets so long to take the checkpoint


class WentHome(Exception):
    """The worker was asked to end while it waited for the store."""


def run_job(job_id: str, *, here: Workplace) -> str | None:
    """Do the job whose turn it is; the message only says that there is one. Returns how it went, None for nothing."""
    claim = here.claim()
    if claim is None:
        log.info("%s was announced, but nothing waits", job_id)
        return None
    with ExitStack() as stack:
        stack.enter_context(here.busy(claim.job_id))
        stack.enter_context(bound_contextvars(job=claim.job_id, attempt=claim.attempt_id))
        folder = stack.enter_context(scratch_folder(Path(here.settings.spool), claim.job_id))
        lease = stack.enter_context(here.lease(claim))
        return JobAtHand(here, claim, lease, folder).do()


@dataclass(frozen=True)
class Ending:
    """How the work on a job ended: `done`, `cancelled` or `handed back`; and a sentence for each run that failed."""

    how: str
    failures: dict[str, str]


class JobAtHand:
    """A claimed job with all that is needed to do it."""

    def __init__(self, here: Workplace, claim: Claim, lease: Lease, folder: Path) -> None:
        self.here = here
        self.claim = claim
        self.lease = lease
        self.folder = folder
        self.patience = Patience(limit_seconds=AWAY_SECONDS, give_up=self._no_use_in_waiting)
        self.recorder = Recorder(here, claim, folder, self.patience)
        self.left = {run.id: run for run in claim.runs if run.state in ("queued", "running")}
        # An attempt before this one may have seen runs fail: they are the job's failures as well.
        self.failures = {run.id: run.reason or "" for run in claim.runs if run.state == "failed"}
        self.now_at: list[str] = []  # the runs that are trained side by side, or the one that is examined
        self.reached: dict[str, float] = {}  # how far each run has come in this training process
        self.deaths: dict[str, int] = {}
        self.several_strengths = len({run.cost_strength for run in claim.runs}) > 1

    def do(self) -> str:
        """The job as a list. What makes it impossible is said once, in the job's reason."""
        self.recorder.log("info", f"attempt {self.claim.attempt} begins, by worker {self.claim.worker}")
        try:
            if self.claim.kind != "training":
                raise StoreError(f"A `{self.claim.kind}` is an errand; it was put into a queue for trainings.")
            with self._data() as content:
                ending = self._train(content)
            self._settle(ending)
        except LostLease as why:
            log.warning("%s", why)
            return "lost"
        except (WentHome, GaveUp) as why:  # nothing can be written: the lease lapses, and the next attempt goes on
            log.warning("%s", why)
            return "left"
        except StoreError as why:  # its data are damaged or gone, for instance
            self.recorder.log("error", str(why))
            self._end("failed", str(why))
            return "failed"
        except Exception as fault:
            log.exception("the job ends by a fault of ours")
            sentence = f"A fault of ours ended this job ({type(fault).__name__}: {fault}). Try it again, and tell us."
            self._end("failed", sentence)
            return "failed"
        return ending.how

    # --- data ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _data(self) -> Iterator[Path | None]:
        """The uploaded file on this machine; None where the data are made."""
        dataset = self.claim.spec["dataset"]
        if dataset["kind"] != "uploaded":
            yield None
            return
        with ExitStack() as stack:
            yield self.patience.until_done(lambda: stack.enter_context(self.here.files.path(dataset["sha256"])))

    # --- training --------------------------------------------------------------------------------------

    def _train(self, content: Path | None) -> Ending:
        """Run training processes until all runs are dealt with, or somebody wants us to stop."""
        while self.left:
            self._write_order(content)
            self.recorder.log("info", "the engine starts")
            self.lease.tell(note="the engine starts")
            with EngineProcess(self.folder, command=self.here.training) as training:
                try:
                    how = self._listen(training)
                except EngineDied as death:
                    self._after_a_death(str(death))
                    continue
            if how != "done":
                return Ending(how, self.failures)
        return Ending("done", self.failures)

    def _write_order(self, content: Path | None) -> None:
        """Tell the training process what to do: the runs that are left, each from its newest checkpoint.

        Those that have ended are named, too: who trains side by side follows from all of them.
        """
        for resumed in self.folder.glob("resume-*"):
            resumed.unlink()
        order = {
            "parent": os.getpid(),
            "job": self.claim.job_id,
            "content": str(content) if content else None,
            "content_sha256": self.claim.spec["dataset"].get("sha256"),
            "runs": [self._run_order(run) for run in self.claim.runs],
        }
        (self.folder / "order.json").write_text(json.dumps(order))
        self.now_at, self.reached = [], {}

    def _run_order(self, run: ClaimedRun) -> dict[str, Any]:
        order = {"id": run.id, "seed": run.seed, "spec": run.spec, "left": run.id in self.left}
        kept = self.recorder.checkpoints.get(run.id) if order["left"] else None
        if kept is None:
            return order | {"checkpoint": None, "checkpoint_step": None}
        name = f"resume-{kept.sha256}"
        if not (self.folder / name).exists():  # runs that train side by side have one for all
            (self.folder / name).write_bytes(self.here.files.read(kept.sha256))
        return order | {"checkpoint": name, "checkpoint_step": kept.step}

    def _listen(self, training: EngineProcess) -> str:
        """Write down what it says until it is done or is to stop. Raises EngineDied, LostLease."""
        asked: str | None = None
        deadline = float("inf")
        while True:
            self.lease.check()
            if asked != "cancelled" and self.lease.cancel.is_set():
                asked, deadline = "cancelled", time.monotonic() + self.here.settings.cancel_seconds
                training.ask_to_stop()
            elif asked is None and self.here.going_home.is_set():
                asked, deadline = "handed back", time.monotonic() + self.here.settings.drain_seconds
                training.ask_to_stop()
            try:
                message = training.hear(LISTEN_SECONDS)
            except EngineDied:
                if asked:
                    return asked
                raise
            if message is not None:
                if message["say"] == "done":
                    return "done"
                if message["say"] == "stopped":
                    return asked or "handed back"
                self._take_down(message)
            if time.monotonic() > deadline and asked:
                return asked  # it is ended hard; its newest checkpoint is where to go on from
            if training.silence > self.here.settings.silence_seconds:
                raise EngineDied(f"The training made no progress for {training.silence:.0f} s and was ended.")
            self.recorder.flush_now_and_then()

    def _take_down(self, message: dict[str, Any]) -> None:
        """One thing that the training process said."""
        match message["say"]:
            case "at":
                self.now_at = message["runs"]
            case "began":
                self._began(message)
            case "row":
                self.recorder.row(message["run"], message["row"])
                losses = {name: value for name, value in message["row"].items() if value == value}  # without NaN
                self.lease.tell(losses=losses)
            case "snapshot":
                self.recorder.snapshot(message["run"], message["step"], message["file"])
            case "checkpoint":
                self.recorder.checkpoint(message["runs"], message["step"], message["file"])
            case "progress":
                self.reached |= dict.fromkeys(message["runs"], message["fraction"])
                ended = len(self.claim.runs) - len(self.left)
                fraction = (ended + sum(self.reached.get(run, 0.0) for run in self.left)) / len(self.claim.runs)
                self.lease.tell(fraction=fraction, note=f"{self._called(message['runs'])}: {message['note']}")
            case "result":
                self._publish(message["run"], message["file"])
            case "failed":
                self._fail(message["runs"], message["sentence"])
            case "log":
                self.recorder.log(message["level"], message["text"], self._one(self.now_at))
            case other:
                log.warning("the training process said %r, which nobody understands", other)

    def _began(self, message: dict[str, Any]) -> None:
        """Runs are trained from now on, at their checkpoint or at the beginning."""
        self.now_at = run_ids = message["runs"]
        for run_id in run_ids:
            self.recorder.start(run_id)
        step, replicas = message["step"], message["replicas"]
        begin, go_on = ("begins", "goes on") if len(run_ids) == 1 else ("begin", "go on")
        what = f"{go_on} at step {step}" if step else begin
        beside = f", {replicas} side by side" if replicas > 1 else ""
        text = f"{self._called(run_ids)} {what}, stepper {message['stepper']}{beside}"
        self.recorder.log("info", text, self._one(run_ids))

    @staticmethod
    def _one(run_ids: Sequence[str]) -> str | None:
        """The run that a line of the log is about; None where there are several."""
        return run_ids[0] if len(run_ids) == 1 else None

    def _called(self, run_ids: Sequence[str]) -> str:
        """How people tell these runs from the others of their job: `seed 3`, or how many they are."""
        if len(run_ids) != 1:
            return f"{len(run_ids)} runs"
        run = next(run for run in self.claim.runs if run.id == run_ids[0])
        strength = f" at λ = {run.cost_strength:g}" if self.several_strengths and run.cost_strength is not None else ""
        return f"seed {run.seed}{strength}"

    def _after_a_death(self, how: str) -> None:
        """Go on from the newest checkpoint, unless these runs have killed too many processes."""
        self.recorder.flush()
        if not self.left:  # it had nothing more to say than that it is done
            self.recorder.log("warning", f"{how} All its runs had been published.")
            return
        run_ids = [run for run in self.now_at if run in self.left] or [next(iter(self.left))]
        for run_id in run_ids:
            self.deaths[run_id] = self.deaths.get(run_id, 0) + 1
        given_up = [run_id for run_id in run_ids if self.deaths[run_id] >= DEATHS]
        if len(given_up) > 1:
            self._fail(
                given_up,
                f"{how} It died {DEATHS} times while it trained these {len(given_up)} runs side by side, so they were "
                "given up. With fewer seeds and cost strengths in a job, or `stepper: kernel`, fewer are lost at once.",
            )
        elif given_up:
            self._fail(given_up, f"{how} It died {DEATHS} times in this run, so the run was given up.")
        else:
            text = f"{how} It is started again from its newest checkpoint."
            self.recorder.log("warning", text, self._one(run_ids))

    # --- results ---------------------------------------------------------------------------------------

    def _publish(self, run_id: str, file: str) -> None:
        """Files first, then one transaction."""
        result = self.patience.until_done(lambda: read_result(self.folder / file, self.here.files))
        self.recorder.patiently(lambda session: runs.publish(session, self.claim, run_id, result, self.here.now()))
        found = f"{_counted(result, 'module')}, {_counted(result, 'connection')}"
        self.recorder.log("info", f"{self._called([run_id])} is published: {found}", run_id)
        del self.left[run_id]
        for kept in self.folder.glob(f"{run_id}-*"):
            kept.unlink()

    def _fail(self, run_ids: Sequence[str], sentence: str) -> None:
        """These runs have failed, by the same cause and in one transaction."""
        self.recorder.log("error", sentence, self._one(run_ids))
        for run_id in run_ids:
            self.failures[run_id] = sentence
            del self.left[run_id]

        def fail(session: Session) -> None:
            for run_id in run_ids:
                runs.fail(session, self.claim, run_id, reason=sentence, now=self.here.now())

        self.recorder.patiently(fail)

    def _settle(self, ending: Ending) -> None:
        """Give the job its state."""
        if ending.how == "handed back":
            self.recorder.log("info", "the worker ends; the job goes back to the queue with its newest checkpoint")
            self._hand_back()
        elif ending.how == "cancelled":
            self.recorder.log("info", "cancelled")
            self._end("cancelled", "The job was cancelled.")
        elif ending.failures:
            called: dict[str, list[str]] = {}
            for run_id, sentence in ending.failures.items():
                called.setdefault(sentence, []).append(self._called([run_id]))
            reasons = "; ".join(f"{', '.join(those)}: {sentence}" for sentence, those in called.items())
            self._end("failed", f"{len(ending.failures)} of {len(self.claim.runs)} runs failed: {reasons}")
        else:
            self._end("succeeded", None)

    def _end(self, state: str, reason: str | None) -> None:
        self.recorder.patiently(
            lambda session: jobs.finish(session, self.claim, state=state, reason=reason, now=self.here.now())
        )

    def _hand_back(self) -> None:
        self.recorder.patience = Patience(limit_seconds=LAST_WORDS_SECONDS)
        self.recorder.patiently(
            lambda session: jobs.hand_back(session, self.claim, reason="The worker was shut down.", now=self.here.now())
        )

    def _no_use_in_waiting(self) -> None:
        """Asked while the store is away. Raises LostLease, WentHome."""
        self.lease.check()
        if self.here.going_home.is_set():
            raise WentHome("The worker ends while the store is away.")


def _counted(result: RunResult, noun: str) -> str:
    """1 module, 2 modules."""
    count = result.summary[f"{noun}s"]
    return f"{count} {noun}{'' if count == 1 else 's'}"
