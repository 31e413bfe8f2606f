"""The training process: `python -m worker.child FOLDER`, one job's runs one after another, then it ends.

It knows the engine and one folder, and nothing of the store: what it finds out it says, one JSON object a line, on
the pipe that it got as its standard output; what is large it leaves as files in the folder and says their names.
It hears one word on its standard input: `stop` (make a checkpoint and go). When its standard input closes, its
parent is gone, and it ends at once.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from bimt_engine.errors import BimtError, CheckpointError
from worker.bar import RunBar

log = logging.getLogger("worker.child")
PROGRESS_SECONDS = 0.5  # a bar that moves twice a second looks alive


class Stopped(Exception):
    """The parent asked us to stop; what was to be kept is kept."""


class Voice:
    """Says things to the parent, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)  # a line at a time
        self._lock = threading.Lock()

    def say(self, what: str, **fields: Any) -> None:
        line = json.dumps({"say": what, **fields}, allow_nan=True)
        with self._lock:
            self._pipe.write(line + "\n")


class Ears:
    """Listens to the parent on a thread of its own."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        threading.Thread(target=self._listen, name="ears", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self.stop.set()
        os._exit(3)  # end of file: the parent is gone, and nobody would read the rest


class LogLines(logging.Handler):
    """Passes the engine's log lines to the parent, who stores them with the job."""

    def __init__(self, voice: Voice) -> None:
        super().__init__(logging.INFO)
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        self._voice.say("log", level=record.levelname.lower(), text=self.format(record))


def leave(folder: Path, name: str, content: bytes) -> str:
    """Write a file whole or not at all, and return its name."""
    unfinished = folder / f".{name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.rename(folder / name)
    return name


class RunTraining:
    """One run: train, gather evidence, draw, and leave everything that is to be published."""

    def __init__(
        self, order: dict[str, Any], folder: Path, content: Path | None, voice: Voice, ears: Ears, bar: RunBar
    ) -> None:
        self.id: str = order["id"]
        self.seed: int = order["seed"]
        self.order = order
        self.folder = folder
        self.content = content
        self.voice = voice
        self.ears = ears
        self.bar = bar
        self.evidence_seconds: float | None = None  # what evidence and pictures took
        self._progress_said_at = 0.0
        self._doing = ""
        self._kept_at: int | None = None  # the step of the newest checkpoint

    def do(self) -> None:
        from bimt_engine.datasets.catalogue import make_dataset
        from bimt_engine.spec import Spec
        from bimt_engine.training.loop import Training

        spec = Spec.model_validate(self.order["spec"])
        dataset = make_dataset(spec.dataset, seed=self.seed, content=self.content)
        training = self.resumed(spec, dataset)
        step = training.state.step if training else 0
        training = training or Training.begin(spec, dataset, seed=self.seed)
        self.voice.say("began", run=self.id, stepper=training.stepper_name, step=step)
        self.train(training)
        self.progress(self.bar.evidence(0.0), "the evidence begins")
        # After the training, which needs none of it: nearly half of all that the engine imports.
        from bimt_engine.analysis.evidence import gather_evidence

        began = time.monotonic()
        evidence = gather_evidence(training.network, dataset, spec, seed=self.seed, progress=self.evidence_progress)
        self.leave_result(spec, dataset, training, evidence, evidence_began=began)

    def resumed(self, spec: Any, dataset: Any) -> Any:
        """The training at its checkpoint; None where there is none, or none that this version can read."""
        from bimt_engine.training.loop import Training

        if not (checkpoint := self.order.get("checkpoint")):
            return None
        try:
            return Training.resume(spec, dataset, (self.folder / checkpoint).read_bytes())
        except CheckpointError as error:
            log.warning("The checkpoint cannot be used, so the run begins anew: %s", error)
            return None

    def train(self, training: Any) -> None:
        """Train to the end, saying rows, snapshots and checkpoints as they come. Raises Stopped."""
        if training.finished:  # only the evidence was missing
            self.progress(self.bar.training(1.0, training.seconds), "training")
            return
        for moment in training.moments():
            step = moment.step
            if moment.row is not None:
                self.voice.say("row", run=self.id, row=moment.row)
            if moment.snapshot is not None:
                name = leave(self.folder, f"{self.id}-snapshot-{step}", moment.snapshot.to_bytes())
                self.voice.say("snapshot", run=self.id, step=step, file=name)
            self.progress(self.bar.training(moment.fraction, training.seconds), "training")
            stopping = self.ears.stop.is_set()
            if moment.checkpoint_due or stopping:
                self.checkpoint(training, step)
            if stopping:
                raise Stopped
        if self._kept_at != training.state.step:  # evidence can be gathered from here without training again
            self.checkpoint(training, training.state.step)

    def checkpoint(self, training: Any, step: int) -> None:
        name = leave(self.folder, f"{self.id}-checkpoint-{step}", training.checkpoint())
        self.voice.say("checkpoint", run=self.id, step=step, file=name)
        self._kept_at = step

    def evidence_progress(self, fraction: float, note: str) -> None:
        if self.ears.stop.is_set():
            raise Stopped
        self.progress(self.bar.evidence(fraction), note)

    def progress(self, fraction: float, note: str) -> None:
        """Say how far the run is: now and then, and whenever something else is being done."""
        now, doing = time.monotonic(), note.partition(":")[0]
        if now - self._progress_said_at >= PROGRESS_SECONDS or doing != self._doing:
            self._progress_said_at, self._doing = now, doing
            self.voice.say("progress", run=self.id, fraction=round(fraction, 4), note=note)

    def leave_result(self, spec: Any, dataset: Any, training: Any, evidence: Any, *, evidence_began: float) -> None:
        """Leave weights, pictures and the evidence as files, and say that the run is ready to be published."""
        from bimt_engine.exports.weights import weights_file
        from bimt_engine.figures.album import album
        from bimt_engine.figures.render import to_png, to_svg

        files = {
            "weights.safetensors": weights_file(
                training.network, evidence.network, spec=spec, seed=self.seed, dataset=dataset
            ),
        }
        self.progress(self.bar.pictures(0), "pictures")
        pictures = album(evidence, dataset)
        figures: dict[str, bytes] = {}
        for number, (name, picture) in enumerate(pictures.items()):
            if self.ears.stop.is_set():
                raise Stopped
            self.progress(self.bar.pictures(number / len(pictures)), f"pictures: {name.replace('-', ' ')}")
            figures |= {f"{name}.svg": to_svg(picture), f"{name}.png": to_png(picture)}
        self.evidence_seconds = time.monotonic() - evidence_began
        result = {
            "document": evidence.document(),
            "dataset": {
                "task": dataset.task,
                "features": list(dataset.feature_names),
                "targets": list(dataset.target_names),
                "train": len(dataset.train_inputs),
                "test": len(dataset.test_inputs),
            },
            "stepper": training.stepper_name,
            "device": str(next(training.network.parameters()).device),
            "training_seconds": training.seconds,
            "evidence_seconds": self.evidence_seconds,
            "files": {name: leave(self.folder, f"{self.id}-{name}", body) for name, body in files.items()},
            "figures": {name: leave(self.folder, f"{self.id}-{name}", body) for name, body in figures.items()},
        }
        name = leave(self.folder, f"{self.id}-result.json", json.dumps(result).encode())
        self.voice.say("result", run=self.id, file=name)


def die_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) to end this process with its parent; elsewhere the closed pipe tells us."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(3)


def main(folder: Path) -> int:
    """Do the runs that FOLDER/order.json names; returns 0 where every run was dealt with or we were told to stop."""
    order = json.loads((folder / "order.json").read_text())
    die_with_parent(order["parent"])
    setproctitle(f"bimt training {order.get('job', '')}")  # so that `ps` says whose it is
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent decides; a signal to the whole group is for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    voice = Voice(os.dup(1))
    os.dup2(2, 1)  # whatever prints, prints into the log
    ears = Ears()
    logging.basicConfig(level=logging.INFO, handlers=[LogLines(voice)], format="%(message)s")
    content = folder / order["content"] if order.get("content") else None
    if content is not None and hashlib.file_digest(content.open("rb"), "sha256").hexdigest() != order["content_sha256"]:
        voice.say("broken", sentence="The stored data file is damaged: its SHA-256 is not its name.")
        return 0
    _one_thread()
    try:
        evidence_seconds: float | None = None  # of the run before
        for told in order["runs"]:
            if ears.stop.is_set():
                raise Stopped
            run = RunTraining(told, folder, content, voice, ears, RunBar(evidence_seconds))
            do_or_say_why_not(run)
            evidence_seconds = run.evidence_seconds or evidence_seconds
        voice.say("done")
    except Stopped:
        voice.say("stopped")
    return 0


def do_or_say_why_not(run: RunTraining) -> None:
    """Do a run. What the engine says about it in a sentence fails this run alone, and so does a fault of ours."""
    try:
        run.do()
    except Stopped:
        raise
    except BimtError as error:
        run.voice.say("failed", run=run.id, sentence=str(error))
    except MemoryError:
        run.voice.say("failed", run=run.id, sentence="The machine's memory did not suffice for this run.")
    except Exception as error:
        log.error("%s", traceback.format_exc())
        sentence = f"A fault of ours ended this run ({type(error).__name__}: {error}); the job's log says where."
        run.voice.say("failed", run=run.id, sentence=sentence)


def _one_thread() -> None:
    """One thread for each training: on a shared machine more are many times slower."""
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
